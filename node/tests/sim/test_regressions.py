# SPDX-License-Identifier: Apache-2.0
"""What the simulator found in consensus/, each as the shortest run that shows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast.consensus import membership, recovery, wal
from holdfast.consensus import types as t
from holdfast.consensus.seam import SUCCESS
from holdfast.consensus.types import Configuration, Entry, Member, RefusedError, Role
from tests.sim.disk import PowerLoss, SimDisk
from tests.sim.node import NEWER, NOTE, SEGMENT, Node
from tests.sim.stage import Stage
from tests.sim.world import add_learner


@pytest.mark.parametrize("failure", ["the process dies before fdatasync", "fdatasync fails"])
def test_what_recovery_reads_survives_the_next_power_loss(failure: str) -> None:
    """It is acknowledged as durable right after the start, be it that only the page cache had it."""
    for luck in range(30):
        disk = SimDisk(random.Random(luck))
        wal.create(disk, "cl", "n1", SEGMENT)
        log, _ = recovery.recover(disk, SEGMENT)
        entry = Entry(b"\x00" + bytes(2000), 2, 1)
        log.entry(entry)
        batch = log.take()
        if failure == "fdatasync fails":
            disk.error_after = 1  # the write is good
            with pytest.raises(OSError, match="Input/output"):
                log.write(batch)
        else:
            disk.crash_after = 1
            with pytest.raises(PowerLoss):
                log.write(batch)
            disk.crash_after = None
        _, recovered = recovery.recover(disk, SEGMENT)
        assert recovered.entries[-1] == entry
        disk.power_loss()
        assert recovery.recover(disk, SEGMENT)[1].entries[-1] == entry


def test_a_change_is_not_said_to_be_so_already_while_it_is_not_committed() -> None:
    """A wiped server was started on the strength of it, and voted for who lacked what it had acknowledged."""
    stage = Stage(1, random.Random(1), 3)
    leader = stage.leader
    stage.world.isolate({leader.id})
    change = add_learner(stage.others(leader.id)[0], "elsewhere:1")
    leader.run(lambda: leader.raft.propose_change(change, lambda _result, _reason: None))
    with pytest.raises(RefusedError, match="under way") as refusal:
        leader.raft.propose_change(change, lambda _result, _reason: None)
    assert refusal.value.passing


def test_a_server_that_knows_no_member_grants_no_vote() -> None:
    """It may be a wiped one that has promised something before."""
    stage = Stage(2, random.Random(2), 3)
    blank = stage.world.add("n7")
    stage.run(1.0)
    sent: list[t.Message] = []
    stage.world.drops.append(lambda source, _target, m: source == "n7" and bool(sent.append(m)))  # type: ignore[func-returns-value]
    blank.run(lambda: blank.raft.receive("n0", t.PreVote(99, 1000, 98)))
    blank.run(lambda: blank.raft.receive("n0", t.Vote(99, 1000, 98, True)))
    stage.run(0.1)
    assert [m.granted for m in sent if isinstance(m, t.PreVoteReply | t.VoteReply)] == [False, False]


def test_a_proposal_that_was_cut_may_still_take_effect() -> None:
    """Five servers: one that holds it wins the election after the one that cut it. "It failed" would have been a lie."""
    stage = Stage(3, random.Random(3), 5)
    world, old = stage.world, stage.leader
    keeper, rival, third, fourth = stage.others(old.id)
    stage.drop((t.Ack,), target=old.id)
    world.cut({old.id, keeper}, {rival, third, fourth})
    stage.write(old)
    operation = world.checks.history[-1]
    stage.run(0.1)
    assert world.nodes[keeper].raft.log.last == old.raft.log.last
    world.isolate({keeper})
    for name in (third, fourth):
        world.nodes[name].raft.eligible = False
    world.on_leader = lambda node: world.cut({node.id}, {third, fourth}) if node.id == rival else None
    assert stage.until(stage.leads(rival))
    world.join_up({old.id, rival})
    assert stage.until(lambda: operation.returned is not None, 2)
    assert operation.ok is None
    world.drops.clear()
    world.isolate({old.id, rival})
    world.join_up({keeper, third, fourth})
    assert stage.until(stage.leads(keeper), 6)
    assert stage.until(lambda: world.nodes[keeper].machine.state.get(operation.key) == operation.value, 2)


def _removed_and_added_again(stage: Stage, between: Callable[[], None]) -> str:
    world, leader = stage.world, stage.leader
    target = stage.others(leader.id)[0]
    world.isolate({target})
    world.change(leader, lambda old: membership.remove(old, target))
    stage.run(0.5)
    between()
    world.nodes[target].kill()
    world.nodes[target].wipe()
    world.change(leader, add_learner(target))
    stage.run(0.5)
    world.cuts.clear()
    world.nodes[target].lost = ""
    world.nodes[target].start()
    return target


def test_a_server_that_is_added_again_does_not_stop_at_the_entry_that_removed_it() -> None:
    stage = Stage(4, random.Random(4), 4)
    leader = stage.leader

    def fill() -> None:  # the removal and the addition do not travel in one batch
        for _ in range(3):
            stage.write(leader, 1500)
        stage.run(0.2)

    target = _removed_and_added_again(stage, fill)
    assert stage.until(stage.agreed, 5)
    assert not stage.world.nodes[target].raft.removed


def test_an_old_word_about_a_removal_is_not_believed_by_who_was_added_again() -> None:
    stage = Stage(5, random.Random(5), 4)
    target = _removed_and_added_again(stage, lambda: None)
    node = stage.world.nodes[target]
    removal = stage.leader.raft.history.latest_index - 1
    assert stage.until(lambda: node.raft.log.last > 1, 2)
    node.run(lambda: node.raft.receive(stage.leader.id, t.Removed(removal, stage.leader.raft.current_term)))
    stage.run(2.0)
    assert not node.raft.removed


def test_a_removed_learner_that_is_told_right_after_its_start_believes_it() -> None:
    """Nobody speaks to it again: it never campaigns."""
    stage = Stage(6, random.Random(6), 3)
    world, leader = stage.world, stage.leader
    world.add("n7")
    world.change(leader, add_learner("n7"))
    assert stage.until(stage.agreed, 3)
    node = world.nodes["n7"]
    node.kill()
    world.change(leader, lambda old: membership.remove(old, "n7"))
    stage.run(0.5)
    node.start()
    leader.run(lambda: leader.raft.removed_message("n7"))  # it has just connected
    assert stage.until(lambda: node.raft.removed, 3)


def test_a_kind_of_entry_waits_until_every_member_knows_it() -> None:
    stage = Stage(7, random.Random(7), 3)
    world = stage.world
    for node in world.nodes.values():
        node.kill()
        node.newer = True
        node.start()
    assert stage.until(stage.agreed, 5)
    leader = stage.leader
    note = bytes([NOTE]) + b"note"
    with pytest.raises(RefusedError, match="log format 2, but a member reads only 1"):
        leader.raft.propose(note, lambda _result, _reason: None)

    def raised(old: Configuration) -> Configuration:
        return Configuration(
            old.cluster_id, tuple(Member(m.node_id, m.address, m.role, NEWER) for m in old.members), old.ca
        )

    world.change(leader, raised)
    assert stage.until(stage.agreed, 3)
    outcomes: list[int] = []
    leader.run(lambda: leader.raft.propose(note, lambda _result, reason: outcomes.append(reason)))
    assert stage.until(lambda: outcomes == [SUCCESS], 2)
    assert stage.until(stage.agreed, 2)
    with pytest.raises(RefusedError, match="server n9 reads log format 1, but the log may hold entries of format 2"):
        leader.raft.propose_change(
            lambda old: membership.add(old, Member("n9", "n9:1", Role.LEARNER)), lambda _result, _reason: None
        )


def test_a_removed_leader_believes_it_whatever_changes_it_had_under_way() -> None:
    """Its uncommitted tail has a configuration of a higher index than the one that removed it, but of an older term."""
    stage = Stage(7, random.Random(7), 4)
    world, old = stage.world, stage.leader
    world.cuts |= {(old.id, n) for n in stage.names} | {(n, old.id) for n in stage.names}
    for _ in range(20):
        stage.write(old)
    world.change(old, add_learner("n7"))
    lost = old.raft.history.latest_index
    assert stage.until(stage.leads(*stage.others(old.id)), 4)
    new = stage.leader
    assert new is not old
    assert stage.until(lambda: new.raft.leadership.ready, 2)
    world.change(new, lambda latest: membership.remove(latest, old.id))
    assert stage.until(lambda: new.raft.commit >= new.raft.history.latest_index, 2)
    assert new.raft.history.latest_index < lost == old.raft.history.latest_index
    world.cuts.clear()
    assert stage.until(lambda: old.raft.removed, 4)


def test_a_lease_does_not_outlast_the_patience_of_servers_whose_performance_multiplier_is_smaller() -> None:
    """Each server has its own configuration, and a change of it reaches them one after the other."""
    stage = Stage(10, random.Random(10), 3, lease_reads=True)
    world = stage.world
    slow = world.nodes[stage.others(stage.leader.id)[0]]
    slow.raft.timing = world.timing.scaled(5.0)
    assert stage.hand_over(stage.leader, slow.id)
    assert stage.until(stage.agreed, 5)
    others = stage.others(slow.id)
    world.isolate({slow.id})
    assert stage.until(stage.leads(*others), 5)
    told = stage.acknowledged()
    stage.write(next(world.nodes[n] for n in others if world.nodes[n].raft.leadership is not None))
    assert stage.until(lambda: stage.acknowledged() > told, 2)
    stage.read(slow)  # raises Violation when it answers


def test_a_server_that_missed_an_addition_is_brought_up_to_date_by_another_leader() -> None:
    """It last heard that the leader had been removed, and takes nothing from it (seed 11651)."""
    stage = Stage(8, random.Random(8), 5)
    world, first = stage.world, stage.leader
    behind, target, third, fourth = stage.others(first.id)
    world.isolate({target})
    world.change(first, lambda old: membership.remove(old, target))
    assert stage.until(lambda: world.nodes[behind].raft.history.latest.member(target) is None, 2)
    stage.write(first)
    assert stage.until(lambda: world.nodes[behind].raft.commit == first.raft.log.last, 2)
    world.isolate({behind})
    world.nodes[target].kill()
    world.nodes[target].wipe()
    world.change(first, add_learner(target))
    stage.run(0.5)
    world.join_up({target, first.id, third, fourth})
    world.nodes[target].lost = ""
    world.nodes[target].start()
    assert stage.until(lambda: world.nodes[target].raft.log.last == first.raft.log.last, 3)
    world.change(first, lambda old: membership.with_role(old, target, Role.VOTER))
    stage.run(0.5)
    assert stage.hand_over(first, target)
    assert stage.until(lambda: world.nodes[target].raft.leadership is not None, 3)
    world.cuts.clear()
    assert stage.until(stage.agreed, 5)


def test_a_voter_that_is_demoted_by_an_uncommitted_change_can_still_be_elected() -> None:
    """Nobody else that is left has the change, and its log is the newest (seed 12804)."""
    stage = Stage(13, random.Random(13), 4)
    world, first = stage.world, stage.leader
    demoted, one, other = stage.others(first.id)
    world.cuts |= {(first.id, one), (first.id, other)}
    world.change(first, lambda old: membership.with_role(old, demoted, Role.LEARNER))
    assert stage.until(lambda: world.nodes[demoted].raft.history.latest.member(demoted).role is Role.LEARNER, 1)
    assert first.raft.commit < first.raft.history.latest_index
    first.crash()
    world.cuts.clear()
    assert stage.until(stage.leads(one, other), 10)
    assert stage.until(stage.agreed, 5)
    assert world.nodes[demoted].raft.history.latest.member(demoted).role is Role.LEARNER
    assert stage.leader.raft.commit >= stage.leader.raft.history.latest_index


def test_two_servers_that_hold_each_other_for_removed_do_not_answer_each_other_for_ever() -> None:
    stage = Stage(14, random.Random(14), 3)
    world, leader = stage.world, stage.leader
    one, other = (world.nodes[n] for n in stage.others(leader.id))
    for node in (one, other):
        node.raft.removal_of = lambda _peer: t.Removed(3, 1)
    stage.run(0.1)
    before = world.sent
    one.run(lambda: one.raft.removed_message(other.id))
    stage.run(0.5)
    assert world.sent - before < 200  # what a leader sends in that time, and what it is answered


def _dropped(stage: Stage, *nodes: Node) -> Callable[[], bool]:
    return lambda: not any(name.startswith("restore-") for node in nodes for name in node.disk.list())


def test_who_waits_for_a_restore_file_that_nobody_has_leads_if_nobody_else_can() -> None:
    """It alone has the last entry, and can be given the state by a leader only (seeds 30894 and 33355)."""
    stage = Stage(15, random.Random(15), 3)
    world, first = stage.world, stage.leader
    waiting, other = (world.nodes[n] for n in stage.others(first.id))
    world.drops.append(lambda s, d, m: (isinstance(m, t.Chunk) and d == waiting.id) or isinstance(m, t.Pull))
    world.restore(first)
    assert stage.until(lambda: world.checks.restores == 1, 10)
    assert stage.until(_dropped(stage, first, other), 10)
    assert waiting.raft.applied < first.raft.applied
    other.kill()
    told = stage.acknowledged()
    stage.write(first)
    assert stage.until(lambda: stage.acknowledged() > told, 2)
    first.kill()
    world.drops.clear()
    other.start()
    assert stage.until(lambda: stage.leads(other.id)() and stage.agreed(), 20)


@pytest.mark.parametrize("seed", [12, 14, 15])
def test_a_snapshot_and_a_restore_file_do_not_push_each_other_out(seed: int) -> None:
    """Who missed a restore is offered the file by one server and a snapshot by the leader: it takes one after the other."""
    stage = Stage(seed, random.Random(seed), 3, chunk=16)
    world, leader = stage.world, stage.leader
    late, holder = (world.nodes[n] for n in stage.others(leader.id))
    holder.raft._snapshot_after = float("inf")  # it cannot write one, and so keeps the file
    late.kill()
    world.restore(leader)
    assert stage.until(lambda: world.checks.restores == 1, 30)
    assert stage.until(_dropped(stage, leader), 30)
    assert not _dropped(stage, holder)()
    late.start()
    before = world.sent
    assert stage.until(lambda: stage.agreed() or world.sent - before > 3000, 30)
    assert world.sent - before < 3000


def test_two_who_wait_for_a_restore_file_do_not_hand_leadership_to_each_other_for_ever() -> None:
    stage = Stage(16, random.Random(16), 5)
    world, first = stage.world, stage.leader
    names = stage.others(first.id)
    waiting, others = sorted(names)[2:], [world.nodes[n] for n in sorted(names)[:2]]
    world.drops.append(lambda s, d, m: (isinstance(m, t.Chunk) and d in waiting) or isinstance(m, t.Pull))
    world.restore(first)
    assert stage.until(lambda: world.checks.restores == 1, 10)
    assert stage.until(_dropped(stage, first, *others), 10)
    for node in others:
        node.kill()
    told = stage.acknowledged()
    stage.write(first)
    assert stage.until(lambda: stage.acknowledged() > told, 2)
    first.kill()
    world.drops.clear()
    for node in others:
        node.start()
    assert stage.until(stage.agreed, 30)


def test_a_large_state_is_written_when_the_log_has_grown_to_an_eighth_of_it() -> None:
    stage = Stage(17, random.Random(17), 1)
    leader = stage.leader
    leader.run(leader.raft.request_snapshot)
    assert stage.until(lambda: leader.raft.snapshot is not None, 2)
    leader.raft.snapshot = large = replace(leader.raft.snapshot, size=80_000)  # compact_bytes is 6000
    for _ in range(6):
        stage.write(leader, 1500)
    stage.run(1.0)
    assert leader.raft.snapshot is large
    stage.write(leader, 1500)
    assert stage.until(lambda: leader.raft.snapshot is not large, 2)


def test_who_was_added_again_remembers_through_a_restart_that_it_is_a_member() -> None:
    """Its log ends before its removal, but a leader has told it of more (seed 52412)."""
    stage = Stage(18, random.Random(18), 4, keep_bytes=0)
    world, leader = stage.world, stage.leader
    target, behind = (world.nodes[n] for n in stage.others(leader.id)[:2])
    leader.run(leader.raft.request_snapshot)
    assert stage.until(lambda: leader.raft.snapshot is not None, 2)
    world.change(leader, lambda old: membership.remove(old, target.id))
    assert stage.until(lambda: behind.raft.history.at(behind.raft.commit)[1].member(target.id) is None, 2)
    world.isolate({behind.id})
    target.kill()
    target.wipe()
    world.change(leader, add_learner(target.id))
    stage.run(0.5)
    leader.raft.leadership.restart(target.id, leader.clock())
    target.lost = ""
    target.start()
    last = leader.raft.snapshot.index
    world.drops.append(lambda _s, d, m: d == target.id and isinstance(m, t.Append) and m.prev_index == last)
    assert stage.until(lambda: target.raft.log.last == last, 3)
    stage.run(0.1)
    world.isolate({target.id})
    world.join_up({target.id, behind.id})
    target.kill()
    target.start()
    stage.run(1.0)
    behind.run(lambda: behind.raft.removed_message(target.id))  # they have connected
    stage.run(1.0)
    world.cuts.clear()
    world.drops.clear()
    assert stage.until(stage.agreed, 5)
    assert not target.raft.removed


def test_a_change_that_too_few_voters_could_commit_is_refused() -> None:
    """It would be in force at once: its leader would step down, and nobody could lead before a dead server is back."""
    stage = Stage(19, random.Random(19), 3)
    world, leader = stage.world, stage.leader
    dead, alive = stage.others(leader.id)
    world.nodes[dead].kill()
    stage.run(1.0)
    for change in (
        lambda old: membership.remove(old, alive),
        lambda old: membership.with_role(old, alive, Role.LEARNER),
    ):
        with pytest.raises(RefusedError, match=f"only 1 of 2 voters would be reachable: bring {dead} back") as refusal:
            leader.raft.propose_change(change, lambda _result, _reason: None)
        assert refusal.value.passing
    world.change(leader, lambda old: membership.remove(old, dead))
    assert stage.until(lambda: leader.raft.commit >= leader.raft.history.latest_index > 2, 2)
    assert leader.raft.history.latest.voters == {leader.id, alive}


@pytest.mark.parametrize("seed", range(20, 26))
def test_leaders_whom_one_server_does_not_trust_do_not_hand_over_to_each_other_in_haste(seed: int) -> None:
    """Two were removed and added again while it was away: it takes nothing from either, and a third brings it up to date."""
    stage = Stage(seed, random.Random(seed), 5)
    world, behind = stage.world, "n0"
    if stage.leader.id not in ("n1", "n2"):
        assert stage.hand_over(stage.leader, "n1")
        assert stage.until(stage.agreed, 3)
    first = stage.leader

    def change(wanted: Callable[[Configuration], Configuration]) -> None:
        before = first.raft.history.latest_index
        world.change(first, wanted)
        assert stage.until(lambda: first.raft.commit >= first.raft.history.latest_index > before, 2)

    for name in ("n3", "n4"):
        change(lambda old, name=name: membership.remove(old, name))  # type: ignore[misc]
    assert stage.until(lambda: world.nodes[behind].raft.commit == first.raft.log.last, 2)
    world.isolate({behind})
    for name in ("n3", "n4"):
        node = world.nodes[name]
        node.kill()
        node.wipe()
        change(add_learner(name))
        first.raft.leadership.restart(name, first.clock())
        node.lost = ""
        node.start()
        assert stage.until(lambda node=node: node.raft.applied == first.raft.log.last, 3)  # type: ignore[misc]
        change(lambda old, name=name: membership.with_role(old, name, Role.VOTER))  # type: ignore[misc]
    assert stage.hand_over(first, "n4")
    stage.run(0.5)
    term, since = stage.leader.raft.current_term, world.now
    world.cuts.clear()
    assert stage.until(stage.agreed, 20)
    assert stage.leader.raft.current_term - term <= 1 + (world.now - since) / world.timing.quorum
