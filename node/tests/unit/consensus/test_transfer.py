# SPDX-License-Identifier: Apache-2.0
"""A leader that hands over stays out of the way, however long the other's disk needs to note its new term."""

from __future__ import annotations

import pytest

from tests.sim.world import World


@pytest.mark.parametrize("seed", range(10))
def test_the_old_leader_does_not_take_over_from_its_heir(seed: int) -> None:
    world = World(seed)
    world.run(5.0)
    old = world.leader()
    assert old is not None
    term = old.raft.current_term
    heir = next(node for node in world.nodes.values() if node is not old)
    # The heir's vote for itself must be durable before it asks others; heartbeats tell the old leader of the term earlier.
    heir.flush_delay = 0.03
    for number in range(50):
        world.write(old, "k", bytes([number]))
    world.run(5.5)
    old.run(lambda: old.raft.leadership.begin_transfer(heir.id, old.clock(), 2.0))
    world.run(8.0)
    leader = world.leader()
    assert leader is heir
    assert heir.raft.current_term == term + 1
