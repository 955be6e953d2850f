# SPDX-License-Identifier: GPL-3.0-or-later
"""The waiter on a clock of its own."""

from __future__ import annotations

import pytest

from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError, TimedOut, Unreachable
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import LONGEST_PAUSE, Waiter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def test_returns_the_first_value_that_is_done() -> None:
    clock, values = Clock(), iter(range(10))
    waiter = Waiter(60, clock, clock.sleep)
    assert waiter.until(lambda: next(values), lambda value: value == 3, "three") == 3
    assert len(clock.pauses) == 3
    assert clock.pauses == sorted(clock.pauses)


def test_gives_up_at_the_deadline_with_what_was_seen_last() -> None:
    clock = Clock()
    with pytest.raises(TimedOut, match=r"waited 5 s for rain, in vain; last seen: sun"):
        Waiter(5, clock, clock.sleep).until(lambda: "sun", lambda value: value == "rain", "rain", describe=str)
    assert clock.now == pytest.approx(5)
    assert max(clock.pauses) <= LONGEST_PAUSE


def refuse() -> str:
    raise RaftError("no")


def test_tolerates_only_what_it_is_told_to() -> None:
    clock, answers = Clock(), iter([Unreachable("not yet"), None])

    def read() -> str:
        error = next(answers)
        if error:
            raise error
        return "here"

    assert Waiter(5, clock, clock.sleep).until(read, bool, "it", tolerate=(Unreachable,)) == "here"
    with pytest.raises(RaftError, match="no"):
        Waiter(5, clock, clock.sleep).until(refuse, bool, "it", tolerate=(Unreachable,))


def test_one_deadline_for_all_waits() -> None:
    clock = Clock()
    waiter = Waiter(3, clock, clock.sleep)
    with pytest.raises(TimedOut):
        waiter.until(lambda: 0, bool, "it")
    assert waiter.left() == 0
    with pytest.raises(TimedOut):
        waiter.until(lambda: 0, bool, "it again")
    assert waiter.until(lambda: 1, bool, "what is there already") == 1
