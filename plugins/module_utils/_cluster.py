# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What was seen of a cluster, as frozen values. Pure: no IO. Private to holdfast.raft.

Shapes are those of the answers of C(sys/health), C(sys/seal-status), C(sys/leader), C(sys/ha-status),
C(sys/storage/raft/configuration) and C(sys/storage/raft/autopilot/state) of Vault and OpenBao.
"""

from __future__ import annotations

import dataclasses
import typing as t

Json = t.Mapping[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Server:
    """A member as the leader's configuration and autopilot show it.

    C(healthy) and C(permanent_non_voter) are None where autopilot says nothing. A server that is neither a voter nor a
    permanent non-voter is a learner: it will become a voter by itself once it is caught up and stable.
    """

    node_id: str
    address: str
    voter: bool
    leader: bool = False
    healthy: bool | None = None
    permanent_non_voter: bool | None = None
    last_index: int | None = None
    api_address: str = ""

    @property
    def state(self) -> str:
        """C(leader) or C(follower), as C(operator raft list-peers) prints it."""
        return "leader" if self.leader else "follower"


@dataclasses.dataclass(frozen=True)
class ClusterView:
    """The membership at one moment, read from the leader."""

    servers: tuple[Server, ...]
    failure_tolerance: int | None = None

    @property
    def leader(self) -> Server | None:
        return next((server for server in self.servers if server.leader), None)

    @property
    def voters(self) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.voter)

    @property
    def majority(self) -> int:
        """How many voters must agree."""
        return len(self.voters) // 2 + 1

    @property
    def has_quorum(self) -> bool:
        """Whether the voters known to be healthy are a majority of all voters."""
        return sum(1 for server in self.voters if server.healthy) >= self.majority

    def get(self, node_id: str) -> Server | None:
        return next((server for server in self.servers if server.node_id == node_id), None)

    def without(self, node_id: str) -> ClusterView:
        """The view after C(node_id) left."""
        return dataclasses.replace(self, servers=tuple(s for s in self.servers if s.node_id != node_id))

    def having(self, server: Server) -> ClusterView:
        """The view with C(server) in place of the one of the same node_id, or added."""
        kept = [s for s in self.servers if s.node_id != server.node_id]
        return dataclasses.replace(self, servers=tuple(sorted([*kept, server], key=lambda s: s.node_id)))

    def led_by(self, node_id: str) -> ClusterView:
        """The view after leadership moved to C(node_id)."""
        return dataclasses.replace(self, servers=tuple(dataclasses.replace(s, leader=s.node_id == node_id) for s in self.servers))

    def summary(self) -> dict[str, str]:
        """node_id -> C(voter), C(learner) or C(non-voter): what a diff shows."""
        return {server.node_id: role_of(server) for server in self.servers}


def role_of(server: Server) -> str:
    """C(voter), C(non-voter) (it stays one) or C(learner) (it will become a voter)."""
    if server.voter:
        return "voter"
    return "learner" if server.permanent_non_voter is False else "non-voter"


def parse_view(configuration: Json, autopilot: Json | None, ha_status: Json | None) -> ClusterView:
    """Joins the C(data) of the three answers into one view; C(autopilot) and C(ha_status) may be missing."""
    states = (autopilot or {}).get("servers") or {}
    addresses = {hostport(node.get("cluster_address", "")): node.get("api_address", "") for node in (ha_status or {}).get("nodes") or []}
    servers = []
    for entry in (configuration.get("config") or {}).get("servers") or []:
        state = states.get(entry["node_id"]) or {}
        node_type = state.get("node_type")
        leader = bool(entry.get("leader"))
        servers.append(
            Server(
                node_id=entry["node_id"],
                address=entry.get("address", ""),
                voter=bool(entry.get("voter")),
                leader=leader,
                # The leader has just answered; autopilot may not know it yet right after an election.
                healthy=True if leader else state.get("healthy"),
                permanent_non_voter=None if node_type is None else node_type == "non-voter",
                last_index=state.get("last_index"),
                api_address=addresses.get(entry.get("address", ""), ""),
            )
        )
    tolerance = (autopilot or {}).get("failure_tolerance")
    return ClusterView(servers=tuple(sorted(servers, key=lambda s: s.node_id)), failure_tolerance=tolerance)


@dataclasses.dataclass(frozen=True)
class Node:
    """One API address as it shows itself without a token. C(error) is set when it did not answer; nothing else counts then."""

    url: str
    error: str = ""
    initialized: bool = False
    sealed: bool = True
    standby: bool = True
    removed: bool = False
    seal_type: str = ""
    threshold: int = 0
    shares: int = 0
    progress: int = 0
    nonce: str = ""
    storage_type: str = ""
    version: str = ""
    cluster_id: str = ""
    cluster_name: str = ""
    is_leader: bool = False
    leader_address: str = ""
    applied_index: int | None = None
    committed_index: int | None = None

    @property
    def reachable(self) -> bool:
        return not self.error

    @property
    def active(self) -> bool:
        """Unsealed and the leader."""
        return self.reachable and self.initialized and not self.sealed and self.is_leader

    def as_dict(self) -> dict[str, t.Any]:
        return {**dataclasses.asdict(self), "reachable": self.reachable}


def parse_node(url: str, seal: Json, health: Json, leader: Json) -> Node:
    """Joins seal-status, health and leader (empty when sealed) of one address."""
    return Node(
        url=url,
        initialized=bool(seal.get("initialized")),
        sealed=bool(seal.get("sealed", True)),
        standby=bool(health.get("standby", True)),
        removed=bool(seal.get("removed_from_cluster") or health.get("removed_from_cluster")),
        seal_type=seal.get("type", ""),
        threshold=int(seal.get("t") or 0),
        shares=int(seal.get("n") or 0),
        progress=int(seal.get("progress") or 0),
        nonce=seal.get("nonce", ""),
        storage_type=seal.get("storage_type", ""),
        version=seal.get("version", ""),
        cluster_id=seal.get("cluster_id", ""),
        cluster_name=seal.get("cluster_name", ""),
        is_leader=bool(leader.get("is_self")),
        leader_address=leader.get("leader_address", ""),
        applied_index=leader.get("raft_applied_index"),
        committed_index=leader.get("raft_committed_index"),
    )


def hostport(url: str) -> str:
    """C(https://10.0.0.1:8201) -> C(10.0.0.1:8201)."""
    return url.split("://", 1)[-1].rstrip("/")


def table(rows: t.Sequence[t.Sequence[str]]) -> list[str]:
    """Rows (the first is the heading) as lines of aligned columns."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
