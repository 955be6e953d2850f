# SPDX-License-Identifier: Apache-2.0
"""The leader's picture of one other server: repairs faults B1, B6 and B10. Pure.

Invariants: `match` never shrinks within a term; an acknowledgement never moves `next` back while appends are under way; a
rejection counts only for the probe it answers, so that late or repeated ones cannot rewind.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from holdfast.consensus.types import Timing


class Mode(Enum):
    """PROBE: one append at a time until logs match. REPLICATE: pipelined. SNAPSHOT: waits for a state file."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """What the leader knows about a server, and what is due to it. Times are the leader's clock in seconds."""

    def __init__(self, last_index: int, now: float) -> None:
        self.mode = Mode.PROBE
        self.next = last_index + 1
        self.match = 0
        self.inflight: deque[int] = deque()  # last index of each append under way
        self.sent_at = float("-inf")
        self.moved_at = now  # last time match advanced or nothing was due
        self.acked_at = now  # last answer of this term; a new leader gives everybody the benefit of the doubt
        self.answered = False
        self.lost_at = float("-inf")  # when the connection broke last, or nothing came in time
        self.acked_seq = 0
        self.heartbeat_at = float("-inf")
        self.commit_sent = 0
        self.appended_at = float("-inf")  # last append of any kind
        self.last_index = 0
        self.last_term = 0
        self.applied = 0
        self.eligible = False
        self.writable = True
        self.stable_since: float | None = None
        self.from_seq = 0  # answers to earlier messages are those of an earlier life of the server
        # Catching up goes in rounds (dissertation §4.2.1): a round ends when what was sent as it began is matched.
        self._round_end = last_index
        self._round_began = now
        self._round_took = float("inf")
        self._apply_end = last_index  # the commit index at `_apply_began`: once that is applied, the next mark is set
        self._apply_began = float("-inf")

    def seen(self, now: float, seq: int) -> None:
        """Any answer of this term came."""
        self.acked_at = now
        self.answered = True
        self.acked_seq = max(self.acked_seq, seq)

    def reachable(self, now: float, limit: float) -> bool:
        """True when the server has answered within `limit` seconds, and the connection has not broken since."""
        return self.answered and now - self.acked_at < limit and self.acked_at > self.lost_at

    def on_match(self, index: int, now: float) -> None:
        """The server's log is durable and equal to the leader's up to `index`."""
        if index > self.match:
            self.match = index
            self.moved_at = now
        if self.match >= self._round_end > 0:
            self._round_took = now - self._round_began
            self._round_end = 0
        while self.inflight and self.inflight[0] <= self.match:
            self.inflight.popleft()
        self.next = max(self.next, self.match + 1)
        if self.mode is not Mode.REPLICATE:
            self.mode = Mode.REPLICATE
            self.inflight.clear()
            self.next = self.match + 1
            self.moved_at = now

    def on_applied(self, applied: int, commit: int, now: float) -> None:
        """The server has applied everything up to `applied`; the leader has committed `commit`."""
        self.applied = applied
        if applied >= self._apply_end:
            self._apply_end, self._apply_began = commit, now

    def on_reject(self, prev: int, hint: int, now: float) -> None:
        """The server does not have `prev`. A rejection below `match` is an old one and means nothing."""
        if prev <= self.match:
            return
        if self.mode is Mode.PROBE and prev != self.next - 1:
            return
        self.mode = Mode.PROBE if self.mode is not Mode.SNAPSHOT else self.mode
        self.inflight.clear()
        self.next = max(self.match + 1, min(hint, prev - 1) + 1)
        self.sent_at = float("-inf")

    def behind(self, last_index: int, commit: int, now: float) -> float:
        """How many seconds the server lags: its log, or its state if that lags more (it may have to load a file first)."""
        state = now - self._apply_began if self.applied < commit else 0.0
        if self.match >= last_index:
            return state
        log = max(self._round_took, now - self._round_began) if self._round_end else self._round_took
        return max(log, state)

    def lost(self, now: float) -> None:
        """The connection broke: what was under way may be gone."""
        self.lost_at = now
        self.inflight.clear()
        if self.mode is Mode.REPLICATE:
            self.mode = Mode.PROBE
            self.next = self.match + 1
        self.sent_at = float("-inf")

    def due(self, last_index: int, now: float, timing: Timing) -> bool:
        """True when an append should go out now."""
        if self.mode is Mode.SNAPSHOT:
            return False
        if self.mode is Mode.PROBE:
            return now - self.sent_at >= timing.resend
        if self.inflight and now - max(self.moved_at, self.sent_at) >= timing.resend * 2:
            self.lost(now)
            return True
        return self.next <= last_index and len(self.inflight) < timing.max_inflight

    def commit_due(self, commit: int, last_index: int, now: float, timing: Timing) -> bool:
        """True when the server should be told the commit index by itself: no append has carried it for a while."""
        return (
            self.mode is Mode.REPLICATE
            and self.commit_sent < commit
            and self.next > last_index
            and now - self.appended_at >= timing.commit_delay
        )

    def sent(self, last: int, now: float) -> None:
        """An append whose last entry is `last` went out (`last` = next - 1: an empty one)."""
        self.sent_at = now
        if self.mode is Mode.REPLICATE and last >= self.next:
            if not self.inflight:
                self.moved_at = now
            self.inflight.append(last)
            self.next = last + 1
            if not self._round_end:
                self._round_end, self._round_began = last, now
