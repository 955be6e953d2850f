# SPDX-License-Identifier: Apache-2.0
"""What autopilot does next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus.autopilot import Cleanup, Health, Promote, Settings, failure_tolerance, healthy, reconcile
from holdfast.consensus.types import Configuration, Member, Role

RULES = Settings(True, 10.0, 60.0, 1000, 3, 10.0, 0.4)
WELL = Health(0.1, True, 100, 3, 100, 50.0)
DEAD = Health(100.0, False, 0, 0, 0, None)


def config(voters: str, learners: str = "", non_voters: str = "") -> Configuration:
    roles = [(Role.VOTER, voters), (Role.LEARNER, learners), (Role.NON_VOTER, non_voters)]
    return Configuration("cl", tuple(Member(i, f"{i}:1", role) for role, ids in roles for i in ids))


def decide(
    configuration: Configuration, servers: dict[str, Health], now: float = 100.0, since: float = 0.0, **rules: object
) -> Promote | Cleanup | None:
    return reconcile(configuration, "a", servers, now, since, replace(RULES, **rules))


def test_a_learner_is_promoted_when_caught_up_and_stable() -> None:
    now = config("a", "b")
    assert decide(now, {"b": WELL}) == Promote("b")
    assert decide(now, {"b": replace(WELL, match=99, behind=0.4)}) == Promote("b")  # writes go on all the time
    assert decide(now, {"b": replace(WELL, match=99, behind=0.5)}) is None
    assert decide(now, {"b": replace(WELL, stable_since=None)}) is None
    assert decide(now, {"b": replace(WELL, stable_since=95.0)}) is None
    assert decide(now, {"b": replace(WELL, stable_since=95.0)}, since=95.0) == Promote("b")
    assert decide(now, {}) is None
    assert decide(config("a", "", "b"), {"b": WELL}) is None


def test_dead_servers_go_non_voters_first_and_only_when_asked() -> None:
    now = config("abcde", "", "f")
    servers = dict.fromkeys("bcd", WELL) | {"e": DEAD, "f": DEAD}
    assert decide(now, servers) == Cleanup("f")
    assert decide(config("abcde"), servers) == Cleanup("e")
    assert decide(now, servers, cleanup_dead_servers=False) is None
    assert decide(config("abcde"), servers, min_quorum=5) is None


@pytest.mark.parametrize(("voters", "dead"), [("abc", "b"), ("abcd", "bc"), ("abcde", "bcd"), ("abcdef", "bcd")])
def test_no_cleanup_that_leaves_too_few_or_touches_half(voters: str, dead: str) -> None:
    servers = {i: DEAD if i in dead else WELL for i in voters[1:]}
    assert decide(config(voters), servers) is None


@settings(max_examples=300, deadline=None)
@given(st.sets(st.sampled_from("bcdefgh")), st.sets(st.sampled_from("bcdefgh")), st.integers(0, 7))
def test_cleanup_never_removes_a_live_server_nor_goes_below_its_limits(
    others: set[str], dead: set[str], minimum: int
) -> None:
    voters = "a" + "".join(sorted(others))
    step = decide(config(voters), {i: DEAD if i in dead else WELL for i in others}, min_quorum=minimum)
    if isinstance(step, Cleanup):
        assert step.node_id in dead & others
        assert len(voters) - 1 >= max(3, minimum)
        assert 2 * len(dead & others) < len(voters)


@pytest.mark.parametrize(
    ("change", "well"),
    [
        ({}, True),
        ({"answered": False}, False),
        ({"contact_age": 10.5}, False),
        ({"last_term": 9}, False),
        ({"match": 0}, False),
    ],
)
def test_health(change: dict[str, object], well: bool) -> None:
    assert healthy(replace(WELL, **change), 1100, 3, RULES) is well  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("voters", "well", "tolerance"),
    [("a", "a", 0), ("abc", "abc", 1), ("abc", "ab", 0), ("abc", "a", 0), ("abcde", "abcde", 2), ("abcde", "abcd", 1)],
)
def test_failure_tolerance(voters: str, well: str, tolerance: int) -> None:
    assert failure_tolerance(config(voters, "z"), dict.fromkeys(well + "z", True)) == tolerance
