# SPDX-License-Identifier: Apache-2.0
"""The simulated world: N real `Raft` servers on simulated clocks, network and disks; one seed is one run.

Safety is checked as it happens (`Checks`): election safety, state machine safety and log matching, leader completeness, no
committed entry cut, one uncommitted configuration, acknowledged writes present, reads never older than what was acknowledged.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import msgpack

from holdfast.consensus import membership, recovery, wal, wire
from holdfast.consensus.journal import RaftLog
from holdfast.consensus.raft import Raft
from holdfast.consensus.seam import SUCCESS
from holdfast.consensus.types import (
    MEMBERSHIP,
    REGULAR,
    RESTORE,
    Configuration,
    ConsensusError,
    Entry,
    Member,
    Message,
    RestoreFile,
    Role,
    Snapshot,
    Timing,
)
from tests.sim.disk import PowerLoss, SimDisk

SEGMENT = 96 * 1024
TIMING = Timing(max_batch=2048, chunk=512, chunk_window=3, sync_bytes=700, compact_bytes=6000, keep_bytes=1500)


class Violation(AssertionError):
    """A promise was broken."""


class Checks:
    """What must hold over all servers at all times."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.last_committed = 1
        self.acked: dict[int, bytes] = {}
        self.max_acked = 1
        self.reads = 0
        self.restores = 0

    def leader(self, term: int, node: Node) -> None:
        """A server leads: it is the only one of its term, and has every committed entry."""
        other = self.leaders.setdefault(term, node.id)
        if other != node.id:
            raise Violation(f"election safety: {other} and {node.id} lead term {term}")
        log = node.raft.log
        for index, (entry_term, command) in self.committed.items():
            if index <= log.first:
                continue
            if index > log.last:
                raise Violation(f"leader completeness: {node.id} leads term {term} without committed entry {index}")
            entry = log.get(index)
            if (entry.term, entry.command) != (entry_term, command):
                raise Violation(f"leader completeness: {node.id} leads term {term} with another entry {index}")

    def applied(self, node: Node, entry: Entry) -> None:
        """A server applies an entry: it is the same everywhere."""
        known = self.committed.setdefault(entry.index, (entry.term, entry.command))
        self.last_committed = max(self.last_committed, entry.index)
        if known != (entry.term, entry.command):
            raise Violation(f"state machine safety: {node.id} applies another entry {entry.index}")

    def acknowledged(self, index: int, command: bytes) -> None:
        """A client was told that its write is safe."""
        self.acked[index] = command
        self.max_acked = max(self.max_acked, index)
        if index in self.committed and self.committed[index][1] != command:
            raise Violation(f"acknowledged entry {index} is another one in the log")


