# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Initialising the first server of a cluster. Private to holdfast.raft."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import Node
from ansible_collections.holdfast.raft.plugins.module_utils._custody import Custody, shares_in, token_in
from ansible_collections.holdfast.raft.plugins.module_utils._errors import (
    ApiError,
    OutcomeUnknown,
    RaftError,
    Refused,
    Unreachable,
)
from ansible_collections.holdfast.raft.plugins.module_utils._session import RAFT, read_node, read_nodes
from ansible_collections.holdfast.raft.plugins.module_utils._unseal import unseal
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import Waiter

SHAMIR = ("secret_shares", "secret_threshold", "pgp_keys")
AUTOMATIC = ("recovery_shares", "recovery_threshold", "recovery_pgp_keys")


def request_of(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The fields of C(sys/init) that were given. Raises RaftError when they cannot be right."""
    for shares, threshold, keys in (SHAMIR, AUTOMATIC):
        n, k = params[shares], params[threshold]
        if not 1 <= k <= n <= 255 or (k == 1 and n > 1):
            raise RaftError(f"{threshold} {k} of {shares} {n} is impossible: 1 of 1, or 2 to n of n with n up to 255")
        if params[keys] and len(params[keys]) != n:
            raise RaftError(f"{keys} has {len(params[keys])} keys for {n} shares; one is needed per share")
    return {name: params[name] for name in (*SHAMIR, *AUTOMATIC, "root_token_pgp_key") if params[name] is not None}


@dataclasses.dataclass
class Bootstrap:
    """One run: observe, then initialize, unseal, activate_ha_storage as wanted."""

    client: Client
    peers: t.Sequence[str]
    custody: Custody
    request: t.Mapping[str, t.Any]
    waiter: Waiter
    kept: bytes | None = None
    nodes: t.Sequence[Node] = ()

    def observe(self) -> dict[str, t.Any]:
        """Reads all servers and the custody. Raises Refused where going on would lose or overwrite shares."""
        self.waiter.until(lambda: read_node(self.client), lambda node: True, f"{self.client.url} to answer", (Unreachable,))
        peers = [url.rstrip("/") for url in self.peers if url.rstrip("/") != self.client.url]
        self.nodes = read_nodes([self.client.url, *peers], self.client.settings)
        self.kept = self.custody.read()
        if not self.nodes[0].reachable:
            raise Unreachable(self.nodes[0].error)
        self._refuse()
        return self._state(self.nodes[0])

    @property
    def initialized_url(self) -> str:
        """A server that is initialised, unsealed and leading rather than not; empty when there is none."""
        found = sorted((n for n in self.nodes if n.initialized), key=lambda n: (n.sealed, not n.is_leader))
        return found[0].url if found else ""

    def predict(self, unseal: bool, ha_storage: bool) -> dict[str, t.Any]:
        """The state that the run would lead to."""
        state = self._state(self.nodes[0])
        if not self.initialized_url:
            state["initialized"] = True
        if state["initialized"] and unseal:
            state["sealed"] = False
        if ha_storage:
            state["members"] = True
        return state

    def initialize(self) -> bytes | None:
        """Initialises the server unless the cluster is; the answer is in custody before anything else happens."""
        if self.initialized_url:
            return None
        automatic = self.nodes[0].seal_type not in ("", "shamir")
        fields = {k: v for k, v in self.request.items() if k not in (SHAMIR if automatic else AUTOMATIC)}
        self.custody.prepare()
        try:
            answer = self.client.put_raw("sys/init", fields)
        except OutcomeUnknown:
            if read_node(self.client).initialized:
                raise Refused(self._lost()) from None
            self.custody.abandon()
            raise
        except RaftError:
            self.custody.abandon()
            raise
        self.custody.keep(answer)
        self.kept = answer
        self.nodes = [dataclasses.replace(self.nodes[0], initialized=True), *self.nodes[1:]]
        return answer

    def unseal(self, wait: bool) -> None:
        """Unseals the server if it is initialised, and waits until it leads: only then can others join."""
        if not self.nodes[0].initialized:
            return
        unseal(self.client, shares_in(self.kept), self.waiter, wait)
        if wait and len([node for node in self.nodes if node.initialized]) == 1:
            self.waiter.until(
                lambda: read_node(self.client),
                lambda node: bool(node.is_leader or node.leader_address),
                f"{self.client.url} to know a leader",
                tolerate=(Unreachable, ApiError),
            )

    def activate_ha_storage(self) -> None:
        """Bootstraps Raft where it is used for ha_storage only and has no members yet."""
        client = self._with_token()
        if not _members(client):
            client.put(f"{RAFT}/bootstrap", {})
            self.waiter.until(lambda: _members(client), bool, f"Raft to be active on {client.url}")

    def _state(self, node: Node) -> dict[str, t.Any]:
        state: dict[str, t.Any] = {"initialized": node.initialized, "sealed": node.sealed}
        if node.initialized and not node.sealed and node.storage_type not in ("", "raft"):
            state["members"] = _members(self._with_token())
        return state

    def _with_token(self) -> Client:
        settings = self.client.settings
        return Client(self.client.url, dataclasses.replace(settings, token=settings.token or token_in(self.kept)))

    def _refuse(self) -> None:
        node = self.nodes[0]
        if self.initialized_url:
            if node.initialized and self.kept is None and self.custody.interrupted():
                raise Refused(self._lost())
            return
        if shares_in(self.kept):
            raise Refused(
                "no server is initialised, but the place of custody holds shares already, which are never overwritten; move "
                "them away if their cluster is gone, or start its servers on their old data"
            )
        silent = [peer.url for peer in self.nodes if not peer.reachable]
        if silent:
            raise Unreachable(f"{', '.join(silent)} does not answer, so it may belong to a cluster that is initialised; nothing was done")

    def _lost(self) -> str:
        return (
            f"{self.client.url} was initialised, but the run was cut off before its shares were written: nobody has them, and "
            "the server holds nothing yet. Stop it, empty its data directory, start it, and run again"
        )


def _members(client: Client) -> bool:
    """Whether Raft has members on this server."""
    try:
        return bool((client.get(f"{RAFT}/configuration").data.get("config") or {}).get("servers"))
    except ApiError as exc:
        if exc.status in (400, 404, 500):
            return False
        raise
