# SPDX-License-Identifier: Apache-2.0
"""Cores on in-memory storage, with a fake cluster behind them, and a thin adapter that speaks in HTTP's shapes."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.core import HoldfastCore
from holdfast.core.types import ApiError, Operation, Request, StandbyError
from holdfast.storage.inmem import InmemStorage
from holdfast.storage.types import (
    AutopilotConfig,
    AutopilotState,
    Event,
    ForwardReply,
    ForwardRequest,
    Identity,
    Leader,
    MembershipRefused,
    NotLeader,
    Op,
    Server,
    ServerHealth,
    SnapshotSource,
    StorageError,
)

LOGGER = logging.getLogger("holdfast.test")


class World:
    """One imaginary Raft group: what has been committed, who is a member, who leads."""

    def __init__(self) -> None:
        self.storage = InmemStorage()
        self.servers: dict[str, Server] = {}
        self.clusters: dict[str, FakeCluster] = {}
        self.leader: FakeCluster | None = None
        self.term = 0
        self.cluster_id = ""
        self.ca = ""
        self.dead: set[str] = set()

    def elect(self, cluster: FakeCluster | None) -> None:
        """Make `cluster` the leader (None: nobody)."""
        old, self.leader = self.leader, cluster
        if old is not None and old is not cluster:
            old.emit(Event.LEADER_LOST)
        self.term += 1
        if cluster is not None:
            cluster.emit(Event.LEADER_GAINED)

    def candidates(self) -> list[FakeCluster]:
        """Eligible voters."""
        return [
            cluster
            for name, cluster in self.clusters.items()
            if cluster.eligible and name in self.servers and self.servers[name].voter
        ]


class RaftStorage:
    """The world's storage as one member sees it; empty before it has joined."""

    storage_type = "raft"

    def __init__(self) -> None:
        self.world: World | None = None
        self.cluster: FakeCluster | None = None

    @property
    def _inner(self) -> InmemStorage:
        return self.world.storage if self.world else InmemStorage()

    def get(self, key: str) -> Any:
        return self._inner.get(key)

    def list(self, prefix: str) -> list[str]:
        return self._inner.list(prefix)

    def scan(self, prefix: str) -> Any:
        return self._inner.scan(prefix)

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        await self.read_barrier()
        return await self._inner.commit(ops, preconditions)

    async def read_barrier(self) -> None:
        if self.cluster is None or not self.cluster.is_leader():
            raise NotLeader("not the leader")


