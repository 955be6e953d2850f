# SPDX-License-Identifier: Apache-2.0
"""Mutants of elections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from holdfast.consensus import leadership, quorum, voting
from holdfast.consensus.election import Election
from holdfast.consensus.raft import Raft
from holdfast.consensus.seam import CANDIDATE
from tests.sim.mutants.registry import Patch, mutant


@mutant("B8")
def votes_of_strangers_and_repeats_count(patch: Patch) -> None:
    def count(self: Any, voter: str) -> None:
        self.stock_receive(self.peer(voter), {"type": "response_vote", "term": self.current_term})
        if self.state == CANDIDATE:
            self.stock_receive(self.peer(voter), {"type": "response_vote", "term": self.current_term})

    patch.setattr(voting.Voting, "_count_vote", count)


@mutant("Raft §5.4.1")
def votes_for_logs_that_lag(patch: Patch) -> None:
    plain = voting.Voting._on_vote

    def lax(self: Any, peer: str, m: Any, now: float) -> None:
        plain(self, peer, m._replace(last_index=1 << 60, last_term=1 << 60), now)

    patch.setattr(voting.Voting, "_on_vote", lax)
    patch.setattr(voting, "up_to_date", lambda *_arguments: True)


@mutant("Raft §5.2")
def two_votes_in_one_term(patch: Patch) -> None:
    plain = voting.Voting._on_vote

    def lax(self: Any, peer: str, m: Any, now: float) -> None:
        if self.state != 2:
            self.voted_for = None
        plain(self, peer, m, now)

    patch.setattr(voting.Voting, "_on_vote", lax)
    patch.setattr(Election, "sticky", lambda _self, _now: False)


@mutant("B7")
def leaders_without_a_quorum_go_on(patch: Patch) -> None:
    patch.setattr(leadership.Leadership, "has_quorum", lambda _self, _now: True)
    patch.setattr(
        Raft,
        "_on_heartbeat_ack",
        lambda self, peer, m, now: self.leadership and self.leadership.on_heartbeat_ack(peer, m, now),
    )
    patch.setattr(Raft, "_on_ack", lambda self, peer, m, now: self.leadership and self.leadership.on_ack(peer, m, now))


@mutant("B8, disruption")
def stickiness_dropped(patch: Patch) -> None:
    patch.setattr(Election, "sticky", lambda _self, _now: False)


@mutant("B8, disruption")
def pre_vote_dropped(patch: Patch) -> None:
    plain = voting.Voting._campaign

    def straight(self: Any, now: float, transfer: bool = False) -> None:
        plain(self, now, transfer)
        if self.election.pre_term and self.leadership is None:
            self._elect(now, False)

    patch.setattr(voting.Voting, "_campaign", straight)


@mutant("learners")
def learners_vote(patch: Patch) -> None:
    """They are asked, and whoever answers counts."""
    campaign, elect = voting.Voting._campaign, voting.Voting._elect

    def learners(self: Any) -> list[str]:
        latest = self.history.latest
        return [m.node_id for m in latest.members if m.node_id not in latest.voters]

    def campaign_everywhere(self: Any, now: float, transfer: bool = False) -> None:
        campaign(self, now, transfer)
        if self.election.pre_term:
            last = self.log.last
            for peer in learners(self):
                self.network.send(peer, voting.t.PreVote(self.election.pre_term, last, self.log.term_at(last)))

    def elect_everywhere(self: Any, now: float, transfer: bool) -> None:
        elect(self, now, transfer)
        last, last_term = self.log.last, self.log.term_at(self.log.last)
        for peer in learners(self):
            self._when_durable(peer, voting.t.Vote(self.current_term, last, last_term, transfer))

    def count(self: Any, voter: str) -> None:
        if voter not in self.election.votes:
            self.election.votes.add(voter)
            self.stock_receive(voting.Peer(voter), {"type": "response_vote", "term": self.current_term})

    patch.setattr(voting.Voting, "_campaign", campaign_everywhere)
    patch.setattr(voting.Voting, "_elect", elect_everywhere)
    patch.setattr(voting.Voting, "_count_vote", count)
    anybody = SimpleNamespace(reached=lambda voters, who: len(who) >= quorum.majority(voters))
    patch.setattr(voting, "quorum", anybody)
