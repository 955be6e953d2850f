# SPDX-License-Identifier: Apache-2.0
"""Directed schedules: histories that random faults hardly ever hit, each with random parameters.

Every one is something that servers, a network and clients can really do; none knows whether the code is right. What must hold is
checked as everywhere (checks.py), and after calm by `settle`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from holdfast.consensus import membership
from holdfast.consensus import types as t
from tests.sim.checks import Violation
from tests.sim.node import Node
from tests.sim.operator import Operator
from tests.sim.stage import ANSWERS, Stage
from tests.sim.world import World, add_learner


def figure_8(seed: int, rng: random.Random) -> World:
    """Raft §5.4.2: an entry of an old term reaches a majority and its leader dies; somebody with a newer last term wins."""
    stage = Stage(seed, rng, 3)
    world, old = stage.world, stage.leader
    middle, rival = stage.others(old.id)
    world.isolate({old.id})
    stage.write(old, rng.randint(2500, 4000))  # larger than a batch: it travels alone
    world.on_leader = lambda node: world.cut({node.id}, {middle, old.id}) if node.id == rival else None
    world.nodes[middle].raft.eligible = False
    if not stage.until(stage.leads(rival)):  # ... and its no-op stays with it
        return world
    world.on_leader = lambda _node: None
    stage.run(rng.uniform(0.01, 0.1))
    if rng.random() < 0.5:
        world.nodes[rival].crash()
    world.isolate({rival})
    world.join_up({old.id, middle})
    if not stage.until(lambda: old.raft.leadership is not None and old.raft.leadership.term > 2, 6):
        return world
    term = old.raft.current_term
    # Of the new term nothing gets through.
    world.drops.append(
        lambda source, _target, m: (
            source == old.id and isinstance(m, t.Append) and any(e.term == term for e in m.entries)
        )
    )
    stage.run(rng.uniform(0.02, 0.5))
    old.crash()
    world.join_up({rival, middle})
    if not world.nodes[rival].up:
        world.nodes[rival].start()
    stage.until(stage.leads(rival, middle))
    stage.run(rng.uniform(0.1, 0.5))
    return world


def re_elected(seed: int, rng: random.Random) -> World:
    """A leader is deposed, its tail overwritten, and it is elected again while answers of its first term are still under way."""
    stage = Stage(seed, rng, 5)
    world, first = stage.world, stage.leader
    friend, second, third, fourth = stage.others(first.id)
    stage.run(rng.uniform(0.5, 3.0))
    late = stage.hold(ANSWERS, first.id, {friend, second, third, fourth})
    stage.run(rng.uniform(0.1, 0.3))
    world.cut({first.id}, {second, third, fourth})
    world.cut({friend}, {second, third, fourth})
    for _ in range(rng.randint(8, 15)):
        stage.write(first, rng.randint(10, 300))
    stage.run(rng.uniform(0.05, 0.5))
    world.holds.clear()
    world.isolate({friend})
    for name in (third, fourth):
        world.nodes[name].raft.eligible = False
    if not stage.until(stage.leads(second)):
        return world
    for _ in range(rng.randint(0, 2)):
        stage.write(world.nodes[second])
    world.join_up({first.id, second, third, fourth})
    leader = world.nodes[second]
    if not stage.until(lambda: first.raft.log.last == leader.raft.log.last and first.raft.leader_id == second, 3):
        return world
    stage.run(0.1)
    if not stage.hand_over(leader, first.id):
        return world
    if rng.random() < 0.5:  # only one real copy; the late answers would make it a majority
        world.isolate({first.id, third})
        for _ in range(rng.randint(1, 4)):
            stage.write(first)
        world.release(late)
        stage.run(rng.uniform(0.05, 0.3))
        first.crash()
    else:  # nobody has heard this leader since another one was elected; the late answers would confirm its reads
        stage.until(lambda: first.raft.leadership is None or first.raft.leadership.ready, 1)
        world.isolate({first.id})
        for name in (third, fourth):
            world.nodes[name].raft.eligible = True
        for _ in range(20):  # the same answers again and again: nobody may take them for new ones
            world.release(late)
            if stage.until(stage.leads(second, third, fourth), 0.2):
                break
        if stage.leads(second, third, fourth)():
            rival = world.leader()
            told = stage.acknowledged()
            if rival is not None:
                stage.write(rival)
            stage.until(lambda: stage.acknowledged() > told, 1)
            stage.read(first)
            world.release(late)
            stage.run(0.05)
    world.isolate({first.id})
    world.join_up({friend, second, fourth})
    for name in (third, fourth):
        world.nodes[name].raft.eligible = True
    stage.until(stage.leads(friend, second, fourth))
    stage.run(rng.uniform(0.1, 0.5))
    if not first.up:
        first.start()
    return world


def sleeping_leader(seed: int, rng: random.Random) -> World:
    """A leader sleeps through its successor's election; answers to what it sent before arrive when it wakes, and it is read."""
    stage = Stage(seed, rng, 3, lease_reads=rng.random() < 0.4)
    world, old = stage.world, stage.leader
    others = stage.others(old.id)
    late = stage.hold(ANSWERS, old.id, set(others))
    stage.run(rng.uniform(0.04, 0.12))
    old.paused = True
    world.holds.clear()
    if not stage.until(stage.leads(*others)):
        return world
    new = next(world.nodes[n] for n in others if world.nodes[n].raft.leadership is not None)
    told = stage.acknowledged()
    stage.write(new)
    stage.until(lambda: stage.acknowledged() > told, 1)
    old.sleep_through()
    world.isolate({old.id})
    if rng.random() < 0.5:
        old.resume()
        world.release(late)
    else:
        world.release(late)
        old.resume()
    for _ in range(rng.randint(1, 4)):
        stage.read(old)
        stage.run(rng.uniform(0.0, 0.06))
    return world


