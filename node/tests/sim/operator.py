# SPDX-License-Identifier: Apache-2.0
"""What an operator and autopilot do in the simulated world: jobs of several steps, each tried again until it is done.

As in production, a configuration change is asked of the leader; what concerns the leader itself is done after leadership has
moved (storage/raft_members.py); a member added again starts only when its addition is committed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from holdfast.consensus import membership
from holdfast.consensus.types import Configuration, Role
from tests.sim.node import NEWER, Node
from tests.sim.world import World, add_learner

_AGAIN = 0.2  # seconds between two tries


class Operator:
    """At most one server is being replaced at a time: more could be a majority, and then nothing can be promised."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.busy = False
        self.done = 0

    def _try(self, step: Callable[[Callable[[bool], None]], None], then: Callable[[], None]) -> None:
        """Call `step(report)` until it reports success, then `then()`."""
        finished = [False]

        def report(ok: bool) -> None:
            if ok and not finished[0]:
                finished[0] = True
                then()

        def again() -> None:
            if not finished[0]:
                step(report)
                self.world.at(self.world.now + _AGAIN, again)

        again()

    def _change(self, change: Callable[[Configuration], Configuration], concerns: str = "") -> Callable[..., None]:
        def step(report: Callable[[bool], None]) -> None:
            leader = self.world.leader()
            if leader is None:
                return
            if leader.id == concerns:
                self.transfer(leader)
            else:
                self.world.change(leader, change, report)

        return step

    def transfer(self, leader: Node) -> None:
        """Hand leadership to whoever can take it."""
        leader.run(lambda: leader.raft.leadership and leader.raft.leadership.begin_transfer(None, leader.clock(), 2.0))

    def remove(self, node_id: str, then: Callable[[], None] = lambda: None) -> None:
        """Remove a server, be it the leader; not while another one is being rebuilt, for the two might be a majority."""
        change, mine = self._change(lambda old: membership.remove(old, node_id), node_id), self.busy

        def step(report: Callable[[bool], None]) -> None:
            if mine or not self.busy:
                change(report)

        self._try(step, then)

    def promote(self, node_id: str, then: Callable[[], None] = lambda: None) -> None:
        """Make a learner a voter once the leader knows that it has caught up (autopilot's rule)."""

        def step(report: Callable[[bool], None]) -> None:
            leader = self.world.leader()
            progress = leader.raft.leadership.progress.get(node_id) if leader is not None else None
            if leader is not None and progress is not None and 0 < progress.match >= leader.raft.commit:
                self.world.change(leader, lambda old: membership.with_role(old, node_id, Role.VOTER), report)

        self._try(step, then)

    def rejoin(self, node: Node, remove_first: bool | None = None) -> None:
        """Wipe a server and let it join again, under the same id: after its removal, or in place of itself, perhaps elsewhere."""
        if self.busy:
            return
        self.busy = True
        kept = self.world.configuration.member(node.id)
        old_address = kept.address if kept else f"{node.id}:1"
        address = old_address if self.rng.random() < 0.5 else f"{node.id}-new:{self.rng.randint(1, 9)}"
        wanted_format = NEWER if node.newer else 1

        def finished() -> None:
            self.busy = False
            self.done += 1

        def joined() -> None:
            leader = self.world.leader()
            if leader is not None:  # Replica.add does so in the turn in which the change is committed
                leader.raft.leadership.restart(node.id, leader.clock())
            node.lost = ""
            node.start()
            self.promote(node.id, finished)

        def add() -> None:
            if node.up:
                node.kill()
            node.wipe()
            self._try(self._change(add_learner(node.id, address, wanted_format), node.id), joined)

        if self.rng.random() < 0.5 if remove_first is None else remove_first:
            self.remove(node.id, add)
        else:
            if node.up:
                node.kill()
            add()

    def upgrade(self, node: Node, back_up: Callable[[Node], None]) -> None:
        """Restart a server with the newer version; when it runs, its format is raised in the configuration."""
        if node.newer or not node.up:
            return
        node.kill()
        node.newer = True
        back_up(node)
        self.raise_format(node.id)

    def raise_format(self, node_id: str) -> None:
        """Record that a server reads the newer log format."""

        def change(old: Configuration) -> Configuration:
            return replace(
                old, members=tuple(replace(m, format=NEWER) if m.node_id == node_id else m for m in old.members)
            )

        self._try(self._change(change), lambda: None)
