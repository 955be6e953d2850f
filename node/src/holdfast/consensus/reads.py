# SPDX-License-Identifier: Apache-2.0
"""ReadIndex (dissertation §6.4), batched: one round of heartbeats serves every read that waited when it began. Pure.

Invariant: a read is released only after a majority has confirmed a heartbeat that was sent after the read arrived, and
after everything committed at that time has been applied. One round is under way at a time.
"""

from __future__ import annotations

from collections.abc import Callable

Done = Callable[[bool], None]  # True: read now; False: not the leader any more


class Reads:
    """Reads that wait on the leader."""

    def __init__(self) -> None:
        self._waiting: list[Done] = []
        self._round: tuple[int, int, list[Done]] | None = None  # (seq needed, read index, reads)
        self._confirmed: list[tuple[int, Done]] = []

    def add(self, done: Done) -> None:
        """One more read."""
        self._waiting.append(done)

    @property
    def wants_round(self) -> bool:
        """True when a new round should be started."""
        return bool(self._waiting) and self._round is None

    @property
    def round_seq(self) -> int | None:
        """The sequence number that a majority must confirm, or None."""
        return self._round[0] if self._round else None

    def start(self, seq: int, commit: int) -> None:
        """A round begins: heartbeats with `seq` go out now; `commit` is the read index."""
        self._round = (seq, commit, self._waiting)
        self._waiting = []

    def confirm(self) -> None:
        """A majority has answered the round."""
        if self._round is not None:
            _, index, reads = self._round
            self._confirmed.extend((index, done) for done in reads)
            self._round = None

    def release(self, applied: int) -> None:
        """Answer confirmed reads whose index is applied."""
        if not self._confirmed:
            return
        ready = [done for index, done in self._confirmed if index <= applied]
        self._confirmed = [item for item in self._confirmed if item[0] > applied]
        for done in ready:
            done(True)

    def fail(self) -> None:
        """Leadership is lost: nobody may read."""
        reads = self._waiting + (self._round[2] if self._round else []) + [done for _, done in self._confirmed]
        self._waiting, self._round, self._confirmed = [], None, []
        for done in reads:
            done(False)
