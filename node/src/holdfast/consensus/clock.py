# SPDX-License-Identifier: Apache-2.0
"""The clock of the Raft layer: it never goes back, and it goes on while the machine is suspended (CLOCK_BOOTTIME).

With CLOCK_MONOTONIC a leader that was suspended for a minute would wake up and believe that its quorum, or its lease, is fresh.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some moment before this process began."""
    return time.clock_gettime(_CLOCK)
