# SPDX-License-Identifier: Apache-2.0
"""One simulated server: the real `Raft`, journal and recovery on a simulated clock, disk and state machine."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgpack

from holdfast.consensus import recovery, wal, wire
from holdfast.consensus.journal import RaftLog
from holdfast.consensus.raft import Raft
from holdfast.consensus.types import (
    KINDS,
    MEMBERSHIP,
    REGULAR,
    Configuration,
    Entry,
    JournalError,
    Message,
    RestoreFile,
    Snapshot,
)
from tests.sim.checks import Violation
from tests.sim.disk import PowerLoss, SimDisk

if TYPE_CHECKING:
    from tests.sim.world import World

SEGMENT = 96 * 1024
RESERVE = 1000  # bytes of a disk that entries leave alone
NOTE = 5  # a kind of entry that only the simulated newer version knows
NEWER = 2  # ... and the log format that brings it


class NewerRaft(Raft):
    """The next version of the server: it knows one more kind of entry."""

    kinds: Mapping[int, int] = {**KINDS, NOTE: NEWER}


class SimMachine:
    """A dictionary from keys to the numbers of the writes that made them, with the slow work done after a simulated while."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.state: dict[str, int] = {}

    def apply(self, index: int, term: int, payload: bytes) -> object:
        """(index, True), or (index, False) for a check-and-set that found another value."""
        key, value, expected, _ = msgpack.unpackb(payload)
        if expected is not None and self.state.get(key, 0) != expected:
            return index, False
        self.state[key] = value
        return index, True

    def _later(self, action: Callable[[], None]) -> None:
        self.node.later(self.node.rng.uniform(0.001, self.node.world.slowest), action)

    def write(self, prefix: str, state: dict[str, int]) -> tuple[str, int, str]:
        """A durable state file: (name, bytes, sha256). Raises OSError, leaving nothing."""
        data = msgpack.packb(sorted(state.items()))
        sha = hashlib.sha256(data).hexdigest()
        name = f"{prefix}-{sha[:16]}.state"
        disk = self.node.disk
        try:
            disk.create("tmp-" + name, 0)
            disk.write("tmp-" + name, 0, data)
            disk.sync("tmp-" + name)
            disk.rename("tmp-" + name, name)
            disk.sync_dir()
        except OSError:
            disk.remove("tmp-" + name)
            raise
        return name, len(data), sha

    def begin_snapshot(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        state = dict(self.state)

        def save() -> None:
            try:
                name, size, sha = self.write(f"snap-{index}-{term}", state)
            except OSError:
                self.node.raft.snapshot_saved(None)
                return
            self.node.raft.snapshot_saved(Snapshot(index, term, name, size, sha, configuration, configuration_index))

        self._later(save)

    def load(self, name: str, sha: str) -> dict[str, int]:
        """The state in a file. Raises JournalError when the disk has damaged it."""
        data = self.node.disk.read(name)
        if hashlib.sha256(data).hexdigest() != sha:
            if name in self.node.rotten:
                raise JournalError(f"{name} is damaged; wipe this server and join it again")
            raise Violation(f"{self.node.id} loads a state file that is not what was sent: {name}")
        return dict(msgpack.unpackb(data))

    def _replace(self, name: str, sha: str, done: Callable[[], None]) -> None:
        try:
            self.state = self.load(name, sha)
        except JournalError as error:
            self.node.raft.fail(str(error))
            return
        done()

    def begin_install(self, snapshot: Snapshot) -> None:
        self._later(lambda: self._replace(snapshot.file, snapshot.sha256, lambda: self.node.raft.installed(snapshot)))

    def begin_restore(self, index: int, term: int, restore: RestoreFile) -> None:
        self._later(lambda: self._replace(restore.file, restore.sha256, lambda: self.node.raft.restored(index)))


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
        self.lost = ""  # why it does not start any more: it must be wiped and join again
        self.rotten: set[str] = set()  # files that this test has damaged
        self.newer = False  # runs the next version
        self.generation = 0
        self.life = 1  # wiped servers begin another one
        self.rate = 1.0
        self.offset = 0.0
        self.raft: Any = None
        self.machine: Any = None
        self.flush_delay = 0.002
        self._batch: wal.Batch | None = None  # on its way to the disk
        self._led: Any = None
        self._backlog: list[tuple[bool, Callable[[], None]]] = []  # (from the network?, what)
        self._errors = 0
        self._room_at = float("-inf")
        self._room_left = 0

    def clock(self) -> float:
        return self.world.now * self.rate + self.offset

    def bootstrap(self, configuration: Configuration | None, cluster_id: str) -> None:
        """A new journal, of a founder (`configuration`) or of a joiner."""
        first = [Entry(bytes([MEMBERSHIP]) + configuration.pack(), 2, 1)] if configuration else []
        wal.create(self.disk, cluster_id, self.id, SEGMENT, first, 1 if first else 0)

    def wipe(self) -> None:
        """A new disk: the server's next life knows nothing."""
        assert not self.up
        self.life += 1
        self.disk = SimDisk(random.Random(self.rng.random()))
        self.rotten, self.lost, self._errors = set(), "wiped, and not yet a member again", 0
        self.bootstrap(None, "cluster")

    def start(self) -> None:
        """Recover and run. A journal that refuses (JournalError) is allowed only when this test has damaged the disk."""
        try:
            self._start()
        except JournalError as error:
            if not self.rotten:
                raise
            named = [name for name in self.rotten if name in str(error)]
            if not named or ("wal-" in named[0] and "offset " not in str(error)):
                raise Violation(f"{self.id} does not start, but does not say what is damaged: {error}") from error
            self.up, self.lost = False, str(error)
        except OSError:  # an injected error
            self.up = False
            self.world.on_stopped(self)
        except PowerLoss:
            self.up = False
            self.disk.power_loss()
            self.world.on_stopped(self)

    def _start(self) -> None:
        self.generation += 1
        self.up, self.paused, self._batch, self._backlog = True, False, None, []
        self._errors = self.disk.errors
        log, recovered = recovery.recover(self.disk, SEGMENT)
        for name in self.disk.list():
            if name.startswith("tmp-"):
                self.disk.remove(name)
        self.machine = SimMachine(self)
        if recovered.snapshot:
            self.machine.state = self.machine.load(recovered.snapshot.file, recovered.snapshot.sha256)
        self.raft = (NewerRaft if self.newer else Raft)(
            self.id,
            RaftLog(log, recovered),
            recovered,
            clock=self.clock,
            random=self.rng,
            network=_Port(self),
            machine=_Watch(self),
            disk=self.disk,
            observer=_Watch(self),
            timing=self.world.timing,
        )
        self._watch(self.raft, log=self.raft.log)
        self.raft.eligible = not self.sealed
        self.raft.room = self.room
        self._room_at = float("-inf")
        self._tick(self.generation)

    def _watch(self, raft: Any, log: Any) -> None:
        """Have the checks see every entry that is appended, cut or applied (`_Watch.apply` shows them what clients wrote)."""
        checks = self.world.checks
        add, cut, applied = log.add, log.deleteEntriesFrom, raft._applied_entry

        def watched_add(command: bytes, index: int, term: int) -> None:
            checks.appended(self, log[-1].term, Entry(command, index, term))
            add(command, index, term)

        def watched_cut(position: int) -> None:
            checks.cut(self, log.first + position)
            cut(position)

        def watched_applied(entry: Entry, result: object) -> None:
            if entry.command[0] != REGULAR:
                checks.applied(self, entry)
            applied(entry, result)

        log.add, log.deleteEntriesFrom, raft._applied_entry = watched_add, watched_cut, watched_applied

    def room(self, size: int) -> bool:
        """As `Replica.room`: the disk is asked twice a second, what is granted in between is taken off."""
        if self.disk.capacity > 1 << 30:
            return True
        if self.clock() - self._room_at > 0.5:
            self._room_at = self.clock()
            spare = self.disk.free() - RESERVE
            self._room_left = self.raft.log.wal.capacity(spare) if spare >= 0 else 0
        if size == 0:
            return self._room_left > 0
        if size + 256 > self._room_left:
            return False
        self._room_left -= size + 256
        return True

    def _tick(self, generation: int) -> None:
        if self.generation == generation and self.up:
            self.run(_nothing)
            self.world.at(self.world.now + 0.01, lambda: self._tick(generation))

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do something on this server's event loop after a while, unless it stops before."""
        generation = self.generation
        self.world.at(
            self.world.now + delay, lambda: self.run(action) if self.up and self.generation == generation else None
        )

    def run(self, action: Callable[[], None], message: bool = False) -> None:
        """Do something on this server's event loop, then step and flush."""
        if not self.up:
            return
        if self.paused:
            self._backlog.append((message, action))
            return
        raft = self.raft
        try:
            action()
            raft.step()
            if raft.leadership is not None and raft.leadership is not self._led:
                self._led = raft.leadership
                self.world.checks.leader(raft.current_term, self)
                self.world.on_leader(self)
            self._led = raft.leadership
            self._check()
            if self._batch is None and not raft.stopped and (raft.log.wal.pending or raft.log.commit_unlogged):
                batch = self._batch = raft.log.take()
                self.later(self.rng.expovariate(1 / self.flush_delay), lambda: self._flushed(batch))
        except PowerLoss:
            self.crash(interrupted=True)
            return
        if raft.stopped and self.up:
            self.kill(interrupted=True)
            self.world.on_stopped(self)

    def _flushed(self, batch: wal.Batch) -> None:
        """What Driver does in the journal's thread and after it."""
        try:
            self.raft.log.wal.write(batch)
        except OSError as error:
            self._batch = None
            self.raft.fail(f"the Raft journal cannot be written: {error.strerror}")
            return
        self._batch = None
        self.raft.durable(batch.lsn)
        self.raft.log.wal.prepare()

    def _check(self) -> None:
        raft = self.raft
        if raft.leadership is not None:
            uncommitted = sum(1 for index, _ in raft.history._items if index > raft.commit)
            if uncommitted > 1:
                raise Violation(f"{self.id} leads with {uncommitted} uncommitted configurations")
        if raft.commit > raft.log.last:
            raise Violation(f"{self.id}: commit {raft.commit} beyond the log's end {raft.log.last}")

    def kill(self, interrupted: bool = False) -> None:
        """The process dies, possibly in the middle of a flush; what it wrote stays in the page cache. `interrupted`: it just was."""
        if not self.up:
            return
        self.up = False
        log = self.raft.log
        batch = self._batch or (log.take() if log.wal.pending else None)
        if batch is not None and not interrupted:
            self.disk.crash_after = self.rng.randint(0, 3)
            with contextlib.suppress(PowerLoss, OSError):
                log.wal.write(batch)
        self.disk.crash_after = None

    def crash(self, interrupted: bool = False) -> None:
        """Power loss: a flush under way reaches the disk in part, and what was not synced may be gone."""
        self.kill(interrupted)
        self.disk.power_loss()

    def resume(self) -> None:
        """A paused server wakes up, to everything that came meanwhile."""
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for message, action in backlog:
            self.run(action, message)

    def sleep_through(self) -> None:
        """The connections of a paused server broke: what came meanwhile is lost."""
        self._backlog = [item for item in self._backlog if not item[0]]


def _nothing() -> None:
    """Only a step."""


class _Port:
    """The Network port of one server."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def send(self, peer: str, message: Message) -> None:
        self.node.world.send(self.node.id, peer, message, wire.encode(message))


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
        """Only what the disk did may stop a server."""
        node = self.node
        if node.disk.errors == node._errors and not any(name in reason for name in node.rotten):
            raise Violation(node.world.checks.broken or f"{node.id} stops: {reason}")