def restoring_leader(seed: int, rng: random.Random) -> World:
    """A leader dies after acknowledging a restore and a write behind it; its successor, which must still load the file, is read."""
    stage = Stage(seed, rng, 3)
    world, old = stage.world, stage.leader
    heir, other = stage.others(old.id)
    world.nodes[other].raft.eligible = False
    told = stage.acknowledged()

    def together() -> None:
        # The write travels with the restore; that both are committed is never heard of by the heir.
        for _ in range(rng.randint(1, 3)):
            stage.write(old)
        world.drops.append(
            lambda source, target, m: (
                (source, target) == (old.id, heir) and isinstance(m, t.Append) and m.commit >= old.raft.log.last
            )
        )

    world.restore(old, together)
    world.slowest = 0.03
    stage.until(lambda: stage.acknowledged() > told, 4)
    old.crash()
    world.slowest = 0.4
    stage.until(stage.leads(heir))
    for _ in range(30):
        stage.read(world.nodes[heir])
        stage.run(rng.uniform(0.002, 0.03))
    world.slowest = 0.3
    old.start()
    return world


def leases(seed: int, rng: random.Random) -> World:
    """A leader that reads under a lease hears nothing of later terms; another server campaigns, or is asked to take over."""
    stage = Stage(seed, rng, 3, lease_reads=True)
    world, old = stage.world, stage.leader
    _near, far = stage.others(old.id)
    term = old.raft.current_term
    world.drops.append(lambda _source, target, m: target == old.id and getattr(m, "term", 0) > term)
    if rng.random() < 0.6:
        world.cut({old.id}, {far}, back=False)  # `far` hears nothing and will campaign; `near` hears everything
        world.nodes[far].rate *= rng.uniform(1.0, 1.05)
    else:
        old.run(lambda: old.raft.leadership and old.raft.leadership.begin_transfer(far, old.clock(), 2.0))
    rival = world.nodes[far]
    told = stage.acknowledged()
    wrote = False
    for _ in range(rng.randint(150, 300)):
        if rival.raft.leadership is not None and not wrote:
            stage.write(rival)
            wrote = True
        if stage.acknowledged() > told or rng.random() < 0.05:
            stage.read(old)
        stage.run(0.005)
    return world


def disruption(seed: int, rng: random.Random) -> World:
    """A server that does not hear a healthy leader must not depose it: not while it is deaf, and not when it is back."""
    stage = Stage(seed, rng, 3)
    world, leader = stage.world, stage.leader
    _near, far = stage.others(leader.id)
    term = leader.raft.current_term
    kind = rng.choice(["deaf", "away", "asleep"])
    if kind == "deaf":
        world.cut({leader.id}, {far}, back=False)
    elif kind == "away":
        world.isolate({far})
    else:
        world.nodes[far].paused = True
    for _ in range(rng.randint(4, 8)):
        stage.run(rng.uniform(0.2, 0.4))
        if kind == "deaf" and rng.random() < 0.5:
            stage.write(leader)
    world.cuts.clear()
    world.nodes[far].sleep_through()
    world.nodes[far].resume()
    stage.run(1.5)
    if leader.raft.leadership is None or leader.raft.current_term != term:
        raise Violation(f"disruption: {leader.id}, whom a majority heard all the time, was deposed by {far} ({kind})")
    return world


