# SPDX-License-Identifier: Apache-2.0
"""Clients and misfortune, at random."""

from __future__ import annotations

import random

from holdfast.consensus import membership, recovery, wal
from holdfast.consensus.types import Role
from tests.sim.checks import Violation
from tests.sim.node import NEWER, Node
from tests.sim.operator import Operator
from tests.sim.world import KEYS, World, add_learner

UNLIMITED = 1 << 40


class Chaos:
    """Random events in a world. `jumps`: clocks may jump (never with lease reads, which trust them)."""

    def __init__(self, world: World, rng: random.Random, jumps: bool) -> None:
        self.world = world
        self.rng = rng
        self.jumps = jumps
        self.operator = Operator(world, rng)
        self.spares = [f"n{i}" for i in range(7, 12)]
        self.flapping = rng.random() < 0.2
        self.trouble = rng.choice([0.02, 0.05, 0.10])  # faults an event: a cluster that is always down proves little
        self.upgrades = rng.random() < 0.3
        world.on_stopped = self.restart_later

    def event(self) -> None:
        """Something happens."""
        rng = self.rng
        for _ in range(rng.randint(0, 6)):
            self.client()
        if rng.random() < self.trouble:
            self.fault()
        if rng.random() < self.trouble * 0.15:
            self.disk_fault()
        if rng.random() < 0.3:
            self.read_everywhere()
        if rng.random() < (0.3 if self.flapping else 0.02):
            self.strike_leader()
        if rng.random() < 0.04:
            self.membership()
        if self.upgrades and rng.random() < 0.02:
            self.operator.upgrade(rng.choice(list(self.world.nodes.values())), self.restart_later)
        if self.upgrades and rng.random() < 0.1:
            for node in list(self.world.nodes.values()):
                if node.up and node.raft.leadership is not None:
                    self.world.note(node)

    def client(self) -> None:
        """One client asks one server."""
        world, rng = self.world, self.rng
        node = world.leader() if rng.random() < 0.8 else rng.choice(list(world.nodes.values()))
        if node is None or not node.up:
            return
        key = rng.choice(KEYS)
        if rng.random() < 0.25:
            world.read(node, key)
        else:
            check = rng.choice([None, None, node.machine.state.get(key, 0)])
            world.write(node, key, rng.choice([10, 10, 200, 1500]), check)

    def read_everywhere(self) -> None:
        """Every server that believes it leads is asked: an old leader must not answer."""
        for node in list(self.world.nodes.values()):
            if node.up and not node.paused and node.raft.leadership is not None:
                self.world.read(node, self.rng.choice(KEYS))

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
                world.write(leader, rng.choice(KEYS), 20)
            self.membership()
        else:
            world.write(leader, rng.choice(KEYS), 20)
            world.at(world.now + rng.uniform(0.0, 0.006), rng.choice([leader.crash, leader.kill]))
            self.restart_later(leader, 1.5)

    def fault(self) -> None:
        """Something breaks."""
        world, rng = self.world, self.rng
        node = rng.choice(list(world.nodes.values()))
        kind = rng.random()
        if kind < 0.30:
            if node.up:
                node.disk.crash_after = rng.randint(0, 12)
                if rng.random() < 0.5:
                    rng.choice([node.crash, node.crash, node.kill])()
            self.restart_later(node)
        elif kind < 0.55:
            self._cut()
        elif kind < 0.65:
            node.paused = True
            if rng.random() < 0.3:
                world.at(world.now + 0.05, node.sleep_through)
            world.at(world.now + rng.uniform(0.1, 1.5), node.resume)
        elif kind < 0.72:
            if self.jumps:
                node.offset += rng.uniform(0, 0.6)
        elif kind < 0.80:
            node.sealed = not node.sealed
            if node.up:
                node.raft.eligible = not node.sealed
        elif kind < 0.87:
            self.reconnect(node)
        elif kind < 0.92:
            for other in list(world.nodes.values()):
                rng.choice([other.crash, other.kill])()
                self.restart_later(other, 1.0)
        elif kind < 0.96:
            leader = world.leader()
            if leader is not None:
                world.restore(leader)
        elif node.up:
            node.run(node.raft.request_snapshot)

    def disk_fault(self) -> None:
        """The disk of one server fails, fills up, or rots; or a server loses everything."""
        rng = self.rng
        node = rng.choice(list(self.world.nodes.values()))
        kind = rng.random()
        if kind < 0.4:
            node.disk.error_after = rng.randint(0, 8)
            self.restart_later(node)
        elif kind < 0.6:
            node.disk.capacity = node.disk.capacity - node.disk.free() + rng.randint(0, 300_000)
            self.world.at(self.world.now + rng.uniform(0.5, 4.0), lambda: setattr(node.disk, "capacity", UNLIMITED))
        elif kind < 0.8:
            self.rot(node)
        else:
            self.lose(node)

    def _may_lose(self, node: Node) -> bool:
        """True when a minority of the voters, and no other server, is being rebuilt.

        Nobody is lost for good while a change is under way, be it in a tail that will be cut: the majorities of old and new need
        different servers, and a newer entry that only a learner holds can keep the rest from electing anybody (seed 17906).
        """
        nodes = [n.raft for n in self.world.nodes.values()]
        index, latest = max(nodes, key=lambda raft: raft.commit).history.at(max(raft.commit for raft in nodes))
        settled = all(raft.history.latest_index <= index for raft in nodes)
        return not self.operator.busy and settled and latest.member(node.id) is not None and len(latest.voters) >= 3

    def rot(self, node: Node) -> None:
        """A byte of the journal, or of the snapshot, of a stopped server changes; the last flush alone is spared.

        (Damage there cannot be told from a torn tail.) The server must refuse to start, and is rebuilt.
        """
        if not self._may_lose(node):
            return
        node.crash()
        disk, rng = node.disk, self.rng
        recovery.recover(disk, 1 << 16)  # settles the tail: what is read below is what the next start reads
        places = []
        for name in (n for n in disk.list() if n.startswith("wal-")):
            starts = [o for o, kind, _, _ in recovery._records(int(name[4:-4]), disk.read(name)) if kind == wal.FLUSH]
            places.append((name, starts[-1] if starts else 0))
        name, end = rng.choice(places)
        if end:
            node.rotten.add(name)
            disk.rot(name, rng.randrange(end))
            node.start()
            if not node.lost:
                raise Violation(f"{node.id} starts on a damaged journal")
            self.operator.rejoin(node)
        else:
            self.restart_later(node)

    def lose(self, node: Node) -> None:
        """A server is wiped, at a time when nobody is ready for it, and joins again."""
        if self._may_lose(node):
            self.operator.rejoin(node)

    def restart_later(self, node: Node, limit: float = 2.0) -> None:
        """Whatever happened to it, it is up again soon: with or without a power cycle."""
        self.world.at(self.world.now + self.rng.uniform(0.05, limit), lambda: self._restart(node))

    def _restart(self, node: Node) -> None:
        if node.disk.crash_after is not None:
            node.crash()
        if not node.up and not node.lost:
            if self.rng.random() < 0.3:
                node.disk.power_loss()
            node.start()

    def reconnect(self, node: Node) -> None:
        """All connections of a server break and come back."""
        for peer, other in list(self.world.nodes.items()):
            if peer != node.id and node.up and other.up:
                node.run(lambda peer=peer: node.raft.disconnected(peer))  # type: ignore[misc]
                node.run(lambda peer=peer: node.raft.removed_message(peer))  # type: ignore[misc]

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
        """The operator changes the configuration, or moves leadership."""
        world, rng = self.world, self.rng
        leader = world.leader()
        if leader is None:
            return
        latest = leader.raft.history.latest
        others = [m for m in latest.members if m.node_id != leader.id]
        kind = rng.random()
        if kind < 0.3 and self.spares and len(latest.members) < 6:
            node_id = self.spares.pop()
            node = world.add(node_id)
            if self.upgrades and rng.random() < 0.5:
                node.kill()
                node.newer = True
                node.start()
            world.change(leader, add_learner(node_id, log_format=NEWER if node.newer else 1))
        elif kind < 0.6:
            # Autopilot waits until they have everything; here they need only know that they are members.
            progress = leader.raft.leadership.progress
            learners = [m for m in others if m.role is Role.LEARNER and progress[m.node_id].match > 1]
            if learners:
                target = rng.choice(learners).node_id
                world.change(leader, lambda old: membership.with_role(old, target, Role.VOTER))
        elif kind < 0.7 and len(latest.voters) > 3:
            target = rng.choice(latest.members).node_id  # the leader itself, too
            self.operator.remove(target)
        elif kind < 0.8 and others:
            target = rng.choice(others).node_id
            if len(latest.voters) > 3:
                world.change(leader, lambda old: membership.with_role(old, target, Role.LEARNER))
        elif others:
            self.operator.transfer(leader)

    def heal(self) -> None:
        """Faults stop; whoever is down is started, whoever is damaged is rebuilt by the operator."""
        world = self.world
        world.cuts.clear()
        world.drops.clear()
        world.holds.clear()
        world.loss = world.stragglers = 0.0
        world.delay = (0.0005, 0.004)
        for node in world.nodes.values():
            node.flush_delay = 0.002
            node.sealed = False
            node.disk.crash_after = node.disk.error_after = None
            node.disk.capacity = UNLIMITED
            if node.paused:
                node.resume()
            if not node.up and not node.lost:
                node.start()
            if node.up:
                node.raft.eligible = True
        for node in world.nodes.values():
            self.reconnect(node)
