# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Letting a server join a cluster. Private to holdfast.raft."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import ClusterView, Node, Server, role_of
from ansible_collections.holdfast.raft.plugins.module_utils._custody import read_secret_file
from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError, Refused, Sealed, TimedOut, Unreachable
from ansible_collections.holdfast.raft.plugins.module_utils._membership import informed_view, reconcile
from ansible_collections.holdfast.raft.plugins.module_utils._planner import ABSENT
from ansible_collections.holdfast.raft.plugins.module_utils._session import RAFT, Cluster, read_node
from ansible_collections.holdfast.raft.plugins.module_utils._unseal import needed, unseal
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import Waiter

PEM = ("leader_ca_cert", "leader_client_cert", "leader_client_key")
FIELDS = ("leader_api_addr", "auto_join", "auto_join_scheme", "auto_join_port", "leader_tls_servername", "retry", "non_voter")


def request_of(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The body of C(join): the fields that were given, certificates read from their files."""
    body = {name: params[name] for name in (*FIELDS, *PEM) if params[name]}
    for name in PEM:
        if params[f"{name}_file"]:
            body[name] = read_secret_file(params[f"{name}_file"]).decode("utf-8", "replace")
    if ("leader_client_cert" in body) != ("leader_client_key" in body):
        raise RaftError("leader_client_cert and leader_client_key belong together; one is missing")
    return body


@dataclasses.dataclass
class Join:
    """One run: observe, join, finish. C(cluster) is None without a token: then the membership stays unknown."""

    joiner: Client
    node_id: str
    cluster: Cluster | None
    request: t.Mapping[str, t.Any]
    shares: t.Sequence[str]
    role: str
    wait_for: str
    replace: bool
    waiter: Waiter
    node: Node = dataclasses.field(init=False)
    view: ClusterView | None = None
    unseen: str = ""  # why the membership could not be read the last time; empty when it was

    def observe(self) -> dict[str, t.Any]:
        """Reads both sides. Raises Refused when the server does not belong here."""
        self.node = self.waiter.until(lambda: read_node(self.joiner), lambda node: True, f"{self.joiner.url} to answer", (Unreachable,))
        self.view = self._read_view()
        self._refuse()
        return self._state()

    def predict(self) -> dict[str, t.Any]:
        """The state that the run would lead to."""
        sealed = self.node.sealed and not self.shares and (not self.node.initialized or self.node.seal_type == "shamir")
        member, role = self._member(), self.role.replace("_", "-") if self.cluster else "unknown"
        if role == "voter" and self.wait_for == "member" and not (member and member.voter):
            role = "learner"
        return {"initialized": True, "sealed": sealed, "role": role}

    def join(self) -> None:
        """Phase one, where it is needed."""
        member = self._member()
        if self.node.initialized and (member or self.view is None or not self.node.sealed):
            return
        if member and self.cluster:
            reconcile(self.cluster, {self.node_id: ABSENT}, self.waiter)
        self.joiner.put(f"{RAFT}/join", self.request)
        self.node = self.waiter.until(lambda: read_node(self.joiner), lambda node: node.initialized, f"{self.joiner.url} to begin the join")

    def finish(self, wait: bool) -> dict[str, t.Any]:
        """Phase two and the waiting: unsealed, a member, and in its role, as far as shares and token allow it."""
        if self.node.sealed and self.shares:
            unseal(self.joiner, self.shares, self.waiter, wait)
        self.node = read_node(self.joiner)
        if self.cluster and wait and not self.node.sealed:
            self._arrive()
            reconcile(self.cluster, {self.node_id: self.role}, self.waiter, wait=self.wait_for == "role")
        self.view = self._read_view()
        return self._state()

    def _arrive(self) -> None:
        """Waits until the leader lists the server; one that is unsealed and never listed, while there is a leader, is some
        other cluster's."""
        seen = False

        def listed() -> Server | None:
            nonlocal seen
            view = self._read_view()
            seen = seen or view is not None
            return view.get(self.node_id) if view else None

        try:
            self.waiter.until(listed, bool, f"{self.node_id} to be a member")
        except TimedOut as exc:
            if not seen and self.cluster:
                raise Unreachable(f"no leader reached: {', '.join(self.cluster.urls)}: {self.unseen}") from exc
            raise Refused(
                f"{exc}; if {self.joiner.url} belongs to another cluster, stop it, empty its data directory and start it"
            ) from exc

    def _read_view(self) -> ClusterView | None:
        """None when nobody can tell: no token, or no leader (all sealed after a restart, say)."""
        if self.cluster is None:
            return None
        try:
            view = informed_view(self.cluster, self.waiter)
        except (Unreachable, Sealed) as exc:
            self.unseen = str(exc)
            return None
        self.unseen = ""
        return view

    def _member(self) -> Server | None:
        return self.view.get(self.node_id) if self.view else None

    def _state(self) -> dict[str, t.Any]:
        member = self._member()
        role = role_of(member) if member else ("absent" if self.view else "unknown")
        return {"initialized": self.node.initialized, "sealed": self.node.sealed, "role": role}

    def _refuse(self) -> None:
        member, node = self._member(), self.node
        wipe = "stop it, empty its data directory, start it, and run again"
        if node.removed:
            raise Refused(f"{node.url} was removed from its cluster and still holds its old data: {wipe}")
        if node.initialized and not node.sealed and self.view and member is None:
            raise Refused(f"{node.url} is a server of another cluster ({self._whose()}), or was removed from this one: {wipe}")
        if member and member.voter and not node.initialized and not self.replace:
            raise Refused(
                f"{self.node_id} is a voter of this cluster already, but {node.url} is empty: give it another node_id, or, if "
                "it lost its disk, remove the old member first: with playbooks, ansible-playbook holdfast.raft.shrink "
                f"-e holdfast_remove={self.node_id} -e holdfast_wipe=false (the host's name), then holdfast.raft.build; with "
                "modules, raft_peer with state=absent, or replace"
            )
        if member and member.healthy and not node.initialized and member.api_address.rstrip("/") not in ("", node.url):
            raise Refused(f"{self.node_id} is in use by the server at {member.api_address}; give {node.url} another node_id")
        if node.initialized and node.sealed and node.seal_type == "shamir" and self.shares:
            needed(node, self.shares)

    def _whose(self) -> str:
        """The cluster_id of the server, to compare with that of the cluster."""
        return f"cluster_id {self.node.cluster_id or 'unknown'}"