def lonely(seed: int, rng: random.Random) -> World:
    """One voter and a learner; the power fails again and again just when the voter has begun to lead."""
    stage = Stage(seed, rng, 1)
    world, only = stage.world, stage.leader
    world.add("n7")
    world.change(only, add_learner("n7"))
    stage.until(stage.agreed, 3)

    def strike(_node: Node) -> None:
        for _ in range(rng.randint(1, 3)):
            stage.write(only, rng.randint(5, 100))
        if rng.random() < 0.7:
            world.at(world.now + rng.uniform(0.002, 0.01), only.crash)

    for _ in range(rng.randint(4, 10)):
        world.on_leader = strike
        only.flush_delay = rng.choice([0.002, 0.02])
        if only.up:
            only.crash()
        only.start()
        stage.until(lambda: not only.up, 1.2)
        world.on_leader = lambda _node: None
    only.flush_delay = 0.002
    if not only.up:
        only.start()
    stage.until(stage.leads(only.id), 3)
    for _ in range(3):
        stage.write(only)
    stage.run(0.3)
    return world


def rotten_snapshot(seed: int, rng: random.Random) -> World:
    """The leader's snapshot has been damaged on its disk, and a server that lags needs it."""
    stage = Stage(seed, rng, 3)
    world, leader = stage.world, stage.leader
    far = stage.others(leader.id)[0]
    world.isolate({far})
    for _ in range(2):
        for _ in range(rng.randint(10, 25)):
            stage.write(leader, 600)
        stage.run(0.5)
    stage.until(lambda: leader.raft.snapshot is not None, 2)
    snapshot = leader.raft.snapshot
    if snapshot is None or leader.raft.leadership is None:
        return world
    leader.rotten.add(snapshot.file)
    leader.disk.rot(snapshot.file, rng.randrange(snapshot.size))
    world.cuts.clear()
    stage.run(rng.uniform(0.1, 2.0))
    for _ in range(12):  # life goes on, and with it comes the next snapshot
        if leader.raft.leadership is not None:
            stage.write(leader, 600)
        stage.run(0.1)
    return world


def second_life(seed: int, rng: random.Random) -> World:
    """A server is wiped and joins again under its id, without a word to its leader, while answers of its first life straggle."""
    stage = Stage(seed, rng, 3, compact_bytes=rng.choice([6000, 100_000, 100_000]))  # a snapshot heals much
    world, leader = stage.world, stage.leader
    lost = world.nodes[stage.others(leader.id)[0]]
    late = stage.hold((t.Ack,), leader.id, {lost.id})
    for _ in range(rng.randint(2, 10)):
        stage.write(leader, rng.choice([10, 1500]))
    stage.run(rng.uniform(0.05, 0.3))
    world.holds.clear()
    world.stragglers = rng.choice([0.0, 0.05])
    operator = Operator(world, rng)
    if (
        rng.random() < 0.5
    ):  # what the lost server had acknowledged is on the leader alone, and that is cut off as soon as it is asked
        other = world.nodes[next(n for n in stage.names if n not in (leader.id, lost.id))]
        world.isolate({other.id})
        told = stage.acknowledged()
        stage.write(leader)
        world.release(late)
        late.clear()
        stage.until(lambda: stage.acknowledged() > told, 1)
        operator.rejoin(lost)
        world.isolate({leader.id})
        world.join_up({lost.id, other.id})
        stage.run(rng.uniform(0.5, 3.0))
        world.cuts.clear()
    else:
        operator.rejoin(lost, remove_first=rng.random() < 0.2)
    joined = lambda: lost.up and lost.life > 1  # noqa: E731
    if not stage.until(joined, 5):
        return world
    world.release(late)
    for _ in range(rng.randint(1, 5)):
        if (found := world.leader()) is not None:
            stage.write(found, rng.choice([10, 1500]))
        stage.run(rng.uniform(0.05, 0.3))
    world.stragglers = 0.0
    stage.until(lambda: operator.done == 1, 10)
    if operator.done != 1:
        raise Violation(f"liveness: {lost.id} was wiped and has not become a voter again")
    return world


def cut_proposal(seed: int, rng: random.Random) -> World:
    """A proposal is cut from its leader's log by a successor that fails; another server still has it, and wins."""
    stage = Stage(seed, rng, 5)
    world, old = stage.world, stage.leader
    keeper, rival, third, fourth = stage.others(old.id)
    stage.drop((t.Ack,), target=old.id)
    world.cut({old.id, keeper}, {rival, third, fourth})
    for _ in range(rng.randint(1, 3)):
        stage.write(old)
    stage.run(rng.uniform(0.05, 0.2))
    world.isolate({keeper})
    for name in (third, fourth):
        world.nodes[name].raft.eligible = False
    world.on_leader = lambda node: world.cut({node.id}, {third, fourth}) if node.id == rival else None
    if not stage.until(stage.leads(rival)):
        return world
    world.join_up({old.id, rival})
    stage.run(rng.uniform(0.1, 0.5))
    world.drops.clear()
    world.isolate({old.id, rival})
    world.join_up({keeper, third, fourth})
    if stage.until(stage.leads(keeper), 6):
        for _ in range(rng.randint(1, 4)):
            stage.read(world.nodes[keeper])
            stage.run(rng.uniform(0.01, 0.2))
    return world


