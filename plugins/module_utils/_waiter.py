# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One waiter for every module: polls until a predicate holds or a monotonic deadline passes. Private to holdfast.raft."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError, TimedOut

T = t.TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0


class Waiter:
    """A deadline shared by all waits of one module run. C(timeout) in seconds; C(clock) and C(sleep) are given by tests."""

    def __init__(
        self,
        timeout: float,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._deadline = clock() + timeout

    def left(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(0.0, self._deadline - self._clock())

    def until(
        self,
        read: t.Callable[[], T],
        done: t.Callable[[T], bool],
        what: str,
        tolerate: tuple[type[Exception], ...] = (),
        describe: t.Callable[[T], str] | None = None,
    ) -> T:
        """Returns the first value of C(read) for which C(done) holds.

        Exceptions of the classes in C(tolerate) count as "not yet". Raises TimedOut("... C(what) ...") with the last
        value (through C(describe)) or the last tolerated exception as the reason.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                value = read()
                if done(value):
                    return value
                last = describe(value) if describe else ""
            except tolerate as exc:
                last = str(exc)
            if self.left() <= 0:
                reason = f"; last seen: {last}" if last else ""
                raise TimedOut(f"waited {self._timeout:g} s for {what}, in vain{reason}")
            self._sleep(min(pause, self.left()))
            pause = min(pause * 1.6, LONGEST_PAUSE)


def ignore(*classes: type[RaftError]) -> tuple[type[Exception], ...]:
    """The classes as a tuple for C(tolerate)."""
    return classes
