# SPDX-License-Identifier: Apache-2.0
"""ReadIndex batches: nobody is released before a round that began after it, nor before its index is applied."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus.reads import Lease, Reads
from holdfast.consensus.types import Timing


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["add", "start", "confirm", "apply", "commit", "fail"]), max_size=40))
def test_every_read_is_answered_once_and_never_too_early(steps: list[str]) -> None:
    reads, answers = Reads(), {}
    arrived: dict[int, int] = {}  # read → rounds begun when it arrived
    wanted: dict[int, int] = {}  # read → commit index of its round
    begun, confirmed, commit, applied = 0, 0, 0, 0
    for step in steps:
        if step == "add":
            number = len(arrived)
            arrived[number] = begun

            def done(ok: bool, number: int = number) -> None:  # it looks at the figures of the time it is called
                assert number not in answers
                answers[number] = ok
                if ok:
                    assert confirmed > arrived[number]  # noqa: B023
                    assert applied >= wanted[number]  # noqa: B023

            reads.add(done)
        elif step == "start" and reads.wants_round:
            begun += 1
            for number, at in arrived.items():
                if at == begun - 1 and number not in answers:
                    wanted[number] = commit
            reads.start(begun, commit)
            assert reads.round_seq == begun
        elif step == "confirm" and reads.round_seq is not None:
            confirmed = begun
            reads.confirm()
        elif step == "commit":
            commit += 1
        elif step == "apply":
            applied = min(commit, applied + 1)
        elif step == "fail":
            reads.fail()
            assert set(answers) == set(arrived)
        reads.release(applied)
    reads.fail()
    assert set(answers) == set(arrived)


def test_one_round_at_a_time_serves_all_who_wait() -> None:
    reads, out = Reads(), []
    for number in range(3):
        reads.add(lambda ok, number=number: out.append((number, ok)))  # type: ignore[misc]
    reads.start(1, 5)
    reads.add(lambda ok: out.append((3, ok)))
    assert not reads.wants_round
    reads.confirm()
    assert reads.wants_round
    reads.release(4)
    assert out == []
    reads.release(5)
    assert out == [(0, True), (1, True), (2, True)]
    reads.fail()
    assert out[-1] == (3, False)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["send", "answer", "wait"]), st.floats(0.001, 0.5)), max_size=60),
    st.floats(0.8, 1.25),
)
def test_a_lease_never_outlives_the_stickiness_of_a_majority(steps: list[tuple[str, float]], rate: float) -> None:
    """One answering follower makes the majority of three; its clock runs `rate` times as fast as the leader's."""
    election = 0.4
    lease = Lease(Timing(election=election, lease_reads=True).lease)
    now, seq, under_way, heard = 0.0, 0, [], float("-inf")
    for step, amount in steps:
        if step == "send":
            seq += 1
            lease.sent(seq, now)
            under_way.append(seq)
        elif step == "answer" and under_way:
            heard = now  # the follower's stickiness starts when it handles the message
            lease.confirm(under_way.pop(0))
        else:
            now += amount
        if lease.valid(now):
            assert (now - heard) * rate < election


def test_a_lease_counts_from_the_sending_and_ends_for_good() -> None:
    lease = Lease(0.3)
    lease.sent(1, 10.0)
    lease.sent(2, 10.1)
    assert not lease.valid(10.1)
    lease.confirm(1)
    assert lease.valid(10.29)
    assert not lease.valid(10.3)
    lease.confirm(2)
    assert lease.valid(10.39)
    lease.end()
    lease.sent(3, 10.39)
    lease.confirm(3)
    assert not lease.valid(10.39)


def test_without_the_option_there_is_no_lease() -> None:
    lease = Lease(Timing().lease)
    lease.sent(1, 10.0)
    lease.confirm(1)
    assert not lease.valid(10.0)


def test_covered_reads_wait_until_their_index_is_applied() -> None:
    reads, answers = Reads(), []
    reads.covered(7, answers.append)
    reads.release(6)
    assert answers == []
    reads.release(7)
    assert answers == [True]
    reads.covered(8, answers.append)
    reads.fail()
    assert answers == [True, False]
