# SPDX-License-Identifier: Apache-2.0
"""Futures that share one timer: each still has its own time limit."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.consensus.deadlines import Deadlines
from holdfast.consensus.replication import Progress
from holdfast.consensus.types import Timing


async def test_what_is_not_done_in_time_fails() -> None:
    deadlines = Deadlines(0.02, lambda: ValueError("late"))
    quick, late, later = deadlines.future(), deadlines.future(), deadlines.future()
    quick.set_result(1)
    assert await quick == 1
    for future in (late, later):
        with pytest.raises(ValueError, match="late"):
            await future


async def test_a_later_future_has_its_whole_time() -> None:
    deadlines = Deadlines(0.05, lambda: ValueError("late"))
    first = deadlines.future()
    await asyncio.sleep(0.03)
    second = deadlines.future()
    with pytest.raises(ValueError, match="late"):
        await first
    assert not second.done()
    with pytest.raises(ValueError, match="late"):
        await second


async def test_the_timer_is_armed_again_after_everything_is_done() -> None:
    deadlines = Deadlines(0.02, lambda: ValueError("late"))
    for _ in range(2):
        with pytest.raises(ValueError, match="late"):
            await deadlines.future()


async def test_done_and_cancelled_futures_are_forgotten() -> None:
    deadlines = Deadlines(60, lambda: ValueError("late"))
    for number in range(100):
        future = deadlines.future()
        future.set_result(None) if number % 2 else future.cancel()
    assert len(deadlines) == 1


def test_the_commit_index_goes_with_appends_or_by_itself_after_a_while() -> None:
    timing = Timing(commit_delay=0.005)
    progress = Progress(10, 0.0)
    progress.on_match(10, 0.0)
    progress.commit_sent, progress.appended_at = 9, 1.0
    assert not progress.commit_due(10, 10, 1.004, timing)
    assert progress.commit_due(10, 10, 1.006, timing)
    assert not progress.commit_due(10, 11, 1.006, timing)  # an append is due, which carries it
    progress.commit_sent = 10
    assert not progress.commit_due(10, 10, 1.006, timing)
