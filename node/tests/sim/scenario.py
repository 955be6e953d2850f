# SPDX-License-Identifier: Apache-2.0
"""One seed, one run: random faults under load, then calm, then the books are balanced."""

from __future__ import annotations

import random
from collections.abc import Callable

from holdfast.consensus import membership
from holdfast.consensus.raft import Raft
from holdfast.consensus.types import Role
from tests.sim.world import Node, Violation, World, add_learner


def run(seed: int, faults_for: float = 12.0, mutate: Callable[[Raft], None] | None = None) -> World:
    """Run one seed; raises Violation when a promise is broken."""
    rng = random.Random(seed * 7919 + 1)
    world = World(seed, servers=rng.choice([1, 3, 3, 3, 5]), mutate=mutate)
    world.loss = rng.choice([0, 0, 0.01, 0.1])
    world.duplicate = rng.choice([0, 0.02])
    world.stragglers = rng.choice([0, 0, 0.003, 0.02])
    slow = rng.choice([None, None, "disk", "net"])
    for node in world.nodes.values():
        node.rate = rng.uniform(0.98, 1.02)
        node.offset = rng.uniform(0, 1000)
        if slow == "disk" and rng.random() < 0.4:
            node.flush_delay = 0.05
    if slow == "net":
        world.delay = (0.001, 0.1)
    chaos = _Chaos(world, rng)
    end = world.now + faults_for
    while world.now < end:
        world.run(world.now + rng.expovariate(25))
        chaos.event()
    chaos.heal()
    _settle(world)
    return world


