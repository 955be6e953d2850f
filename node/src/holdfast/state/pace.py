# SPDX-License-Identifier: Apache-2.0
"""Long work in a thread that leaves the event loop its turn: the interpreter runs one thread at a time."""

from __future__ import annotations

import time

_WORK = 0.004  # seconds of work between pauses
_REST = 0.001


class Pace:
    """Call it between pieces of work: every 4 ms it sleeps for 1 ms, during which other threads have the interpreter.

    Without the sleep a thread that wants it waits 5 ms (`sys.getswitchinterval`), and again after each of its system calls.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + _WORK

    def __call__(self) -> None:
        if time.perf_counter() >= self._until:
            time.sleep(_REST)
            self._until = time.perf_counter() + _WORK
