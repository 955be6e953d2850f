# SPDX-License-Identifier: Apache-2.0
"""Election timing, pre-vote and stickiness (Raft §5.2, dissertation §4.2.3, §9.6): repairs faults B7 and B8. Pure.

Invariants: votes are a set of voter ids; a server that heard from a leader within the least election timeout grants no
(pre-)vote, unless that leader asked for the election; a rebooted server waits as long before it grants one.
"""

from __future__ import annotations

from holdfast.consensus.ports import Random


class Election:
    """One server's election clock and the votes it has collected."""

    def __init__(self, now: float, timeout: float, random: Random) -> None:
        self.timeout = timeout
        self._random = random
        self.votes: set[str] = set()
        self.pre_votes: set[str] = set()
        self.pre_term = 0
        self._heard = now  # boot counts as contact: the leader this server acknowledged may hold a lease on it
        self.deadline = 0.0
        self.reset(now)

    def reset(self, now: float) -> None:
        """Draw a new deadline."""
        self.deadline = now + self.timeout * (1.0 + self._random.random())

    def heard(self, now: float) -> None:
        """A current leader spoke."""
        self._heard = now
        self.pre_votes.clear()
        self.pre_term = 0
        self.reset(now)

    def forget_leader(self) -> None:
        """The leader has handed over, or this server leads no more: stickiness ends."""
        self._heard = float("-inf")

    def sticky(self, now: float) -> bool:
        """True while a leader may still be alive as far as this server knows."""
        return now - self._heard < self.timeout

    def expired(self, now: float) -> bool:
        """True when it is time to campaign."""
        return now >= self.deadline


def up_to_date(last_term: int, last_index: int, own_term: int, own_index: int) -> bool:
    """True when a candidate's log is at least as new as one's own (Raft §5.4.1)."""
    return (last_term, last_index) >= (own_term, own_index)