class _Chaos:
    """Clients and misfortune."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.count = 0
        self.spares = [f"n{i}" for i in range(7, 12)]
        self.joined: set[str] = set()
        self.flapping = rng.random() < 0.2

    def event(self) -> None:
        for _ in range(self.rng.randint(0, 6)):
            self.client()
        if self.rng.random() < 0.10:
            self.fault()
        if self.rng.random() < 0.3:
            self.read_everywhere()
        if self.rng.random() < (0.3 if self.flapping else 0.02):
            self.strike_leader()
        if self.rng.random() < 0.04:
            self.membership()

    def client(self) -> None:
        world, rng = self.world, self.rng
        node = world.leader() if rng.random() < 0.8 else rng.choice(list(world.nodes.values()))
        if node is None or not node.up:
            return
        self.count += 1
        if rng.random() < 0.25:
            world.read(node)
        else:
            key = f"k{rng.randint(0, 20)}"
            expected = rng.choice([None, None, node.machine.state.get(key, 0)])
            world.write(node, key, rng.randbytes(rng.choice([10, 10, 200, 1500])), expected)

    def read_everywhere(self) -> None:
        """Every server that believes it leads is asked: an old leader must not answer."""
        for node in list(self.world.nodes.values()):
            if node.up and not node.paused and node.raft.leadership is not None:
                self.world.read(node)

    def strike_leader(self) -> None:
        """The leader is cut off, or dies, in the middle of a write and a configuration change."""
        world, rng = self.world, self.rng
        leader = world.leader()
        if leader is None:
            return
        others = [n for n in world.nodes if n != leader.id]
        if rng.random() < 0.5:
            kept = set(rng.sample(others, rng.randint(0, 1))) if others else set()
            cut = {(leader.id, o) for o in others if o not in kept} | {(o, leader.id) for o in others if o not in kept}
            world.cuts |= cut
            world.at(world.now + rng.uniform(0.3, 2.5), lambda: world.cuts.difference_update(cut))
            for _ in range(rng.randint(1, 4)):
                world.write(leader, f"k{rng.randint(0, 20)}", rng.randbytes(20))
            self.membership()
        else:
            world.write(leader, f"k{rng.randint(0, 20)}", rng.randbytes(20))
            world.at(world.now + rng.uniform(0.0, 0.006), leader.crash)
            world.at(world.now + rng.uniform(0.1, 1.5), lambda: self._restart(leader))

    def fault(self) -> None:
        world, rng = self.world, self.rng
        node = rng.choice(list(world.nodes.values()))
        kind = rng.random()
        if kind < 0.30:
            node.disk.crash_after = rng.randint(0, 12) if node.up else None
            if rng.random() < 0.5:
                node.crash()
            world.at(world.now + rng.uniform(0.05, 2.0), lambda: self._restart(node))
        elif kind < 0.55:
            self._cut()
        elif kind < 0.65:
            node.paused = True
            world.at(world.now + rng.uniform(0.1, 1.5), node.resume)
        elif kind < 0.72:
            node.offset += rng.uniform(0, 0.6)
        elif kind < 0.80:
            node.sealed = not node.sealed
            if node.up:
                node.raft.eligible = not node.sealed
        elif kind < 0.87:
            for peer in list(world.nodes):
                if peer != node.id and node.up and world.nodes[peer].up:
                    node.run(lambda peer=peer: node.raft.disconnected(peer))  # type: ignore[misc]
        elif kind < 0.92:
            for other in list(world.nodes.values()):
                other.crash()
                world.at(world.now + rng.uniform(0.05, 1.0), lambda other=other: self._restart(other))  # type: ignore[misc]
        elif kind < 0.96:
            leader = world.leader()
            if leader is not None:
                world.restore(leader)
        elif node.up:
            node.run(node.raft.request_snapshot)

    def _restart(self, node: Node) -> None:
        if node.disk.crash_after is not None:
            node.crash()
        if not node.up:
            node.start()

    def _cut(self) -> None:
        world, rng = self.world, self.rng
        names = list(world.nodes)
        rng.shuffle(names)
        side = set(names[: rng.randint(1, max(1, len(names) // 2))])
        pairs = [(a, b) for a in names for b in names if (a in side) != (b in side)]
        one_way = rng.random() < 0.4
        new = {p for p in pairs if not one_way or (p[0] in side)}
        world.cuts |= new
        world.at(world.now + rng.uniform(0.1, 3.0), lambda: world.cuts.difference_update(new))

    def membership(self) -> None:
        world, rng = self.world, self.rng
        leader = world.leader()
        if leader is None:
            return
        latest = leader.raft.history.latest
        others = [m for m in latest.members if m.node_id != leader.id]
        kind = rng.random()
        if kind < 0.3 and self.spares and len(latest.members) < 6:
            node_id = self.spares.pop()
            self.joined.add(node_id)
            world.add(node_id)
            world.change(leader, add_learner(node_id))
        elif kind < 0.6:
            learners = [m for m in others if m.role is Role.LEARNER]
            if learners:
                target = rng.choice(learners).node_id
                world.change(leader, lambda old: membership.with_role(old, target, Role.VOTER))
        elif kind < 0.7 and len(latest.voters) > 3:
            target = rng.choice(others).node_id
            world.change(leader, lambda old: membership.remove(old, target))
        elif kind < 0.8 and others:
            target = rng.choice(others).node_id
            if len(latest.voters) > 3:
                world.change(leader, lambda old: membership.with_role(old, target, Role.LEARNER))
        elif others:
            leader.run(
                lambda: leader.raft.leadership and leader.raft.leadership.begin_transfer(None, leader.clock(), 2.0)
            )

    def heal(self) -> None:
        world = self.world
        world.cuts.clear()
        world.loss = world.stragglers = 0.0
        world.delay = (0.0005, 0.004)
        for node in world.nodes.values():
            node.flush_delay = 0.002
            node.sealed = False
            node.disk.crash_after = None
            if node.paused:
                node.resume()
            if not node.up:
                node.start()
            node.raft.eligible = True


def _settle(world: World) -> None:
    """Liveness: within 30 simulated seconds of calm there is a leader and every member has everything."""
    for _ in range(60):
        world.run(world.now + 0.5)
        leader = world.leader()
        if leader is None or not leader.raft.leadership.ready:
            continue
        members = [m.node_id for m in leader.raft.history.latest.members]
        nodes = [world.nodes[m] for m in members]
        if all(n.up and n.raft.applied == leader.raft.log.last and not n.raft._busy for n in nodes):
            states = {tuple(sorted(n.machine.state.items())) for n in nodes}
            if len(states) != 1:
                raise Violation("members that applied the same entries have different states")
            break
    else:
        raise Violation(f"liveness: no agreement after 30 s of calm: {_describe(world)}")
    for index, command in world.checks.acked.items():
        if world.checks.committed.get(index, (0, command))[1] != command or index > leader.raft.commit:
            raise Violation(f"acknowledged entry {index} is lost")


def _describe(world: World) -> str:
    rows = []
    for node in world.nodes.values():
        raft = node.raft
        rows.append(
            f"{node.id} up={node.up} term={raft.current_term} state={raft.state} last={raft.log.last} first={raft.log.first} "
            f"commit={raft.commit} applied={raft.applied} busy={raft._busy} removed={raft.removed} "
            f"voters={sorted(raft.history.latest.voters)} leader={raft.leader_id}"
        )
    return "\n  " + "\n  ".join(rows)