class SimMachine:
    """A dictionary, with the slow work done after a simulated while."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.state: dict[str, int] = {}
        self.generation = node.generation

    def apply(self, index: int, term: int, payload: bytes) -> object:
        key, _, expected = msgpack.unpackb(payload)
        if expected is not None and self.state.get(key, 0) != expected:
            return None
        self.state[key] = index
        return index

    def _later(self, action: Callable[[], None]) -> None:
        self.node.later(self.node.rng.uniform(0.001, 0.3), action)

    def _write(self, prefix: str, state: dict[str, int]) -> tuple[str, int, str]:
        data = msgpack.packb(sorted(state.items()))
        sha = hashlib.sha256(data).hexdigest()
        name = f"{prefix}-{sha[:16]}.state"
        disk = self.node.disk
        disk.create("tmp-" + name, 0)
        disk.write("tmp-" + name, 0, data)
        disk.sync("tmp-" + name)
        disk.rename("tmp-" + name, name)
        disk.sync_dir()
        return name, len(data), sha

    def begin_snapshot(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        state = dict(self.state)

        def save() -> None:
            name, size, sha = self._write(f"snap-{index}-{term}", state)
            self.node.raft.snapshot_saved(Snapshot(index, term, name, size, sha, configuration, configuration_index))

        self._later(save)

    def load(self, name: str, sha: str) -> dict[str, int]:
        data = self.node.disk.read(name)
        if hashlib.sha256(data).hexdigest() != sha:
            raise Violation(f"{self.node.id} loads a state file that is not what was sent: {name}")
        return dict(msgpack.unpackb(data))

    def begin_install(self, snapshot: Snapshot) -> None:
        def install() -> None:
            self.state = self.load(snapshot.file, snapshot.sha256)
            self.node.raft.installed(snapshot)

        self._later(install)

    def begin_restore(self, index: int, term: int, restore: RestoreFile) -> None:
        def load() -> None:
            self.state = dict.fromkeys(self.load(restore.file, restore.sha256), index)
            self.node.raft.restored(index)

        self._later(load)


class Node:
    """One server: survives crashes by its disk only."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.id = node_id
        self.rng = random.Random(world.rng.random())
        self.disk = SimDisk(random.Random(world.rng.random()))
        self.up = False
        self.paused = False
        self.sealed = False
        self.generation = 0
        self.rate = 1.0
        self.offset = 0.0
        self.raft: Any = None
        self.machine: Any = None
        self._flushing = False
        self._led: Any = None
        self._backlog: list[Callable[[], None]] = []
        self.flush_delay = 0.002

    def clock(self) -> float:
        return self.world.now * self.rate + self.offset

    def bootstrap(self, configuration: Configuration | None, cluster_id: str) -> None:
        first = [Entry(bytes([MEMBERSHIP]) + configuration.pack(), 2, 1)] if configuration else []
        wal.create(self.disk, cluster_id, self.id, SEGMENT, first, 1 if first else 0)

    def start(self) -> None:
        self.generation += 1
        self.up, self.paused, self._flushing, self._backlog = True, False, False, []
        log, recovered = recovery.recover(self.disk, SEGMENT)
        for name in self.disk.list():
            if name.startswith("tmp-"):
                self.disk.remove(name)
        self.machine = SimMachine(self)
        if recovered.snapshot:
            self.machine.state = self.machine.load(recovered.snapshot.file, recovered.snapshot.sha256)
        journal = RaftLog(log, recovered)
        self.raft = Raft(
            self.id,
            journal,
            recovered,
            clock=self.clock,
            random=self.rng,
            network=_Port(self),
            machine=_Watch(self),
            disk=self.disk,
            observer=_Watch(self),
            timing=self.world.timing,
        )
        self.raft.eligible = not self.sealed
        self.raft.room = lambda size: size <= log.capacity(self.disk.free() - 1000)
        self.world.mutate(self.raft)
        self._tick(self.generation)

    def _tick(self, generation: int) -> None:
        if self.generation == generation and self.up:
            self.run(lambda: None)
            self.world.at(self.world.now + 0.01, lambda: self._tick(generation))

    def later(self, delay: float, action: Callable[[], None]) -> None:
        generation = self.generation
        self.world.at(
            self.world.now + delay, lambda: self.run(action) if self.up and self.generation == generation else None
        )

    def run(self, action: Callable[[], None]) -> None:
        """Do something on this server's event loop, then step and flush."""
        if not self.up:
            return
        if self.paused:
            self._backlog.append(action)
            return
        try:
            action()
            self.raft.step()
            if self.raft.leadership is not None and self.raft.leadership is not self._led:
                self.world.checks.leader(self.raft.current_term, self)
            self._led = self.raft.leadership
            self._check()
            if not self._flushing and (self.raft.log.wal.pending or self.raft.log.commit_unlogged):
                self._flushing = True
                batch = self.raft.log.take()
                self.later(self.rng.expovariate(1 / self.flush_delay), lambda: self._flushed(batch))
        except PowerLoss:
            self.crash()

    def _flushed(self, batch: wal.Batch) -> None:
        self.raft.log.wal.write(batch)
        self._flushing = False
        self.raft.durable(batch.lsn)
        self.raft.log.wal.prepare()

    def _check(self) -> None:
        raft = self.raft
        uncommitted = sum(1 for index, _ in raft.history._items if index > raft.commit)
        if raft.leadership is not None and uncommitted > 1:
            raise Violation(f"{self.id} leads with {uncommitted} uncommitted configurations")
        if raft.commit > raft.log.last:
            raise Violation(f"{self.id}: commit {raft.commit} beyond the log's end {raft.log.last}")

    def crash(self) -> None:
        """Power loss; a flush under way reaches the disk in part."""
        if not self.up:
            return
        self.up = False
        self.disk.crash_after = None
        if self._flushing or self.raft.log.wal.pending:
            self.disk.crash_after = self.rng.randint(0, 3)
            try:
                if self.raft.log.wal.pending and not self._flushing:
                    self.raft.log.wal.write(self.raft.log.take())
            except PowerLoss:
                pass
        self.disk.power_loss()

    def resume(self) -> None:
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            self.run(action)


class _Port:
    """The Network port of one server."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def send(self, peer: str, message: Message) -> None:
        self.node.world.send(self.node.id, peer, wire.encode(message))


class _Watch:
    """Machine and Observer of one server, with the checks in between."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node.machine, name)

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self.node.world.checks.applied(self.node, Entry(bytes([REGULAR]) + payload, index, term))
        return self.node.machine.apply(index, term, payload)

    def state_changed(self) -> None:
        pass

    def was_removed(self) -> None:
        self.node.world.removed.add(self.node.id)

    def fatal(self, reason: str) -> None:
        raise Violation(f"{self.node.id} stops: {reason}")


