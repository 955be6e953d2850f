# SPDX-License-Identifier: Apache-2.0
"""The log line of a refused connection. Whoever can reach the cluster port can cause one, so they are rationed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from holdfast.consensus import clock

log = logging.getLogger("holdfast.cluster")


class Refusals:
    """At most `burst` lines at once and `rate` a second in the long run; a line says how many before it were left out."""

    def __init__(self, burst: int = 100, rate: float = 2.0, now: Callable[[], float] = clock.now) -> None:
        self._burst = burst
        self._rate = rate
        self._now = now
        self._tokens = float(burst)
        self._at = now()
        self._left_out = 0

    def note(self, peer: str, address: str, reason: str) -> None:
        """Log that a connection was refused, or count it. `peer`: what its certificate says, "" for none."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            self._left_out += 1
            return
        self._tokens -= 1
        fields: dict[str, object] = {"peer": peer, "address": address, "reason": reason}
        if self._left_out:
            fields["left_out"] = self._left_out
            self._left_out = 0
        log.warning("cluster connection refused", extra={"fields": fields})


refusals = Refusals()
