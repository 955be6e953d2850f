# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner on every small cluster, with every interruption."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.holdfast.raft.plugins.module_utils._cluster import ClusterView, Server
from ansible_collections.holdfast.raft.plugins.module_utils._errors import Refused
from ansible_collections.holdfast.raft.plugins.module_utils._planner import Step, after, next_step, plan

IDS = [f"n{number}" for number in range(1, 8)]


def server(node_id: str, role: str = "voter", healthy: bool = True, leader: bool = False) -> Server:
    return Server(node_id, f"{node_id}:8201", role == "voter", leader, healthy or leader, permanent_non_voter=role == "non_voter")


def view(*servers: Server) -> ClusterView:
    return ClusterView(tuple(sorted(servers, key=lambda s: s.node_id)))


def three(**healthy: bool) -> ClusterView:
    return view(*(server(i, leader=i == "n1", healthy=healthy.get(i, True)) for i in ("n1", "n2", "n3")))


@st.composite
def situations(draw: st.DrawFn) -> tuple[ClusterView, dict[str, str]]:
    """A cluster with a leader, and a wish for some servers, known and unknown."""
    count = draw(st.integers(1, 6))
    servers = [server("n1", leader=True)]
    for node_id in IDS[1:count]:
        role = draw(st.sampled_from(["voter", "voter", "voter", "learner", "non_voter"]))
        servers.append(server(node_id, role, healthy=draw(st.booleans() if role != "learner" else st.just(True))))
    wanted = draw(st.dictionaries(st.sampled_from(IDS), st.sampled_from(["voter", "non_voter", "absent"])))
    return view(*servers), wanted


def reached(seen: ClusterView, wanted: t.Mapping[str, str]) -> bool:
    for node_id, role in wanted.items():
        found = seen.get(node_id)
        if role == "absent" and found is not None:
            return False
        if role == "voter" and (found is None or not found.voter):
            return False
        if role == "non_voter" and (found is None or found.voter or not found.permanent_non_voter):
            return False
    return True


@settings(max_examples=600, deadline=None)
@given(situations())
def test_a_plan_reaches_the_goal_and_never_loses_quorum(situation: tuple[ClusterView, dict[str, str]]) -> None:
    seen, wanted = situation
    try:
        steps = plan(seen, wanted)
    except Refused:
        return
    had_quorum = seen.has_quorum
    for step in steps:
        before, seen = seen, after(seen, step, wanted)
        assert seen.voters, f"{step} left no voter"
        assert seen.leader is not None, f"{step} removed the leader"
        changed = {s.node_id for s in before.voters} ^ {s.node_id for s in seen.voters}
        assert len(changed) <= 1, f"{step} changed {changed}"
        if had_quorum:
            assert seen.has_quorum, f"{step} lost the quorum"
    assert reached(seen, wanted)
    assert plan(seen, wanted) == []


@settings(max_examples=300, deadline=None)
@given(situations())
def test_after_every_interruption_the_rest_of_the_plan_is_planned(situation: tuple[ClusterView, dict[str, str]]) -> None:
    seen, wanted = situation
    try:
        steps = plan(seen, wanted)
    except Refused:
        return
    for done, step in enumerate(steps):
        assert plan(seen, wanted) == steps[done:]
        seen = after(seen, step, wanted)
    assert plan(seen, wanted) == []


@settings(max_examples=300, deadline=None)
@given(situations(), st.data())
def test_a_failure_in_the_middle_never_makes_a_step_unsafe(situation: tuple[ClusterView, dict[str, str]], data: st.DataObject) -> None:
    """A server dies between two steps: either the next step is refused, or it keeps the majority that is left."""
    seen, wanted = situation
    for _turn in range(20):
        try:
            step = next_step(seen, wanted)
        except Refused:
            return
        if step is None:
            return
        waited_for = seen.get(step.node_id)
        if step.action == "wait" and waited_for and not waited_for.healthy:
            return  # autopilot makes no voter of it: the run ends in its time-out, with nothing changed
        had_quorum, seen = seen.has_quorum, after(seen, step, wanted)
        assert seen.voters
        if had_quorum:
            assert seen.has_quorum
        alive = [s for s in seen.servers if s.healthy and not s.leader]
        if alive and data.draw(st.booleans()):
            dead = data.draw(st.sampled_from(alive))
            seen = seen.having(dataclasses.replace(dead, healthy=False))


