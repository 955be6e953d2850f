# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Saving and restoring snapshots over the API. Private to holdfast.raft."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils import _archive
from ansible_collections.holdfast.raft.plugins.module_utils._client import Client, Settings
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import Node
from ansible_collections.holdfast.raft.plugins.module_utils._errors import (
    ApiError,
    ArchiveError,
    CustodyError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RaftError,
    Refused,
    Unreachable,
)
from ansible_collections.holdfast.raft.plugins.module_utils._session import RAFT, Cluster, read_nodes, try_node
from ansible_collections.holdfast.raft.plugins.module_utils._unseal import unseal
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import Waiter

# The sentence of Vault and OpenBao for a snapshot whose sealed sums this cluster cannot open.
OTHER_CLUSTER = "could not verify hash file"


def save(cluster: Cluster, path: str) -> tuple[bool, _archive.Archive]:
    """Streams a snapshot from the leader to C(path) (0600), checked before it gets its name.

    Returns whether the file is new or holds another state than before; a file of the same state is left as it is.
    """
    old = described(path)
    directory = os.path.dirname(os.path.abspath(path))
    try:
        fd, partial = tempfile.mkstemp(prefix=".snapshot-", dir=directory)
    except OSError as exc:
        raise CustodyError(f"no file can be made in {directory}: {exc.strerror}") from exc
    try:
        with os.fdopen(fd, "wb") as stream:
            cluster.leader().download(f"{RAFT}/snapshot", stream.write)
            stream.flush()
            os.fsync(stream.fileno())
        new = _archive.check(partial)
        if old is not None and old.state_sha256 == new.state_sha256:
            return False, old
        os.replace(partial, path)
        return True, new
    except OSError as exc:
        raise ArchiveError(f"{path} could not be written: {exc.strerror}") from exc
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def authorised(leader: Client) -> None:
    """For check mode: raises Forbidden when the token is not one of this cluster."""
    leader.get(f"{RAFT}/configuration")


def described(path: str) -> _archive.Archive | None:
    """What is in a file that is a snapshot already, else None."""
    try:
        return _archive.check(path) if os.path.exists(path) else None
    except ArchiveError:
        return None


@dataclasses.dataclass
class Restore:
    """One restore: C(send), then C(finish). C(nodes) are all servers, which must all follow."""

    cluster: Cluster
    path: str
    force: bool
    shares: t.Sequence[str]
    waiter: Waiter
    before: t.Sequence[Node] = ()
    foreign: bool = False

    def observe(self) -> Client:
        """The leader. Reads the state of every server that is known; raises Unreachable without a leader."""
        settings = self.cluster.settings
        leader = self.cluster.leader()
        with contextlib.suppress(ApiError):
            self.cluster.view_at(leader)  # learns the addresses of all servers
        self.before = read_nodes(self.cluster.urls, settings)
        return leader

    def send(self, leader: Client) -> None:
        """Uploads the file to the leader, which verifies it before anything changes.

        The normal call comes first, with C(force) too: it says whether the snapshot is of another cluster, and only then
        is the check of its seal bypassed.
        """
        try:
            self._upload(leader, "snapshot")
        except ApiError as exc:
            if not exc.says(OTHER_CLUSTER):
                raise
            if not self.force:
                raise Refused(
                    f"{self.path} was made by a cluster with other unseal shares, so {leader.url} refused it and nothing was "
                    "changed; to replace this cluster's data all the same, set force and give that cluster's shares",
                    status=exc.status,
                    url=exc.url,
                ) from exc
            if not self.shares:
                raise Refused(
                    "a snapshot of another cluster leaves every server sealed; give that cluster's unseal shares with it"
                ) from exc
            self.foreign = True
            self._upload(leader, "snapshot-force")

    def left_out(self) -> list[str]:
        """Servers that were not in service before, and so are not waited for."""
        return [node.url for node in self.before if not node.reachable or node.sealed]

    def finish(self) -> list[Node]:
        """Waits until every server that was in service before is so again, on the restored state, unsealing with the
        snapshot's shares where it is another cluster's. Raises TimedOut with what is wrong where that does not come about."""
        urls = [node.url for node in self.before if node.reachable and (self.foreign or not node.sealed)]
        settings = self.cluster.settings
        if self.foreign:
            for url in urls:
                self._open(Client(url, settings))
        nodes = self.waiter.until(
            lambda: [try_node(Client(url, settings)) for url in urls],
            lambda found: self._settled(found, settings),
            "every server to hold the restored state",
            tolerate=(Unreachable, ApiError),
            describe=lambda found: "; ".join(_wrong(node) for node in found if _wrong(node)) or "no leader serves requests yet",
        )
        return nodes

    def _upload(self, leader: Client, call: str) -> None:
        try:
            with open(self.path, "rb") as stream:
                leader.upload(f"{RAFT}/{call}", stream, timeout=max(self.waiter.left(), leader.settings.timeout))
        except OSError as exc:
            raise ArchiveError(f"{self.path} cannot be read: {exc.strerror}") from exc
        except OutcomeUnknown as exc:
            raise RaftError(f"whether the restore began is not known ({exc}); look at the cluster before trying again") from exc

    def _open(self, client: Client) -> None:
        """Waits until the server shows the seal of the snapshot, then unseals it; repeats while its keys are not loaded yet."""

        def attempt() -> bool:
            node = try_node(client)
            if not node.reachable or not node.sealed:
                return False
            unseal(client, self.shares, self.waiter, wait=False)
            return not try_node(client).sealed

        self.waiter.until(attempt, bool, f"{client.url} to be unsealed with the snapshot's shares", tolerate=(RaftError,))

    def _settled(self, nodes: t.Sequence[Node], settings: Settings) -> bool:
        """Unsealed everywhere, at least as far as the leader was, and the leader routes requests again."""
        if any(_wrong(node) for node in nodes):
            return False
        leader = next((node for node in nodes if node.is_leader), None)
        if leader is None:
            return False
        target = leader.committed_index or 0
        if any((node.applied_index or 0) < target for node in nodes) or not self._moved(leader):
            return False
        return _routes(Client(leader.url, settings))

    def _moved(self, leader: Node) -> bool:
        """Whether the leader is past what was committed before: a restore always moves the index on."""
        was = max((node.committed_index or 0 for node in self.before), default=0)
        return self.foreign or (leader.applied_index or 0) > was


def _wrong(node: Node) -> str:
    if not node.reachable:
        return node.error
    if node.sealed:
        return f"{node.url} is sealed"
    return ""


def _routes(client: Client) -> bool:
    """Whether a routed request is answered. The token may be gone with the restored state: a 403 is an answer, too."""
    try:
        client.get("sys/mounts")
    except (Forbidden, NotFound):
        return True
    except ApiError as exc:
        return exc.status < 500
    return True
