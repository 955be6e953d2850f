# SPDX-License-Identifier: Apache-2.0
"""The `raft` backend: `Storage` and `Cluster` (storage.types) on a `Replica` (consensus)."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgpack

from holdfast.consensus import identity as identity_files
from holdfast.consensus import membership, replica, wal
from holdfast.consensus import types as t
from holdfast.consensus.disk import FileDisk
from holdfast.consensus.replica import Replica
from holdfast.consensus.transport import TransportError
from holdfast.storage.autopilot import Autopilot
from holdfast.storage.restores import adopt_file
from holdfast.storage.snapshots import Source
from holdfast.storage.types import (
    AutopilotConfig,
    AutopilotState,
    EntryTooLarge,
    Event,
    ForwardReply,
    ForwardRequest,
    Identity,
    Item,
    Leader,
    MembershipRefused,
    NoSpace,
    NotLeader,
    Op,
    OutcomeUnknown,
    PreconditionFailed,
    Put,
    Server,
    SnapshotSource,
    StorageError,
)

log = logging.getLogger("holdfast.storage.raft")

MAX_KEY = 32768  # bytes, OpenBao's limit
_HOLD_OFF = 10.0  # seconds without a campaign after step-down (raft-api.md 5.1)
_INIT_KEY = b"core/keyring"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """What the configuration says about Raft. Sizes in bytes, times in seconds."""

    path: Path
    node_id: str
    cluster_listen: tuple[str, int]
    cluster_addr: str
    api_addr: str
    version: str
    performance_multiplier: float = 1
    max_entry_size: int = 1048576
    max_transaction_size: int = 8388608
    autopilot_update_interval: float = 0.2


def _exit(reason: str) -> None:
    logging.shutdown()
    os._exit(70)


class RaftStorage:
    """One server's storage. Before `bootstrap` or `join` it is empty and refuses writes."""

    storage_type = "raft"

    def __init__(self, settings: RaftSettings, on_fatal: Callable[[str], None] = _exit) -> None:
        self.settings = settings
        self.node_id = settings.node_id
        self.cluster_addr = settings.cluster_addr
        self.api_addr = settings.api_addr
        self._on_fatal = on_fatal
        self._replica: Replica | None = None
        self._listeners: list[Callable[[Event], None]] = []
        self._forward_handler: Callable[[ForwardRequest], Awaitable[ForwardReply]] | None = None
        self._eligible = False
        self._led = False
        self._configuration_index = -1
        self._autopilot = Autopilot(settings.node_id, self._autopilot_act)
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    # --- life ---

    async def start(self) -> None:
        """Recover what is on disk and run it; nothing to do on a new server. Raises StorageError."""
        if self.has_state():
            await self._run()

    async def stop(self) -> None:
        """Flush and close."""
        tasks = [task for task in (self._task, self._leaving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._leaving = None
        if self._replica is not None:
            await self._replica.stop()
            self._replica = None

    async def _run(self) -> None:
        settings = self.settings
        try:
            new = Replica(
                settings.path,
                settings.node_id,
                replica.Addresses(settings.cluster_listen, settings.cluster_addr, settings.api_addr, settings.version),
                t.Timing().scaled(max(1.0, float(settings.performance_multiplier))),
                self._on_fatal,
            )
            new.changed = self._changed
            new.replaced = lambda: self._emit(Event.STATE_REPLACED)
            new.was_removed_callback = lambda: self._emit(Event.REMOVED)
            await new.start()
        except t.ConsensusError as error:
            raise StorageError(str(error)) from None
        except OSError as error:
            raise StorageError(f"Raft cannot start: {error.strerror or error}") from None
        self._replica = new
        new.transport.on_request = self._on_request
        new.raft.eligible = self._eligible
        self._changed()
        self._task = asyncio.create_task(self._run_autopilot())

    def _need(self) -> Replica:
        if self._replica is None:
            raise NotLeader("this server is not a member of a cluster yet")
        return self._replica

    def _emit(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener(event)

    def _changed(self) -> None:
        running = self._replica
        if running is None:
            return
        leads = self.is_leader()
        if leads != self._led:
            self._led = leads
            log.info("leadership", extra={"fields": {"leads": leads, "term": running.raft.current_term}})
            if leads:
                self._autopilot.led_since(time.monotonic())
            self._emit(Event.LEADER_GAINED if leads else Event.LEADER_LOST)
        index = running.raft.history.latest_index
        if index != self._configuration_index:
            self._configuration_index = index
            self._emit(Event.CONFIGURATION)

    # --- Storage ---

    def get(self, key: str) -> Item | None:
        """The applied value at `key`."""
        found = self._replica.machine.state.get(key) if self._replica else None
        return Item(*found) if found else None

    def list(self, prefix: str) -> list[str]:
        """Immediate children below `prefix`."""
        return self._replica.machine.state.children(prefix) if self._replica else []

    def scan(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`."""
        return self._replica.machine.state.keys(prefix) if self._replica else iter(())

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        """See `Storage.commit`."""
        running = self._need()
        size = 0
        packed: list[Any] = []
        for op in ops:
            if len(op.key.encode("utf-8")) > MAX_KEY:
                raise EntryTooLarge(
                    f"put failed due to key being too large, max key size for integrated storage is {MAX_KEY}"
                )
            if isinstance(op, Put):
                if len(op.value) > self.settings.max_entry_size:
                    raise EntryTooLarge(
                        "put failed due to value being too large; "
                        f"got {len(op.value)} bytes, max: {self.settings.max_entry_size} bytes"
                    )
                packed.append((0, op.key, op.value))
                size += len(op.value)
            else:
                packed.append((1, op.key))
            size += len(op.key) + 16
        if size > self.settings.max_transaction_size:
            raise EntryTooLarge(
                f"the batch is too large; got {size} bytes, max: {self.settings.max_transaction_size} bytes"
            )
        if not running.room(size):
            raise NoSpace("the disk is nearly full: writes are refused until there is room")
        proposal = (tuple((preconditions or {}).items()), packed)
        result = await self._translate(running.propose(proposal, size))
        if isinstance(result, str):
            raise PreconditionFailed(result)
        return result

    async def _translate(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except t.NotLeaderError as error:
            raise NotLeader(str(error)) from None
        except t.UnknownOutcomeError as error:
            raise OutcomeUnknown(str(error)) from None
        except t.RefusedError as error:
            raise MembershipRefused(str(error)) from None
        except t.ConsensusError as error:
            raise StorageError(str(error)) from None

    async def read_barrier(self) -> None:
        """ReadIndex."""
        try:
            await self._need().read_barrier()
        except t.NotLeaderError as error:
            raise NotLeader(str(error)) from None

    # --- Cluster: what is known ---

    def has_state(self) -> bool:
        """True when there is a Raft journal."""
        if self._replica is not None:
            return True
        folder = self.settings.path / "raft"
        return folder.is_dir() and wal.exists(FileDisk(folder))

    def cluster_id(self) -> str:
        """The cluster's UUID."""
        return self._replica.transport.hello.cluster_id if self._replica else ""

    def removed(self) -> bool:
        """True when this server was removed."""
        return bool(self._replica and self._replica.raft.removed)

    def is_leader(self) -> bool:
        """True when this server leads and its state is complete."""
        leading = self._replica.raft.leadership if self._replica else None
        return leading is not None and leading.ready

    def leader(self) -> Leader | None:
        """The leader as known here."""
        running = self._replica
        if running is None or running.raft.leader_id is None:
            return None
        leader_id = running.raft.leader_id
        if leader_id == self.node_id:
            return Leader(self.node_id, self.cluster_addr, self.api_addr)
        member = running.raft.history.latest.member(leader_id)
        hello = running.transport.peers.get(leader_id)
        address = member.address if member else (hello.address if hello else "")
        return Leader(leader_id, address, hello.api_addr if hello else "")

    def servers(self) -> tuple[Server, ...]:
        """The configuration in force."""
        if self._replica is None:
            return ()
        raft = self._replica.raft
        return tuple(
            Server(
                m.node_id,
                m.address,
                m.role is t.Role.VOTER,
                m.node_id == raft.leader_id,
                m.role is t.Role.NON_VOTER,
            )
            for m in raft.history.latest.members
        )

    def ca_pem(self) -> str:
        """The cluster's CA certificates."""
        return "\n".join(self._replica.raft.history.latest.ca) if self._replica else ""

    @property
    def term(self) -> int:
        """Current term."""
        return self._replica.raft.current_term if self._replica else 0

    @property
    def commit_index(self) -> int:
        """Highest committed index known here."""
        return self._replica.raft.commit if self._replica else 0

    @property
    def applied_index(self) -> int:
        """Highest applied index."""
        return self._replica.raft.applied if self._replica else 0

    def status(self) -> dict[str, Any]:
        """Figures for logs and metrics."""
        if self._replica is None:
            return {}
        raft = self._replica.raft
        return {
            "term": raft.current_term,
            "state": ("follower", "candidate", "leader")[raft.state],
            "last_index": raft.log.last,
            "commit_index": raft.commit,
            "applied_index": raft.applied,
            "log_bytes": raft.log.bytes,
            "keys": len(self._replica.machine.state),
            "state_bytes": self._replica.machine.state.bytes,
        }

    # --- Cluster: forming and joining ---

    async def bootstrap(self, identity: Identity) -> None:
        """See `Cluster.bootstrap`. What an initialisation that never finished left behind is replaced."""
        if self.has_state():
            if not self._unfinished():
                raise StorageError("cluster already has state")
            await self.stop()
            shutil.rmtree(self.settings.path / "raft")
        configuration = replica.new_configuration(identity.cluster_id, self.node_id, self.cluster_addr, identity.ca_pem)
        await self._create(identity, {self.node_id: self.cluster_addr}, configuration)
        self._eligible = True
        await self._run()
        running = self._need()
        running.raft.eligible = True
        running.raft.campaign_now()
        running.driver.post()
        async with asyncio.timeout(15):
            while not self.is_leader():
                await asyncio.sleep(0.005)

    def _unfinished(self) -> bool:
        running = self._replica
        if running is None:
            return False
        only_me = [m.node_id for m in running.raft.history.latest.members] == [self.node_id]
        known = running.machine.state.get(_INIT_KEY.decode()) is not None
        return only_me and not known and not any(_INIT_KEY in entry.command for entry in running.raft.log[0:])

    async def join(self, identity: Identity, servers: Sequence[Server]) -> None:
        """See `Cluster.join`."""
        if self.has_state():
            raise StorageError("this server already has Raft state: wipe its data directory to join another cluster")
        await self._create(identity, {s.node_id: s.address for s in servers}, None)
        await self._run()

    async def _create(
        self, identity: Identity, addresses: dict[str, str], configuration: t.Configuration | None
    ) -> None:
        path = self.settings.path

        def write() -> None:
            identity_files.save(
                path / "identity",
                identity.cluster_id,
                self.node_id,
                identity.ca_pem,
                identity.cert_pem,
                identity.key_pem,
                addresses,
            )
            replica.create(path, self.node_id, identity.cluster_id, configuration)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StorageError(f"cannot write the Raft state below {path}: {error.strerror}") from None

    async def flush(self) -> None:
        """See `Cluster.flush`."""
        await self._need().driver.flushed()

    def set_eligible(self, eligible: bool) -> None:
        """See `Cluster.set_eligible`. A leader that may lead no more hands over, or just stops leading."""
        self._eligible = eligible
        running = self._replica
        if running is None:
            return
        running.raft.eligible = eligible
        if not eligible and running.raft.is_leader:
            if len(running.raft.history.latest.voters) == 1:
                running.resign()
                self._changed()
            elif self._leaving is None or self._leaving.done():
                self._leaving = asyncio.create_task(self._leave(running))
        running.driver.post()

    async def _leave(self, running: Replica) -> None:
        try:
            await running.transfer(None, 3.0)
        except t.ConsensusError as error:
            log.warning("leadership given up without a successor", extra={"fields": {"reason": str(error)}})
            running.resign()

    async def transfer_leadership(self, to: str | None = None, timeout: float = 10.0) -> None:
        """See `Cluster.transfer_leadership`."""
        await self._translate(self._need().transfer(to, timeout))

    async def step_down(self) -> None:
        """See `Cluster.step_down`."""
        running = self._need()
        if not running.raft.is_leader:
            return
        others = len(running.raft.history.latest.voters) > 1
        try:
            await running.transfer(None, 5.0)
        except t.ConsensusError:
            running.resign()
        if others:
            running.raft.hold_off_until = time.monotonic() + _HOLD_OFF

    # --- Cluster: membership ---

    async def add_server(self, node_id: str, address: str, permanent_non_voter: bool) -> None:
        """See `Cluster.add_server`."""
        running = self._need()
        old = running.raft.history.latest.member(node_id)
        role = t.Role.NON_VOTER if permanent_non_voter else t.Role.LEARNER
        if old is not None and old.role is t.Role.NON_VOTER:
            role = t.Role.NON_VOTER  # a wiped non-voter comes back as one until it is promoted
        if node_id == self.node_id:
            raise MembershipRefused(f"server {node_id} is the leader of this cluster: choose another node_id")
        await self._translate(running.add(t.Member(node_id, address, role)))

    async def remove_server(self, node_id: str) -> bool:
        """See `Cluster.remove_server`."""
        return await self._with_leader_moved(node_id, "remove", self._remove_here)

    async def _remove_here(self, node_id: str) -> bool:
        running = self._need()
        if running.raft.history.latest.member(node_id) is None:
            return False
        return await self._translate(running.change(lambda old: membership.remove(old, node_id)))

    async def promote(self, node_id: str) -> None:
        """See `Cluster.promote`: from now on autopilot makes it a voter when it has caught up."""
        running = self._need()
        await self._translate(running.change(lambda old: membership.with_role(old, node_id, t.Role.LEARNER)))

    async def demote(self, node_id: str) -> None:
        """See `Cluster.demote`."""
        await self._with_leader_moved(node_id, "demote", self._demote_here)

    async def _demote_here(self, node_id: str) -> bool:
        running = self._need()
        return await self._translate(running.change(lambda old: membership.with_role(old, node_id, t.Role.NON_VOTER)))

    async def _with_leader_moved(self, node_id: str, verb: str, act: Callable[[str], Awaitable[bool]]) -> bool:
        """Act here; when the server concerned is this leader, move leadership first and let the new leader act."""
        running = self._need()
        if node_id != self.node_id:
            return await act(node_id)
        if len(running.raft.history.latest.voters) == 1:
            raise MembershipRefused("the last voter cannot be removed: a cluster needs at least one voter")
        await self._translate(running.transfer(None, 10.0))
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            leader = running.raft.leader_id
            if leader is not None and leader != self.node_id:
                try:
                    answer = await running.transport.request(leader, msgpack.packb([verb, node_id]))
                except TransportError as error:
                    raise OutcomeUnknown(f"leadership moved to {leader}, but it did not answer: {error}") from None
                ok, value = msgpack.unpackb(answer)
                if ok:
                    return bool(value)
                if value != "not leader":
                    raise MembershipRefused(str(value))
            await asyncio.sleep(0.02)
        raise StorageError("leadership has moved away but no new leader was found: try again")

    # --- Cluster: autopilot ---

    def autopilot_state(self) -> AutopilotState | None:
        """See `Cluster.autopilot_state`."""
        running = self._replica
        if running is None or not self.is_leader():
            return None
        versions = {peer: hello.version for peer, hello in running.transport.peers.items()}
        versions[self.node_id] = self.settings.version
        return self._autopilot.state(running, versions)

    def set_autopilot(self, config: AutopilotConfig) -> None:
        """See `Cluster.set_autopilot`."""
        self._autopilot.config = config

    async def _run_autopilot(self) -> None:
        while True:
            await asyncio.sleep(self.settings.autopilot_update_interval)
            running = self._replica
            if running is not None and self.is_leader():
                try:
                    await self._autopilot.round(running)
                except (StorageError, t.ConsensusError) as error:
                    log.info("autopilot waits", extra={"fields": {"reason": str(error)}})

    async def _autopilot_act(self, verb: str, node_id: str) -> None:
        running = self._need()
        log.info("autopilot", extra={"fields": {"action": verb, "server": node_id}})
        if verb == "promote":
            await running.change(lambda old: membership.with_role(old, node_id, t.Role.VOTER))
        else:
            await running.change(lambda old: membership.remove(old, node_id))

    # --- Cluster: events and forwarding ---

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """See `Cluster.subscribe`."""
        self._listeners.append(listener)

    async def forward(self, request: ForwardRequest) -> ForwardReply:
        """See `Cluster.forward`."""
        running = self._need()
        leader = running.raft.leader_id
        if leader is None or leader == self.node_id:
            raise NotLeader("no leader is known")
        packed = msgpack.packb(
            [
                "http",
                request.method,
                request.target,
                [list(header) for header in request.headers],
                request.body,
                request.remote_addr,
            ]
        )
        try:
            answer = await running.transport.request(leader, packed)
        except TransportError as error:
            if error.too_large:
                raise EntryTooLarge(f"{error}: send it to the leader {leader} itself") from None
            if error.sent:
                raise OutcomeUnknown(
                    f"the leader {leader} may or may not have carried out the request ({error}): read it back before trying again"
                ) from None
            raise NotLeader(f"the leader {leader} cannot be reached: {error}") from None
        ok, value = msgpack.unpackb(answer)
        if not ok:
            raise NotLeader(str(value))
        status, headers, body = value
        return ForwardReply(status, tuple((k, v) for k, v in headers), body)

    def on_forward(self, handler: Callable[[ForwardRequest], Awaitable[ForwardReply]]) -> None:
        """See `Cluster.on_forward`."""
        self._forward_handler = handler

    async def _on_request(self, peer: str, body: bytes) -> bytes:
        try:
            verb, *rest = msgpack.unpackb(body)
            if not self.is_leader():
                raise NotLeader("not leader")
            if self._need().raft.history.latest.member(peer) is None:  # its certificate outlives its membership
                log.warning("request refused", extra={"fields": {"peer": peer, "reason": "not a member"}})
                raise NotLeader(f"server {peer} is not a member of this cluster")
            if verb == "http" and self._forward_handler is not None:
                method, target, headers, payload, remote = rest
                reply = await self._forward_handler(
                    ForwardRequest(method, target, tuple((k, v) for k, v in headers), payload, remote)
                )
                answer: Any = [True, [reply.status, [list(h) for h in reply.headers], reply.body]]
            elif verb in ("remove", "demote"):
                act = self._remove_here if verb == "remove" else self._demote_here
                answer = [True, await act(str(rest[0]))]
            else:
                answer = [False, f"unknown request {verb}"]
        except (StorageError, ValueError, TypeError, LookupError) as error:
            answer = [False, str(error)]
        packed: bytes = msgpack.packb(answer)
        return packed

    # --- Cluster: snapshots ---

    async def open_snapshot(self) -> SnapshotSource:
        """See `Cluster.open_snapshot`."""
        running = self._need()
        raft = running.raft
        index, _ = raft.history.at(raft.applied)
        return Source(
            running.machine.state.freeze(), raft.applied, raft.log.term_at(raft.applied), self.servers(), index
        )

    async def restore(self, path: Path, sha256: str, size: int, progress: Callable[[str, int, int], None]) -> int:
        """See `Cluster.restore`."""
        running = self._need()
        name = await asyncio.to_thread(adopt_file, path, self.settings.path / "raft", sha256)
        return await self._translate(running.restore(name, sha256, size, progress))
