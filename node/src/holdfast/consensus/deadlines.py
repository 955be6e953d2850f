# SPDX-License-Identifier: Apache-2.0
"""Futures with a time limit that all share one timer: asyncio.timeout for each of them cost a tenth of a read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Deadlines:
    """Makes futures that fail with `error()` unless they are done within `limit` seconds. Needs a running loop."""

    def __init__(self, limit: float, error: Callable[[], Exception]) -> None:
        self._limit = limit
        self._error = error
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # the limit is the same: oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many futures are remembered."""
        return len(self._waiting)

    def future(self) -> asyncio.Future[Any]:
        """A new one, whose time begins now."""
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        future: asyncio.Future[Any] = self._loop.create_future()
        waiting.append((self._loop.time() + self._limit, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit, self._expire)
        return future

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting:
            due, future = self._waiting[0]
            if not future.done():
                if due > now:
                    self._timer = self._loop.call_at(due, self._expire)
                    return
                future.set_exception(self._error())
            self._waiting.popleft()
