# SPDX-License-Identifier: Apache-2.0
"""ReadIndex batches: nobody is released before a round that began after it, nor before its index is applied."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus.reads import Reads


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