class FakeCluster:
    """A `Cluster` without network: everything that it promises happens at once."""

    def __init__(self, node_id: str, storage: RaftStorage) -> None:
        self.node_id = node_id
        self.cluster_addr = f"{node_id}.test:8201"
        self.api_addr = f"http://{node_id}.test:8200"
        self.storage = storage
        self.world: World | None = None
        self.eligible = False
        self.identity: Identity | None = None
        self.listeners: list[Callable[[Event], None]] = []
        self.autopilot = AutopilotConfig()
        self.flushed = 0
        self.fail_bootstrap = False
        storage.cluster = self

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def has_state(self) -> bool:
        return self.world is not None

    def cluster_id(self) -> str:
        return self.world.cluster_id if self.world else ""

    def removed(self) -> bool:
        return self.world is not None and self.node_id not in self.world.servers

    def is_leader(self) -> bool:
        return self.world is not None and self.world.leader is self

    def leader(self) -> Leader | None:
        found = self.world.leader if self.world else None
        return Leader(found.node_id, found.cluster_addr, found.api_addr) if found else None

    def servers(self) -> tuple[Server, ...]:
        world = self.world
        if world is None:
            return ()
        leader = world.leader.node_id if world.leader else ""
        return tuple(
            Server(s.node_id, s.address, s.voter, s.node_id == leader, s.permanent_non_voter)
            for s in world.servers.values()
        )

    def ca_pem(self) -> str:
        return self.world.ca if self.world else ""

    @property
    def term(self) -> int:
        return self.world.term if self.world else 0

    commit_index = applied_index = 31

    def _enter(self, world: World, identity: Identity) -> None:
        self.world = self.storage.world = world
        self.identity = identity
        world.clusters[self.node_id] = self

    async def bootstrap(self, identity: Identity) -> None:
        if self.world is not None:
            raise StorageError("cluster already has state")
        world = World()
        world.cluster_id, world.ca = identity.cluster_id, identity.ca_pem
        world.servers[self.node_id] = Server(self.node_id, self.cluster_addr, True)
        self._enter(world, identity)
        if self.fail_bootstrap:
            raise StorageError("the disk is full")
        world.elect(self)

    async def join(self, identity: Identity, servers: Sequence[Server]) -> None:
        world = WORLDS[identity.cluster_id]
        assert {server.node_id for server in servers} == set(world.servers)
        self._enter(world, identity)

    async def flush(self) -> None:
        self.flushed += 1

    def set_eligible(self, eligible: bool) -> None:
        self.eligible = eligible
        world = self.world
        if world is None:
            return
        if not eligible and world.leader is self:
            world.elect(next(iter(world.candidates()), None))
        elif eligible and world.leader is None and self in world.candidates():
            world.elect(self)

    async def transfer_leadership(self, to: str | None = None, timeout: float = 10.0) -> None:
        assert self.world is not None
        others = [cluster for cluster in self.world.candidates() if cluster is not self]
        if not others:
            raise StorageError("nobody can take over")
        self.world.elect(others[0])

    async def step_down(self) -> None:
        assert self.world is not None
        others = [cluster for cluster in self.world.candidates() if cluster is not self]
        self.world.elect(others[0] if others else None)

    async def add_server(self, node_id: str, address: str, permanent_non_voter: bool) -> None:
        assert self.world is not None
        WORLDS[self.world.cluster_id] = self.world
        self.world.servers[node_id] = Server(node_id, address, False, False, permanent_non_voter)

    async def remove_server(self, node_id: str) -> bool:
        assert self.world is not None
        if self.world.servers.pop(node_id, None) is None:
            return False
        gone = self.world.clusters.pop(node_id, None)
        if gone is not None:
            if self.world.leader is gone:
                self.world.elect(next(iter(self.world.candidates()), None))
            gone.emit(Event.REMOVED)
        return True

    def _suffrage(self, node_id: str, *, voter: bool) -> None:
        assert self.world is not None
        server = self.world.servers[node_id]
        if server.leader and not voter:
            raise MembershipRefused("the leader cannot be demoted")
        self.world.servers[node_id] = Server(node_id, server.address, voter, False, not voter)

    async def promote(self, node_id: str) -> None:
        self._suffrage(node_id, voter=True)

    async def demote(self, node_id: str) -> None:
        self._suffrage(node_id, voter=False)

    def autopilot_state(self) -> AutopilotState | None:
        world = self.world
        if world is None or world.leader is not self:
            return None
        healths = tuple(
            ServerHealth(
                server.node_id,
                server.address,
                server.node_id not in world.dead,
                server.node_id not in world.dead,
                0.0 if server.leader else 1.5,
                world.term,
                31,
                1_795_537_505.0,
                "leader" if server.leader else "voter" if server.voter else "non-voter",
                "non-voter" if server.permanent_non_voter else "voter",
                "0.1.0",
                False,
            )
            for server in self.servers()
        )
        return AutopilotState(not world.dead, 0, self.node_id, healths)

    def set_autopilot(self, config: AutopilotConfig) -> None:
        self.autopilot = config

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        self.listeners.append(listener)

    async def forward(self, request: ForwardRequest) -> ForwardReply:
        raise NotLeader("forwarding is HTTP's")

    def on_forward(self, handler: Callable[[ForwardRequest], Awaitable[ForwardReply]]) -> None:
        raise AssertionError("forwarding is HTTP's")

    async def open_snapshot(self) -> SnapshotSource:
        raise AssertionError("snapshots are HTTP's")

    async def restore(self, path: Path, sha256: str, size: int, progress: Callable[[str, int, int], None]) -> int:
        raise AssertionError("restores are HTTP's")

    def status(self) -> dict[str, Any]:
        return {}


WORLDS: dict[str, World] = {}
_VERBS = {
    "GET": Operation.READ,
    "PUT": Operation.UPDATE,
    "POST": Operation.UPDATE,
    "PATCH": Operation.PATCH,
    "DELETE": Operation.DELETE,
    "LIST": Operation.LIST,
    "SCAN": Operation.SCAN,
}


