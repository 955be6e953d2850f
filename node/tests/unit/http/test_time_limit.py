# SPDX-License-Identifier: Apache-2.0
"""One timer for all requests: each has its own time limit, and a cancellation from elsewhere stays one."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.http.time_limit import TimeLimit


async def value(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def test_results_and_errors_pass() -> None:
    limit = TimeLimit(60)
    assert await limit.run(value(3)) == 3
    with pytest.raises(ZeroDivisionError):
        await limit.run(fails())
    assert await TimeLimit(0).run(value(4)) == 4


async def fails() -> int:
    await asyncio.sleep(0)
    return 1 // 0


async def test_late_work_is_cancelled_each_in_its_time() -> None:
    limit, ended = TimeLimit(0.04), []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    first = asyncio.ensure_future(limit.run(forever("first")))
    await asyncio.sleep(0.02)
    second = asyncio.ensure_future(limit.run(forever("second")))
    with pytest.raises(TimeoutError):
        await first
    assert not second.done()
    with pytest.raises(TimeoutError):
        await second
    assert ended == ["first", "second"]
    with pytest.raises(TimeoutError):  # the timer is armed again
        await limit.run(forever("third"))


async def test_a_cancellation_is_no_timeout() -> None:
    task = asyncio.ensure_future(TimeLimit(60).run(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_ended_work_is_forgotten() -> None:
    limit = TimeLimit(60)
    for number in range(50):
        await limit.run(value(number))
    assert len(limit) == 1
