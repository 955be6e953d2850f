# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From the membership that is to the membership that is wanted, as ordered safe steps. Pure. Private to holdfast.raft.

Invariants, whatever the order of events and wherever a run is cut off:

* One member changes at a time, and the next step depends on nothing but what is seen now. So the plan from any
  intermediate state is the rest of the plan, and running again after an interruption finishes the work.
* A step never leaves fewer healthy voters than a majority of the voters that remain (unless forced), and never none.
* The whole plan is checked before its first step: what cannot be finished is not begun.

Order: dead servers leave first (they only cost tolerance), then new servers come, become stable and voters,
then live servers leave: non-voters, voters, the leader last, after leadership has moved.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._cluster import ClusterView, Server
from ansible_collections.holdfast.raft.plugins.module_utils._errors import Refused

VOTER = "voter"
NON_VOTER = "non_voter"
ABSENT = "absent"

Wanted = t.Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Step:
    """One action on one server: C(join), C(wait), C(promote), C(demote), C(transfer) (leadership away from it) or C(remove)."""

    action: str
    node_id: str

    def __str__(self) -> str:
        return f"{self.action} {self.node_id}"


def plan(view: ClusterView, wanted: Wanted, force: bool = False) -> list[Step]:
    """All steps from C(view) to C(wanted) (node_id -> voter | non_voter | absent; servers not named stay as they are).

    Raises Refused, before anything is done, when one of them would be unsafe.
    """
    steps: list[Step] = []
    while True:
        step = next_step(view, wanted, force)
        if step is None:
            return steps
        steps.append(step)
        view = after(view, step, wanted)


def next_step(view: ClusterView, wanted: Wanted, force: bool = False) -> Step | None:
    """The next step, or None when C(wanted) is reached. Raises Refused when it would be unsafe."""
    for candidate in _candidates(view, wanted):
        _check(view, candidate, wanted, force)
        return candidate
    return None


def after(view: ClusterView, step: Step, wanted: Wanted) -> ClusterView:
    """What is seen once C(step) has taken effect."""
    server = view.get(step.node_id)
    if step.action == "remove":
        return view.without(step.node_id)
    if step.action == "transfer":
        return view.led_by(_successors(view, wanted, step.node_id)[0].node_id)
    if server is None:  # join: it enters as a learner, or as what it was asked to be
        permanent = wanted.get(step.node_id) == NON_VOTER
        return view.having(Server(step.node_id, "", voter=False, healthy=True, permanent_non_voter=permanent))
    if step.action == "demote":
        return view.having(dataclasses.replace(server, voter=False, permanent_non_voter=True))
    if step.action == "promote":
        return view.having(dataclasses.replace(server, permanent_non_voter=False))
    return view.having(dataclasses.replace(server, voter=True, permanent_non_voter=False))


def _candidates(view: ClusterView, wanted: Wanted) -> t.Iterator[Step]:
    """The steps that are open, best first."""
    going = [s for s in view.servers if wanted.get(s.node_id) == ABSENT]
    dead = [s for s in going if s.healthy is False]
    for server in sorted(dead, key=lambda s: s.voter):
        yield Step("remove", server.node_id)
    for node_id in sorted(n for n, role in wanted.items() if role != ABSENT and view.get(n) is None):
        yield Step("join", node_id)
    staying = [s for s in view.servers if wanted.get(s.node_id) == VOTER and not s.voter]
    for server in staying:
        if server.permanent_non_voter:
            yield Step("promote", server.node_id)
    for server in staying:
        yield Step("wait", server.node_id)
    leaving_vote = [s for s in view.servers if wanted.get(s.node_id) == NON_VOTER and _would_vote(s)]
    for server in leaving_vote:
        if not server.leader:
            yield Step("demote", server.node_id)
    for server in sorted(going, key=lambda s: s.voter):
        if not server.leader:
            yield Step("remove", server.node_id)
    for server in going + leaving_vote:
        # A last voter has nobody to hand over to: the check of the removal itself gives the better reason.
        yield Step("transfer" if len(view.voters) > 1 else "remove", server.node_id)


def _would_vote(server: Server) -> bool:
    return server.voter or server.permanent_non_voter is False


def _successors(view: ClusterView, wanted: Wanted, leader: str) -> list[Server]:
    return [s for s in view.voters if s.node_id != leader and s.healthy and wanted.get(s.node_id, VOTER) == VOTER]


def _check(view: ClusterView, step: Step, wanted: Wanted, force: bool) -> None:
    """Raises Refused when C(step) is not safe."""
    server = view.get(step.node_id)
    if step.action == "transfer":
        if not _successors(view, wanted, step.node_id):
            raise Refused(f"{step.node_id} leads and no other healthy voter stays that could take over; bring one up or add one first")
        return
    if step.action == "promote" and server is not None and server.healthy is False and not force:
        raise Refused(f"{step.node_id} is not healthy; as a voter it would only raise the majority that is needed")
    if step.action not in ("remove", "demote") or server is None or not server.voter:
        return
    rest = after(view, step, wanted)
    if not rest.voters:
        raise Refused(f"{step.node_id} is the last voter; a cluster without voters is lost, so it is never {step.action}d")
    if force:
        return
    if not view.has_quorum:
        raise Refused(
            f"only {_healthy(view)} of {len(view.voters)} voters are known to be healthy, which is no majority: no change of "
            "membership can be agreed on; bring servers back first, or recover the quorum"
        )
    if not rest.has_quorum:
        raise Refused(
            f"after {step.action} of {step.node_id} only {_healthy(rest)} of {len(rest.voters)} voters would be known to be "
            "healthy, which is no majority; bring servers back or remove the dead ones first, or use force"
        )


def _healthy(view: ClusterView) -> int:
    return sum(1 for server in view.voters if server.healthy)