class Node:
    """A core and a client of it; `call` returns what HTTP would answer: status and body."""

    def __init__(self, core: HoldfastCore, storage: Any, cluster: FakeCluster | None) -> None:
        self.core = core
        self.storage = storage
        self.cluster = cluster
        self.keys: list[str] = []
        self.token = ""

    async def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        try:
            return await self._call(method, path, body or {}, self.token if token is None else token)
        except ApiError as error:
            return error.status, {"errors": error.errors}
        except StandbyError:
            return 307, {}

    async def _call(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        core = self.core
        if path == "sys/init":
            return 200, {"initialized": core.initialized()} if method == "GET" else await core.initialize(body)
        if path == "sys/seal-status":
            return 200, core.seal_status()
        if path == "sys/unseal":
            return 200, await core.unseal(body)
        if path == "sys/health":
            return _health(core.health())
        if path == "sys/leader":
            return 200, core.leader_status()
        if path == "sys/storage/raft/join":
            return 200, await core.join(body)
        if path == "sys/storage/raft/bootstrap":
            await core.bootstrap()
            return 200, ""
        request = Request(_VERBS[method], path, body, token)
        if path == "sys/seal":
            await core.seal(request)
            return 204, ""
        response = await core.handle(request)
        if response is None:
            return (404, {"errors": []}) if method in ("GET", "LIST", "SCAN") else (204, "")
        envelope = {
            "lease_id": response.lease_id,
            "renewable": response.renewable,
            "lease_duration": response.lease_duration,
            "data": response.data,
            "wrap_info": None,
            "warnings": response.warnings,
            "auth": response.auth,
        }
        if response.top_level:
            envelope = {**(response.data or {}), **envelope}
        return response.status or 200, json.loads(json.dumps(envelope))

    async def init(self, shares: int = 5, threshold: int = 3) -> None:
        _, body = await self.call("PUT", "sys/init", {"secret_shares": shares, "secret_threshold": threshold})
        self.keys, self.token = body["keys"], body["root_token"]

    async def unseal(self, keys: list[str] | None = None) -> dict[str, Any]:
        keys = self.keys if keys is None else keys
        body: dict[str, Any] = {}
        for key in keys[: max(1, self.core.seal_status()["t"])]:
            status, body = await self.call("PUT", "sys/unseal", {"key": key})
            assert status == 200, body
        return body


def _health(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if body.pop("_removed"):
        return 530, body
    if not body["initialized"]:
        return 501, body
    if body["sealed"]:
        return 503, body
    return (429 if body["standby"] else 200), body


def make_node(node_id: str = "raft1", *, raft: bool = True, **options: Any) -> Node:
    storage: Any = RaftStorage() if raft else InmemStorage()
    cluster = FakeCluster(node_id, storage) if raft else None
    fields = {"version": "0.1.0", "cluster_name": "", "api_addr": f"http://{node_id}.test:8200", "logger": LOGGER}
    return Node(HoldfastCore(storage, cluster, **{**fields, **options}), storage, cluster)


def restarted(node: Node) -> Node:
    """The same storage and membership in a new process."""
    if node.cluster is not None:
        node.cluster.listeners.clear()
    core = HoldfastCore(
        node.storage, node.cluster, version="0.1.0", cluster_name="", api_addr="http://x.test:8200", logger=LOGGER
    )
    again = Node(core, node.storage, node.cluster)
    again.keys, again.token = node.keys, node.token
    return again


@pytest.fixture
def new_node() -> Callable[..., Node]:
    """Makes nodes."""
    return make_node


@pytest.fixture
def restart() -> Callable[[Node], Node]:
    """Restarts nodes."""
    return restarted


@pytest.fixture
async def dev() -> Any:
    """An unsealed development node."""
    node = make_node(raft=False)
    answer = await node.core.start_dev()
    node.keys, node.token = answer["keys"], answer["root_token"]
    yield node
    await node.core.shutdown()


@pytest.fixture
async def leader() -> Any:
    """A cluster of one, unsealed and active."""
    node = make_node("raft1")
    await node.init()
    await node.unseal()
    yield node
    await node.core.shutdown()