def test_the_leader_leaves_last_after_leadership_moved() -> None:
    five = view(*(server(i, leader=i == "n1") for i in IDS[:5]))
    steps = plan(five, {"n1": "absent", "n4": "absent"})
    assert [str(step) for step in steps] == ["remove n4", "transfer n1", "remove n1"]


def test_dead_servers_leave_before_new_ones_come_and_live_ones_go() -> None:
    seen = view(server("n1", leader=True), server("n2"), server("n3", healthy=False), server("n4"), server("n5"))
    steps = plan(seen, {"n2": "absent", "n3": "absent", "n6": "voter"})
    assert [str(step) for step in steps] == ["remove n3", "join n6", "wait n6", "remove n2"]


def test_non_voters_leave_before_voters() -> None:
    seen = view(server("n1", leader=True), server("n2"), server("n3"), server("n4"), server("n5", "non_voter"))
    assert plan(seen, {"n2": "absent", "n5": "absent"}) == [Step("remove", "n5"), Step("remove", "n2")]


def test_roles() -> None:
    seen = view(server("n1", leader=True), server("n2"), server("n3"), server("n4", "non_voter"), server("n5", "learner"))
    assert plan(seen, {"n4": "voter"}) == [Step("promote", "n4"), Step("wait", "n4")]
    assert plan(seen, {"n5": "voter"}) == [Step("wait", "n5")]
    assert plan(seen, {"n5": "non_voter"}) == [Step("demote", "n5")]
    assert plan(seen, {"n2": "non_voter"}) == [Step("demote", "n2")]
    assert plan(seen, {"n1": "non_voter"}) == [Step("transfer", "n1"), Step("demote", "n1")]


@pytest.mark.parametrize(
    ("seen", "wanted", "text"),
    [
        (view(server("n1", leader=True)), {"n1": "absent"}, "last voter"),
        (view(server("n1", leader=True), server("n2", "learner")), {"n1": "absent"}, "last voter"),
        (three(n2=False, n3=False), {"n2": "absent"}, "no majority"),
        (three(n2=False), {"n3": "absent"}, "after remove of n3 only 1 of 2"),
        (three(n2=False), {"n3": "non_voter"}, "after demote of n3"),
        (three(n2=False), {"n1": "absent"}, "after remove of n1 only 1 of 2"),
        (three(), {"n1": "absent", "n2": "absent", "n3": "absent"}, "last voter"),
    ],
)
def test_refused(seen: ClusterView, wanted: dict[str, str], text: str) -> None:
    with pytest.raises(Refused, match=text):
        plan(seen, wanted)


def test_force_overrides_the_majority_but_never_the_last_voter() -> None:
    assert plan(three(n2=False), {"n3": "absent"}, force=True) == [Step("remove", "n3")]
    with pytest.raises(Refused, match="last voter"):
        plan(view(server("n1", leader=True)), {"n1": "absent"}, force=True)


def test_unknown_health_is_not_taken_for_health() -> None:
    seen = view(server("n1", leader=True), *(dataclasses.replace(server(i), healthy=None) for i in ("n2", "n3")))
    with pytest.raises(Refused, match="known to be healthy"):
        plan(seen, {"n3": "absent"})


def test_nobody_to_hand_over_to() -> None:
    seen = view(server("n1", leader=True), server("n2"), dataclasses.replace(server("n3"), healthy=False))
    with pytest.raises(Refused, match=r"after demote|no other healthy voter|after remove"):
        plan(seen, {"n1": "absent", "n2": "non_voter"})


def test_unknown_servers_are_left_alone() -> None:
    assert plan(three(), {"n9": "absent"}) == []
    assert plan(three(), {"n2": "voter"}) == []