class World:
    """Servers, network, time."""

    def __init__(self, seed: int, servers: int = 3, mutate: Callable[[Raft], None] | None = None) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.checks = Checks()
        self.nodes: dict[str, Node] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.duplicate = 0.0
        self.stragglers = 0.0  # share of messages that come seconds late, over later connections
        self.delay = (0.0005, 0.004)
        self.timing = TIMING
        self.mutate = mutate or (lambda _raft: None)
        self.removed: set[str] = set()
        self.sent = 0
        members = tuple(Member(f"n{i}", f"host{i}:1", Role.VOTER) for i in range(servers))
        self.configuration = Configuration("cluster", members)
        for member in members:
            self.add(member.node_id, self.configuration)

    def add(self, node_id: str, configuration: Configuration | None = None) -> Node:
        node = self.nodes[node_id] = Node(self, node_id)
        node.bootstrap(configuration, "cluster")
        node.start()
        return node

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), action))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            time, _, action = heapq.heappop(self._events)
            self.now = max(self.now, time)
            action()
        self.now = until

    def send(self, source: str, target: str, data: bytes) -> None:
        self.sent += 1
        if target not in self.nodes or (source, target) in self.cuts or self.rng.random() < self.loss:
            return
        copies = 2 if self.rng.random() < self.duplicate else 1
        for _ in range(copies):
            delay = self.rng.uniform(*self.delay)
            if self.rng.random() < 0.02:
                delay *= self.rng.uniform(1, 60)
            if self.rng.random() < self.stragglers:
                delay += self.rng.uniform(0.1, 3.0)
            self.at(self.now + delay, lambda: self._deliver(source, target, data))

    def _deliver(self, source: str, target: str, data: bytes) -> None:
        node = self.nodes.get(target)
        if node is not None and node.up and (source, target) not in self.cuts:
            node.run(lambda: node.raft.receive(source, wire.decode(data)))

    def leader(self) -> Node | None:
        leaders = [n for n in self.nodes.values() if n.up and not n.paused and n.raft.leadership is not None]
        return max(leaders, key=lambda n: n.raft.current_term, default=None)

    # --- what clients do ---

    def write(self, node: Node, key: str, value: bytes, expected: int | None = None) -> None:
        command = bytes([REGULAR]) + msgpack.packb([key, value, expected])

        def done(result: Any, reason: int) -> None:
            if reason == SUCCESS and result is not None:
                self.checks.acknowledged(result, command)

        def go() -> None:
            with contextlib.suppress(ConsensusError):
                node.raft.propose(command, done)

        node.run(go)

    def read(self, node: Node) -> None:
        wanted = self.checks.max_acked

        def done(ok: bool) -> None:
            if ok:
                self.checks.reads += 1
                if node.raft.applied < wanted:
                    raise Violation(
                        f"stale read: {node.id} answers as of {node.raft.applied}, {wanted} was acknowledged before"
                    )

        node.run(lambda: node.raft.read_index(done))

    def change(self, node: Node, change: Callable[[Configuration], Configuration]) -> None:
        def go() -> None:
            with contextlib.suppress(ConsensusError):
                node.raft.propose_change(change, lambda _result, _reason: None)

        node.run(go)

    def _restored(self, _result: Any, _reason: int) -> None:
        self.checks.restores += 1

    def restore(self, node: Node) -> None:
        """Distribute a restore file; when a majority holds it, log the RESTORE entry (what replica.py does)."""
        state = {f"r{self.rng.randint(0, 999)}": 1 for _ in range(self.rng.randint(1, 200))}

        def go() -> None:
            leading = node.raft.leadership
            if leading is None or leading.restore is not None:
                return
            name, size, sha = node.machine._write("restore", state)
            file = RestoreFile(name, sha, size)
            leading.distribute(file)

            def poll() -> None:
                if node.raft.leadership is not leading:
                    return
                if not leading.restore_held():
                    node.later(0.05, poll)
                    return
                command = bytes([RESTORE]) + msgpack.packb([file.file, file.sha256, file.size])
                with contextlib.suppress(ConsensusError):
                    node.raft.propose(command, self._restored)

            poll()

        node.run(go)


def add_learner(node_id: str) -> Callable[[Configuration], Configuration]:
    """A change that adds a learner."""
    return lambda old: membership.add(old, Member(node_id, f"{node_id}:1", Role.LEARNER))
