# SPDX-License-Identifier: Apache-2.0
"""The simulated world: servers, network, time, and what clients do; one seed is one run."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack

from holdfast.consensus import membership, wire
from holdfast.consensus.seam import DISCARDED, SUCCESS
from holdfast.consensus.types import (
    REGULAR,
    RESTORE,
    Configuration,
    ConsensusError,
    Member,
    Message,
    RestoreFile,
    Role,
    Timing,
)
from tests.sim.checks import CAS, READ, WRITE, Checks, Violation
from tests.sim.node import NOTE, Node

KEYS = tuple(f"k{i}" for i in range(21))
TIMING = Timing(max_batch=2048, chunk=512, chunk_window=3, sync_bytes=700, compact_bytes=6000, keep_bytes=1500)

Rule = Callable[[str, str, Message], bool]  # (source, target, message): True when it applies


class World:
    """Servers, network, time."""

    def __init__(self, seed: int, servers: int = 3, timing: Timing | None = None) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self.checks = Checks()
        self.nodes: dict[str, Node] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.duplicate = 0.0
        self.stragglers = 0.0  # share of messages that come seconds late, over later connections
        self.delay = (0.0005, 0.004)
        self.slowest = 0.3  # seconds that a state file may take to write or load
        self.drops: list[Rule] = []  # messages that the network loses
        self.holds: list[tuple[Rule, list[tuple[str, str, bytes]]]] = []  # messages that it keeps for later
        self.on_leader: Callable[[Node], None] = lambda _node: None
        self.on_stopped: Callable[[Node], None] = lambda _node: None  # it stopped by itself: who restarts it?
        self.timing = replace(timing or TIMING)
        self.removed: set[str] = set()
        self.sent = 0
        members = tuple(Member(f"n{i}", f"host{i}:1", Role.VOTER) for i in range(servers))
        self.configuration = Configuration("cluster", members)
        for member in members:
            self.add(member.node_id, self.configuration)

    def add(self, node_id: str, configuration: Configuration | None = None) -> Node:
        """A new server."""
        node = self.nodes[node_id] = Node(self, node_id)
        node.bootstrap(configuration, "cluster")
        node.start()
        return node

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (time, next(self._order), action))

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        while self._events and self._events[0][0] <= until:
            time, _, action = heapq.heappop(self._events)
            self.now = max(self.now, time)
            action()
        self.now = until

    # --- the network ---

    def send(self, source: str, target: str, message: Message, data: bytes) -> None:
        """One message leaves."""
        self.sent += 1
        if target not in self.nodes or (source, target) in self.cuts or self.rng.random() < self.loss:
            return
        for rule, kept in self.holds:
            if rule(source, target, message):
                kept.append((source, target, data))
                return
        if any(rule(source, target, message) for rule in self.drops):
            return
        life = self.nodes[target].life
        copies = 2 if self.rng.random() < self.duplicate else 1
        for _ in range(copies):
            delay = self.rng.uniform(*self.delay)
            if self.rng.random() < 0.02:
                delay *= self.rng.uniform(1, 60)
            if self.rng.random() < self.stragglers:
                delay += self.rng.uniform(0.1, 3.0)
            self.at(self.now + delay, lambda: self._deliver(source, target, data, life))

    def _deliver(self, source: str, target: str, data: bytes, life: int) -> None:
        if (source, target) not in self.cuts and self.nodes[target].life == life:  # a wiped server has new connections
            self.release([(source, target, data)])

    def release(self, kept: list[tuple[str, str, bytes]]) -> None:
        """Messages arrive after all, whatever is cut now."""
        for source, target, data in kept:
            node = self.nodes.get(target)
            if node is not None and node.up:
                _receive(node, source, data)

    def cut(self, one: set[str], other: set[str], back: bool = True) -> None:
        """Nothing gets from `one` to `other`, nor (`back`) the other way."""
        for a in one:
            for b in other - {a}:
                self.cuts.add((a, b))
                if back:
                    self.cuts.add((b, a))

    def join_up(self, names: set[str]) -> None:
        """These servers reach each other again."""
        self.cuts = {(a, b) for a, b in self.cuts if not (a in names and b in names)}

    def isolate(self, names: set[str]) -> None:
        """Nothing gets in or out of this group."""
        self.cut(names, set(self.nodes) - names)

    def leader(self) -> Node | None:
        """The leader of the highest term, among servers that run."""
        leaders = [n for n in self.nodes.values() if n.up and not n.paused and n.raft.leadership is not None]
        return max(leaders, key=lambda n: n.raft.current_term, default=None)

    # --- what clients do ---

    def write(self, node: Node, key: str, value: bytes | int = 10, check: int | None = None) -> int:
        """A write of these bytes, or of so many, at a server; `check`: only if the key has this value.

        Its number is what clients see as the value, and is returned.
        """
        padding = self.rng.randbytes(value) if isinstance(value, int) else value
        number = next(self._numbers)
        command = bytes([REGULAR]) + msgpack.packb([key, number, check, padding])
        operation = self.checks.invoke(WRITE if check is None else CAS, key, number, check)

        def done(result: Any, reason: int) -> None:
            if reason == SUCCESS:
                index, operation.found = result
                if operation.found:
                    self.checks.acknowledged(index, command)
                self.checks.answer(operation, True)
            else:
                self.checks.answer(operation, False if reason == DISCARDED else None)

        def go() -> None:
            try:
                if not node.raft.room(len(command)):
                    self.checks.answer(operation, False)
                    return
                node.raft.propose(command, done)
            except ConsensusError:
                self.checks.answer(operation, False)

        node.run(go)
        return number

    def read(self, node: Node, key: str = "k0") -> None:
        """A linearizable read at a server."""
        wanted = self.checks.max_acked
        operation = self.checks.invoke(READ, key)

        def done(ok: bool) -> None:
            if not ok:
                self.checks.answer(operation, False)
                return
            self.checks.reads += 1
            operation.value = node.machine.state.get(key, 0)
            self.checks.answer(operation, True)
            if node.raft.applied < wanted:
                raise Violation(
                    f"stale read: {node.id} answers as of {node.raft.applied}, {wanted} was acknowledged before"
                )

        node.run(lambda: node.raft.read_index(done))

    def note(self, node: Node) -> None:
        """Propose an entry of the kind that only the newer version knows."""

        def go() -> None:
            if NOTE in node.raft.kinds:
                with contextlib.suppress(ConsensusError):
                    node.raft.propose(bytes([NOTE]) + b"note", lambda _result, _reason: None)

        node.run(go)

    def change(
        self,
        node: Node,
        change: Callable[[Configuration], Configuration],
        done: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        """A configuration change at a server; `done(True)` when it is committed, or was so already."""

        def go() -> None:
            try:
                if not node.raft.propose_change(change, lambda _result, reason: done(reason == SUCCESS)):
                    node.raft.read_index(done)
            except ConsensusError:
                done(False)

        node.run(go)

    def restore(self, node: Node, together: Callable[[], None] = lambda: None) -> None:
        """Distribute a restore file; when a majority holds it, log the RESTORE entry (what replica.py does).

        For clients it is a write to every key. `together()` is called right after the proposal, in the same turn.
        """
        number = next(self._numbers)
        state = {f"r{self.rng.randint(0, 999)}": number for _ in range(self.rng.randint(1, 200))}
        state |= {key: number for key in KEYS if self.rng.random() < 0.5}

        def propose(file: RestoreFile) -> None:
            operations = [self.checks.invoke(WRITE, key, state.get(key, 0)) for key in KEYS]

            def done(_result: Any, reason: int) -> None:
                self.checks.restores += reason == SUCCESS
                outcome = True if reason == SUCCESS else False if reason == DISCARDED else None
                for operation in operations:
                    self.checks.answer(operation, outcome)

            try:
                node.raft.propose(bytes([RESTORE]) + msgpack.packb([file.file, file.sha256, file.size]), done)
            except ConsensusError:
                done(None, DISCARDED)
                return
            together()

        def go() -> None:
            leading = node.raft.leadership
            if leading is None or leading.restore is not None:
                return
            try:
                name, size, sha = node.machine.write("restore", state)
            except OSError:
                return
            file = RestoreFile(name, sha, size)
            leading.distribute(file)

            def poll() -> None:
                if node.raft.leadership is not leading:
                    return
                if leading.restore_held():
                    propose(file)
                else:
                    node.later(0.05, poll)

            poll()

        node.run(go)


def _receive(node: Node, source: str, data: bytes) -> None:
    node.run(lambda: node.raft.receive(source, wire.decode(data)), message=True)


def add_learner(node_id: str, address: str = "", log_format: int = 1) -> Callable[[Configuration], Configuration]:
    """A change that adds a learner."""
    return lambda old: membership.add(old, Member(node_id, address or f"{node_id}:1", Role.LEARNER, log_format))
