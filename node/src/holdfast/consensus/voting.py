# SPDX-License-Identifier: Apache-2.0
"""Elections: campaigning, granting and counting votes, taking over from a leader that hands over (Raft §5.2, §5.4).

Votes are granted and counted by pysyncobj's own code; what reaches it is filtered here (B8): stickiness, pre-vote, one vote a
voter. A vote request, a vote and one's own vote count only when the term is durable.
"""

from __future__ import annotations

from typing import Any

from holdfast.consensus import quorum
from holdfast.consensus import types as t
from holdfast.consensus.election import up_to_date
from holdfast.consensus.seam import CANDIDATE, FOLLOWER, Peer
from holdfast.consensus.server import Server

FRUITLESS_PULLS = 2  # asking all servers for a restore file more often than this brings nothing: they have dropped it


class Voting(Server):
    """The elections of a server."""

    def on_stock_send(self, peer: str, message: dict[str, Any]) -> None:
        """Stock code grants a vote or hands leadership over."""
        if message["type"] == "response_vote":
            self._vote_given = True
            self._when_durable(peer, t.VoteReply(self.current_term, True))
        elif message["type"] == "timeout_now":
            self.network.send(peer, t.TimeoutNow(self.current_term))
        else:
            raise AssertionError(f"stock code sends {message['type']}")

    def campaign_now(self) -> None:
        """Do not wait for the election timeout (a new single-server cluster)."""
        self.election.deadline = float("-inf")

    def _accept_leader(self, peer: str, term: int, now: float) -> bool:
        if term < self.current_term:
            return False
        if self.leadership is not None and term == self.current_term:
            if (
                peer not in self.history.latest.voters
            ):  # nobody can have elected it: no reason for a good leader to stop
                raise ValueError(f"{peer} claims to lead term {term} without being a voter")
            self.fail(f"two leaders in term {term}: {self.node_id} and {peer}")
            return False
        self._follow(term, peer)
        self.election.heard(now)
        return True

    def _campaign(self, now: float, transfer: bool = False) -> None:
        voters = self.history.latest.voters
        self.election.reset(now)
        if not self.eligible or self.removed or not self._may_lead() or now < self.hold_off_until:
            return
        # Who waits for a restore file that nobody has any more may be the only one with the last entries: it has to lead until the
        # others have those, for one of them then offers it a snapshot (`_pull`).
        if self._busy and (self._restoring is None or self._pulls <= FRUITLESS_PULLS):
            return
        if self.state != FOLLOWER:
            self.set_state(FOLLOWER)
        self._follow(self.current_term, None)
        if transfer:
            self._elect(now, True)
            return
        self.election.pre_term = self.current_term + 1
        self.election.pre_votes = {self.node_id}
        if quorum.reached(voters, self.election.pre_votes):
            self._elect(now, False)
            return
        for voter in sorted(voters - {self.node_id}):
            self.network.send(voter, t.PreVote(self.election.pre_term, self.log.last, self.log.term_at(self.log.last)))

    def _may_lead(self) -> bool:
        """Whether this server is a voter, or was one before a change that is not known to be committed.

        Such a server may be the only one that can commit the change: nobody else may have it (dissertation §4.2.2).
        """
        history = self.history
        return self.node_id in history.latest.voters or (
            history.latest_index > self.commit and self.node_id in history.at(self.commit)[1].voters
        )

    def _elect(self, now: float, transfer: bool) -> None:
        self.election.reset(now)
        self.election.pre_votes, self.election.pre_term = set(), 0
        self.election.votes = set()
        self.set_state(CANDIDATE)
        self.set_term(self.current_term + 1, self.node_id)
        self.votes_count = 0
        last, last_term = self.log.last, self.log.term_at(self.log.last)
        for voter in sorted(self.history.latest.voters - {self.node_id}):
            self._when_durable(voter, t.Vote(self.current_term, last, last_term, transfer))
        self._when_durable(self.node_id, None)

    def _count_vote(self, voter: str) -> None:
        voters = self.history.latest.voters
        if voter not in voters or voter in self.election.votes:
            return
        self.election.votes.add(voter)
        if self.node_id in voters:
            self.stock_receive(Peer(voter), {"type": "response_vote", "term": self.current_term})
            return
        while self.state == CANDIDATE and quorum.reached(voters, self.election.votes):
            # Stock code takes the candidate for one of the voters, and asks for one vote too many.
            self.stock_receive(Peer(voter), {"type": "response_vote", "term": self.current_term})

    def _stranger_to_all(self) -> bool:
        """True while this server knows of no member: a joiner, or one that was wiped, and may have promised something before."""
        return not self.history.latest.members

    def _on_pre_vote(self, peer: str, m: t.PreVote, now: float) -> None:
        granted = (
            m.term > self.current_term
            and not self._stranger_to_all()
            and self.leadership is None
            and not self.election.sticky(now)
            and up_to_date(m.last_term, m.last_index, self.log.term_at(self.log.last), self.log.last)
        )
        self.network.send(peer, t.PreVoteReply(self.current_term, m.term, granted))

    def _on_pre_vote_reply(self, peer: str, m: t.PreVoteReply, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
            return
        if m.granted and m.proposed == self.election.pre_term == self.current_term + 1 and self.leadership is None:
            self.election.pre_votes.add(peer)
            if quorum.reached(self.history.latest.voters, self.election.pre_votes):
                self._elect(now, False)

    def _on_vote(self, peer: str, m: t.Vote, now: float) -> None:
        # A leader hands over to voters only, whose configuration is never older than its own.
        stranger = self.leadership is not None and peer not in self.history.latest.voters
        if (
            self._stranger_to_all()
            or stranger
            or (not m.transfer and (self.election.sticky(now) or self.leadership is not None))
        ):
            self.network.send(peer, t.VoteReply(self.current_term, False))
            return
        self._vote_given = False
        if m.term > self.current_term:
            self._follow(m.term, None)
        self.stock_receive(
            Peer(peer),
            {"type": "request_vote", "term": m.term, "last_log_term": m.last_term, "last_log_index": m.last_index},
        )
        if self._vote_given:
            self.election.reset(now)
        else:
            self.network.send(peer, t.VoteReply(self.current_term, False))

    def _on_vote_reply(self, peer: str, m: t.VoteReply, now: float) -> None:
        if m.term > self.current_term:
            self._follow(m.term, None)
        elif m.granted and m.term == self.current_term and self.state == CANDIDATE:
            self._count_vote(peer)

    def _on_timeout_now(self, peer: str, m: t.TimeoutNow, now: float) -> None:
        if m.term == self.current_term and peer == self.leader_id:
            self.hold_off_until = float("-inf")
            self.election.forget_leader()
            self._campaign(now, transfer=True)
