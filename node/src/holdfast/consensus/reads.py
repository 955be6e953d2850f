# SPDX-License-Identifier: Apache-2.0
"""ReadIndex (dissertation §6.4), batched: one round of heartbeats serves every read that waited when it began. Pure.

Invariant: a read is released only after a majority has confirmed a heartbeat that was sent after the read arrived, and
after everything committed at that time has been applied. One round is under way at a time.

A lease (§6.4.1) spares the round, at a price: it trusts clocks. It is off unless `lease_reads` is set (docs/consensus.md).
"""

from __future__ import annotations

from collections import deque
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

    def covered(self, index: int, done: Done) -> None:
        """One more read that the lease covers: released when `index` is applied."""
        self._confirmed.append((index, done))

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
        """Nobody may read: leadership is lost, or the state will not be there for a while."""
        reads = self._waiting + (self._round[2] if self._round else []) + [done for _, done in self._confirmed]
        self._waiting, self._round, self._confirmed = [], None, []
        for done in reads:
            done(False)


class Lease:
    """Until when nobody else can have been elected. Times are the leader's clock in seconds; `duration` 0: there is none.

    Invariant: `until` is `duration` after the sending of a message that a majority has answered, the leader included. Who answered
    it grants no vote for a least election timeout of its own clock (stickiness), which is longer than `duration`, however
    much the clocks' rates differ within reason. Handing leadership over asks for votes in spite of that: the lease ends for good.
    """

    def __init__(self, duration: float) -> None:
        self.duration = duration
        self.until = float("-inf")
        self._sent: deque[tuple[int, float]] = (
            deque()
        )  # (seq, when messages with it began to go out), not yet confirmed

    def sent(self, seq: int, now: float) -> None:
        """Messages with `seq` go out from now on."""
        if self.duration:
            self._sent.append((seq, now))

    def confirm(self, seq: int) -> None:
        """A majority has answered messages with `seq` or later ones."""
        sent = self._sent
        while sent and sent[0][0] <= seq:
            self.until = sent.popleft()[1] + self.duration

    def end(self) -> None:
        """No lease in this term any more."""
        self.duration, self.until = 0.0, float("-inf")
        self._sent.clear()

    def valid(self, now: float) -> bool:
        """True while reads need no round."""
        return now < self.until
