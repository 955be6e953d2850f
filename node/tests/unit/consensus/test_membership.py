# SPDX-License-Identifier: Apache-2.0
"""Configurations: what may follow what, and what is in force."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus import membership
from holdfast.consensus.types import Configuration, Member, RefusedError, Role


def config(
    voters: str = "abc", learners: str = "", non_voters: str = "", removed: tuple[str, ...] = ()
) -> Configuration:
    roles = [(Role.VOTER, voters), (Role.LEARNER, learners), (Role.NON_VOTER, non_voters)]
    members = tuple(Member(i, f"{i}:1", role) for role, ids in roles for i in ids)
    return Configuration("cl", members, ("CA",), removed)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (config("a"), config("", "a"), "last voter"),
        (config("a"), config(""), "last voter"),
        (config("abc"), config("a"), "only one voter"),
        (config("abc"), config("abd"), "only one voter"),
        (config("abc"), config("bc"), "leader cannot remove or demote itself"),
        (config("abc"), config("bc", "a"), "leader cannot remove or demote itself"),
        (config("abc"), replace(config("abc"), cluster_id="other"), "another cluster"),
    ],
)
def test_changes_that_are_refused(old: Configuration, new: Configuration, words: str) -> None:
    assert words in (membership.change_error(old, new, "a") or "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (config("abc"), config("ab")),
        (config("abc"), config("abcd")),
        (config("abc"), config("abc", "de", "f")),
        (config("abc", "d"), config("abc")),
        (config("abc"), replace(config("abc"), ca=("CA", "CA2"))),
    ],
)
def test_changes_that_are_allowed(old: Configuration, new: Configuration) -> None:
    assert membership.change_error(old, new, "a") is None


def test_an_added_server_starts_without_a_vote_and_replaces_its_earlier_self() -> None:
    old = config("abc", removed=("d", "x"))
    new = membership.add(old, Member("d", "d:9", Role.LEARNER))
    assert new.voters == old.voters
    assert new.removed == ("x",)
    again = membership.add(new, Member("b", "b:2", Role.LEARNER))
    assert [m.node_id for m in again.members].count("b") == 1
    assert again.member("b") == Member("b", "b:2", Role.LEARNER)


def test_an_address_in_use_is_refused_by_name() -> None:
    with pytest.raises(RefusedError, match="belongs to server b"):
        membership.add(config("abc"), Member("d", "b:1", Role.LEARNER))


def test_remove_and_role() -> None:
    gone = membership.remove(config("abc", removed=("c",)), "c")
    assert gone.removed == ("c",)
    assert gone.member("c") is None
    assert membership.with_role(config("abc"), "b", Role.NON_VOTER).voters == {"a", "c"}
    with pytest.raises(RefusedError, match="not in the Raft configuration"):
        membership.with_role(config("abc"), "z", Role.VOTER)


def test_removed_ids_do_not_pile_up() -> None:
    now = config("abc")
    for number in range(300):
        now = membership.remove(now, f"n{number}")
    assert len(now.removed) == 256
    assert now.removed[-1] == "n299"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("arvl"), st.sampled_from("abcdef")), max_size=12))
def test_single_changes_that_are_accepted_have_overlapping_majorities(steps: list[tuple[str, str]]) -> None:
    now = config("abc")
    for verb, who in steps:
        try:
            if verb == "a":
                new = membership.add(now, Member(who, f"{who}:1", Role.LEARNER))
            elif verb == "r":
                new = membership.remove(now, who)
            else:
                new = membership.with_role(now, who, Role.VOTER if verb == "v" else Role.LEARNER)
        except RefusedError:
            continue
        if membership.change_error(now, new, "a") is not None:
            continue
        assert "a" in new.voters
        both = len(now.voters | new.voters)
        assert (len(now.voters) // 2 + 1) + (len(new.voters) // 2 + 1) > both
        assert Configuration.unpack(new.pack()) == new
        now = new


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "cut", "compact"]), st.integers(1, 30)), max_size=20))
def test_history_against_a_list_of_every_index(steps: list[tuple[str, int]]) -> None:
    """The model keeps which configuration is in force at every index of the log."""
    names = iter(range(10_000))
    history = membership.History(0, config("a"))
    model: dict[int, Configuration] = {0: config("a")}
    base = 0
    for verb, index in steps:
        if verb == "append":
            new = config("a", removed=(str(next(names)),))
            history.append(index, new)
            if index > max(model):
                model[index] = new
        elif verb == "cut" and index > base:
            before = history.latest
            changed = history.cut(index)
            model = {i: c for i, c in model.items() if i < index or i == min(model)}
            assert changed == (before != history.latest)
        elif verb == "compact" and index >= base:
            base = index
            history.compact(index)
            keep = max((i for i in model if i <= index), default=min(model))
            model = {i: c for i, c in model.items() if i >= keep}
        assert (history.latest_index, history.latest) == max(model.items(), key=lambda item: item[0])
        for at in range(base, 32):
            known = max((i for i in model if i <= at), default=min(model))
            assert history.at(at) == (known, model[known])
