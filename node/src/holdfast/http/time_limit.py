# SPDX-License-Identifier: Apache-2.0
"""A time limit for every request that costs next to nothing: one timer looks after all (asyncio.timeout arms one each)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class _Job:
    __slots__ = ("due", "expired", "task")

    def __init__(self, due: float, task: asyncio.Task[Any] | None) -> None:
        self.due = due
        self.task = task  # None once it is over
        self.expired = False


class TimeLimit:
    """Runs work for at most `limit` seconds (0: no limit)."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._jobs: deque[_Job] = deque()  # the limit is the same for all: oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many jobs are remembered."""
        return len(self._jobs)

    async def run(self, work: Awaitable[T]) -> T:
        """The result of `work`. Raises TimeoutError when it took too long; it is cancelled then."""
        if not self.limit:
            return await work
        job = self._begin()
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if job.expired and task is not None and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            job.task = None

    def _begin(self) -> _Job:
        jobs, loop = self._jobs, asyncio.get_running_loop()
        while jobs and jobs[0].task is None:
            jobs.popleft()
        job = _Job(loop.time() + self.limit, asyncio.current_task())
        jobs.append(job)
        if self._timer is None:
            self._timer = loop.call_later(self.limit, self._expire, loop)
        return job

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._jobs:
            job = self._jobs[0]
            if job.task is not None:
                if job.due > now:
                    self._timer = loop.call_at(job.due, self._expire, loop)
                    return
                job.expired = True
                job.task.cancel()
            self._jobs.popleft()