def cut_configuration(seed: int, rng: random.Random) -> World:
    """A removal is cut from its leader's log; elected again, that leader removes another server, and is parted from three of five."""
    stage = Stage(seed, rng, 5)
    world, old = stage.world, stage.leader
    friend, one, two, three = stage.others(old.id)
    world.isolate({old.id})
    world.change(old, lambda c: membership.remove(c, three))
    stage.run(rng.uniform(0.01, 0.2))
    if not stage.until(stage.leads(friend, one, two, three)):
        return world
    world.cuts.clear()
    if (
        not stage.until(stage.agreed, 3)
        or not stage.hand_over(stage.leader, old.id)
        or not stage.until(stage.agreed, 3)
    ):
        return world
    world.change(old, lambda c: membership.remove(c, two))
    world.isolate({old.id, friend})
    for _ in range(rng.randint(1, 3)):
        stage.write(old)
    stage.until(stage.leads(one, two, three), 4)
    stage.run(rng.uniform(0.1, 0.5))
    return world


def power_cuts(seed: int, rng: random.Random) -> World:
    """Slow disks, and the power goes everywhere at once just when a write was acknowledged."""
    stage = Stage(seed, rng, 3)
    world = stage.world
    for _ in range(rng.randint(2, 5)):
        for node in world.nodes.values():
            node.flush_delay = rng.choice([0.002, 0.02, 0.05])
        told = stage.acknowledged() + rng.randint(0, 3)
        for _ in range(20):
            leader = world.leader()
            if leader is not None:
                stage.write(leader, rng.choice([10, 700]))
            if stage.until(lambda told=told: stage.acknowledged() > told, 0.03):  # type: ignore[misc]
                break
        for node in world.nodes.values():
            node.crash()
        for node in world.nodes.values():
            node.start()
        stage.until(lambda: world.leader() is not None, 3)
    return world


def overwritten(seed: int, rng: random.Random) -> World:
    """Behind entries that its successors share, more than one batch, a leader has a tail of its own; it is back after two of them."""
    stage = Stage(seed, rng, 3)
    world, old = stage.world, stage.leader
    second, third = stage.others(old.id)
    stage.drop((t.Ack,), target=old.id)  # it never hears what is committed, and so is asked to go back that far
    for _ in range(rng.randint(2, 4)):
        stage.write(old, rng.randint(1200, 1900))
    both = [world.nodes[n].raft.log for n in (second, third)]
    stage.until(lambda: all(log.last == old.raft.log.last for log in both), 0.5)
    world.isolate({old.id})
    world.drops.clear()
    for _ in range(rng.randint(2, 6)):
        stage.write(old)
    for _ in range(2):
        if not stage.until(stage.leads(second, third)):
            return world
        new = next(world.nodes[n] for n in (second, third) if world.nodes[n].raft.leadership is not None)
        for _ in range(rng.randint(0, 4)):
            stage.write(new)
        stage.hand_over(new, third if new.id == second else second)
    stage.run(rng.uniform(0.0, 0.3))
    world.cuts.clear()
    stage.run(rng.uniform(0.1, 0.5))
    return world


def old_word(seed: int, rng: random.Random) -> World:
    """A server is removed, wiped and added again; one that missed the addition tells it of the removal."""
    stage = Stage(seed, rng, rng.choice([4, 5]))
    world, leader = stage.world, stage.leader
    target, behind = (world.nodes[n] for n in stage.others(leader.id)[:2])
    world.change(leader, lambda c: membership.remove(c, target.id))
    stage.until(lambda: behind.raft.history.at(behind.raft.commit)[1].member(target.id) is None, 2)
    world.isolate({behind.id})
    target.kill()
    target.wipe()

    def join(ok: bool) -> None:
        if ok:
            leader.raft.leadership.restart(target.id, leader.clock())  # as Replica.add does
            target.lost = ""
            target.start()

    world.change(leader, add_learner(target.id), join)
    if not stage.until(lambda: target.up, 2):
        return world
    stage.run(rng.uniform(0.0, 0.3))
    world.join_up({behind.id, target.id})
    for _ in range(rng.randint(1, 3)):
        behind.run(lambda: behind.raft.removed_message(target.id))  # they have connected
        stage.run(rng.uniform(0.0, 0.2))
    world.cuts.clear()
    return world


SCHEDULES: tuple[Callable[[int, random.Random], World], ...] = (
    figure_8,
    re_elected,
    sleeping_leader,
    restoring_leader,
    leases,
    disruption,
    lonely,
    rotten_snapshot,
    second_life,
    cut_proposal,
    cut_configuration,
    power_cuts,
    overwritten,
    old_word,
)
