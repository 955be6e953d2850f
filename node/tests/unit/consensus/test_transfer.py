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


@pytest.mark.parametrize("named", [False, True])
def test_a_target_that_falls_silent_is_given_up(named: bool) -> None:
    """Nothing can be written while leadership is handed over: not for long to somebody who is asleep."""
    world = World(4)
    world.run(5.0)
    old = world.leader()
    assert old is not None
    world.write(old, "k", b"1")
    world.run(6.0)
    wanted = max(node.id for node in world.nodes.values() if node is not old)
    old.raft.leadership.begin_transfer(wanted if named else None, old.clock(), 30.0)
    sleeper = old.raft.leadership.transfer_target
    assert sleeper == wanted or not named
    world.nodes[sleeper].paused = True
    world.run(7.5)
    leader = world.leader()
    assert leader is not None
    assert leader.id != sleeper
    assert (leader is old) == named
    assert leader.raft.leadership.transfer_target is None
