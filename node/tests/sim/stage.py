# SPDX-License-Identifier: Apache-2.0
"""What directed schedules are made of: waiting for something, choosing who leads, losing and keeping messages on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from holdfast.consensus import types as t
from tests.sim.checks import Violation
from tests.sim.node import Node
from tests.sim.world import KEYS, TIMING, World


class Stage:
    """A small world with a first leader and a few writes that everybody has."""

    def __init__(self, seed: int, rng: random.Random, servers: int, **timing: object) -> None:
        self.rng = rng
        self.world = World(seed, servers, replace(TIMING, **timing))  # type: ignore[arg-type]
        for node in self.world.nodes.values():
            node.rate = rng.uniform(0.98, 1.02)
            node.offset = rng.uniform(0, 1000)
        self.names = list(self.world.nodes)
        self.until(self._ready, 10)
        for _ in range(rng.randint(1, 5)):
            self.write(self.leader)
        self.until(self.agreed, 3)

    @property
    def leader(self) -> Node:
        """Who leads now; there must be one."""
        found = self.world.leader()
        if found is None:
            raise Violation("liveness: nobody leads")
        return found

    def _ready(self) -> bool:
        leader = self.world.leader()
        return leader is not None and leader.raft.leadership.ready

    def agreed(self) -> bool:
        """Everybody that runs has applied everything."""
        return self._ready() and all(
            n.raft.applied == self.leader.raft.log.last for n in self.world.nodes.values() if n.up
        )

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(self.world.now + seconds)

    def until(self, condition: Callable[[], bool], limit: float = 4.0) -> bool:
        """Let time pass until `condition()`, `limit` seconds at most; whether it came true."""
        end = self.world.now + limit
        while not condition():
            if self.world.now >= end:
                return False
            self.run(0.003)
        return True

    def leads(self, *names: str) -> Callable[[], bool]:
        """Whether one of these leads."""
        nodes = [self.world.nodes[n] for n in names]
        return lambda: any(n.up and n.raft.leadership is not None for n in nodes)

    def write(self, node: Node, size: int = 10) -> None:
        """A client writes somewhere."""
        self.world.write(node, self.rng.choice(KEYS), size)

    def read(self, node: Node) -> None:
        """A client reads something."""
        if node.up:
            self.world.read(node, self.rng.choice(KEYS))

    def acknowledged(self) -> int:
        """How much clients were told to be safe."""
        return len(self.world.checks.acked)

    def others(self, *names: str) -> list[str]:
        """The other servers, in random order."""
        rest = [n for n in self.names if n not in names]
        self.rng.shuffle(rest)
        return rest

    def drop(self, kinds: tuple[type, ...], source: str = "", target: str = "") -> None:
        """Messages of these kinds are lost from now on, of one server or on one way if named."""
        self.world.drops.append(lambda s, d, m: isinstance(m, kinds) and source in ("", s) and target in ("", d))

    def hold(self, kinds: tuple[type, ...], target: str, sources: set[str]) -> list[tuple[str, str, bytes]]:
        """Messages of these kinds to `target` are kept from now on; `World.release` delivers them."""
        kept: list[tuple[str, str, bytes]] = []
        self.world.holds.append((lambda s, d, m: isinstance(m, kinds) and d == target and s in sources, kept))
        return kept

    def hand_over(self, source: Node, target: str) -> bool:
        """Leadership moves to `target` by transfer."""

        def ask() -> None:
            if source.raft.leadership is not None and source.raft.leadership.transfer_target is None:
                source.raft.leadership.begin_transfer(target, source.clock(), 2.0)

        def moved() -> bool:
            if source.raft.leadership is not None:
                source.run(ask)
            return self.leads(target)()

        return self.until(moved, 5)


ANSWERS = (t.Ack, t.HeartbeatAck)
