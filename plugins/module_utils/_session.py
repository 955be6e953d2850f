# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Reading a cluster over the API: one node, the leader, the membership. Private to holdfast.raft."""

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.holdfast.raft.plugins.module_utils._client import Client, Settings
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import ClusterView, Node, parse_node, parse_view
from ansible_collections.holdfast.raft.plugins.module_utils._errors import (
    ApiError,
    NotFound,
    RaftError,
    Sealed,
    Unreachable,
)

# Every state answers 200, so that the body is there to be read (sys/health puts the state into the status otherwise).
HEALTH = (
    "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200&removedcode=200&drsecondarycode=200&haunhealthycode=200"
)
RAFT = "sys/storage/raft"


def read_node(client: Client) -> Node:
    """The state of one address; raises Unreachable or ApiError."""
    seal = client.get("sys/seal-status").body
    health = client.get(HEALTH, ok=(200, 429, 472, 473, 474, 501, 503, 530)).body
    leader: t.Mapping[str, t.Any] = {}
    if seal.get("initialized") and not seal.get("sealed"):
        try:
            leader = client.get("sys/leader").body
        except (ApiError, Unreachable):
            leader = {}  # sealed, or cut off from its cluster, between two calls: a state like any other
    return parse_node(client.url, seal, health, leader)


def try_node(client: Client) -> Node:
    """As read_node, but what went wrong is in C(error)."""
    try:
        return read_node(client)
    except (Unreachable, ApiError) as exc:
        return Node(url=client.url, error=str(exc))


def read_nodes(urls: t.Sequence[str], settings: Settings) -> list[Node]:
    """All addresses at once; an address that does not answer costs its time-out only once."""
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(urls)))) as pool:
        return list(pool.map(lambda url: try_node(Client(url, settings)), urls))


class Cluster:
    """A cluster reached through any of C(urls). Remembers every API address it hears of, so that it survives the removal
    of the server it talked to first."""

    def __init__(self, urls: t.Sequence[str], settings: Settings) -> None:
        if not urls:
            raise RaftError("no API address given; set the option url or the environment variable VAULT_ADDR or BAO_ADDR")
        self.urls = [url.rstrip("/") for url in urls]
        self.settings = settings
        self._clients: dict[str, Client] = {}  # one connection per server, kept open between readings

    def leader(self) -> Client:
        """The client of the leader. Raises Unreachable when no address knows one that answers."""
        reasons = []
        for url in list(self.urls):
            client = self._client(url)
            try:
                found = client.get("sys/leader").body
                if found.get("is_self"):
                    return client
                address = found.get("leader_address", "").rstrip("/")
                if not address:
                    reasons.append(f"{url} knows no leader")
                elif self._client(address).get("sys/leader").body.get("is_self"):
                    self._learn([address])
                    return self._client(address)
                else:
                    reasons.append(f"{url} names {address}, which does not lead any more")
            except Sealed:
                reasons.append(f"{url} is sealed or not initialised")
            except (ApiError, Unreachable) as exc:
                reasons.append(str(exc))
        raise Unreachable("no leader found: " + "; ".join(reasons))

    def view(self) -> ClusterView:
        """The membership, from the leader."""
        return self.view_at(self.leader())

    def view_at(self, client: Client) -> ClusterView:
        """The membership as C(client) shows it."""
        configuration = client.get(f"{RAFT}/configuration").data
        view = parse_view(configuration, _optional(client, f"{RAFT}/autopilot/state"), _optional(client, "sys/ha-status"))
        self._learn(server.api_address for server in view.servers)
        return view

    def _client(self, url: str) -> Client:
        return self._clients.get(url) or self._clients.setdefault(url, Client(url, self.settings))

    def _learn(self, urls: t.Iterable[str]) -> None:
        self.urls += [url.rstrip("/") for url in urls if url and url.rstrip("/") not in self.urls]


def _optional(client: Client, path: str) -> t.Mapping[str, t.Any] | None:
    """None where the server has nothing (autopilot right after an election, or switched off) or the token may not look."""
    try:
        return client.get(path).data
    except NotFound:
        return None
    except ApiError as exc:
        if exc.status in (400, 403, 405, 500):
            return None
        raise
