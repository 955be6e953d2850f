# SPDX-License-Identifier: Apache-2.0
"""One seed, one run: random faults under load, then calm, then the books are balanced; and a few directed schedules before it."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.sim import history
from tests.sim.chaos import Chaos
from tests.sim.checks import Violation
from tests.sim.node import Node
from tests.sim.schedules import SCHEDULES
from tests.sim.world import KEYS, TIMING, World

EACH = 3  # directed schedules a seed


def run(seed: int, faults_for: float = 12.0) -> World:
    """Run one seed: its directed schedules, then its chaos, whose world is returned. Raises Violation when a promise is broken."""
    for number in range(seed * EACH, (seed + 1) * EACH):
        run_schedule(number)
    return run_chaos(seed, faults_for)


def run_schedule(number: int) -> World:
    """One directed schedule with parameters of its own, then calm."""
    rng = random.Random(number * 104729 + 3)
    world = SCHEDULES[number % len(SCHEDULES)](number, rng)
    Chaos(world, rng, jumps=False).heal()
    settle(world)
    return world


def run_chaos(seed: int, faults_for: float) -> World:
    """Random faults, then calm."""
    rng = random.Random(seed * 7919 + 1)
    lease = rng.random() < 0.3
    world = World(seed, rng.choice([1, 3, 3, 3, 5]), replace(TIMING, lease_reads=lease))
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
    chaos = Chaos(world, rng, jumps=not lease)
    end = world.now + faults_for
    while world.now < end:
        world.run(world.now + rng.expovariate(25))
        chaos.event()
    chaos.heal()
    settle(world)
    return world


def settle(world: World) -> None:
    """Liveness: within 30 simulated seconds of calm there is a leader and every member has everything. Then the books."""
    for _ in range(60):
        world.run(world.now + 0.5)
        leader = world.leader()
        if leader is None or not leader.raft.leadership.ready:
            continue
        latest = leader.raft.history.latest
        nodes = [world.nodes[m.node_id] for m in latest.members]
        if not all(n.up and n.raft.applied == leader.raft.log.last and not n.raft._busy for n in nodes):
            continue
        if any(n.raft.removed for n in nodes):  # a member that takes itself for none never speaks again
            continue
        states = {tuple(sorted(n.machine.state.items())) for n in nodes}
        if len(states) != 1:
            raise Violation("members that applied the same entries have different states")
        gone = [world.nodes[n] for n in latest.removed if latest.member(n) is None]
        if all(n.raft.removed for n in gone if n.up and _was_member(n)):
            break
    else:
        raise Violation(f"liveness: no agreement after 30 s of calm: {_describe(world)}")
    for index, command in world.checks.acked.items():
        if world.checks.committed.get(index, (0, command))[1] != command or index > leader.raft.commit:
            raise Violation(f"acknowledged entry {index} is lost")
    for key in KEYS:
        world.read(leader, key)
    world.run(world.now + 0.5)
    history.check(world.checks.history)


def _was_member(node: Node) -> bool:
    """Whether the log that a server has says so: one that was removed before its own addition reached it cannot know."""
    latest = node.raft.history.latest
    return latest.member(node.id) is not None or node.id in latest.removed


def _describe(world: World) -> str:
    rows = []
    for node in world.nodes.values():
        raft = node.raft
        rows.append(
            f"{node.id} up={node.up} lost={node.lost!r} term={raft.current_term} state={raft.state} last={raft.log.last} "
            f"first={raft.log.first} commit={raft.commit} applied={raft.applied} busy={raft._busy} removed={raft.removed} "
            f"voters={sorted(raft.history.latest.voters)} leader={raft.leader_id}"
        )
    return "\n  " + "\n  ".join(rows)
