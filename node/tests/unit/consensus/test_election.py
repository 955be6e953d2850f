# SPDX-License-Identifier: Apache-2.0
"""Election clock, stickiness, and which log is newer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.consensus.election import Election, up_to_date


class Fixed:
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@given(st.integers(0, 2**32), st.floats(0, 1e6))
def test_deadline_lies_between_one_and_two_timeouts(seed: int, now: float) -> None:
    election = Election(now, 0.4, random.Random(seed))
    assert not election.expired(now)
    assert now + 0.4 <= election.deadline <= now + 0.8 + 1e-6
    assert election.expired(election.deadline)


def test_boot_counts_as_contact_and_handing_over_ends_it() -> None:
    election = Election(100.0, 0.4, Fixed(0.5))
    assert election.sticky(100.39)
    assert not election.sticky(100.4)
    election.heard(101.0)
    assert election.sticky(101.2)
    election.forget_leader()
    assert not election.sticky(101.2)


def test_a_leader_that_speaks_ends_a_pre_vote() -> None:
    election = Election(0.0, 0.4, Fixed(0.0))
    election.pre_term, election.pre_votes = 7, {"a", "b"}
    election.heard(1.0)
    assert (election.pre_term, election.pre_votes) == (0, set())
    assert election.deadline == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("candidate", "own", "newer"),
    [((3, 5), (3, 5), True), ((3, 4), (3, 5), False), ((4, 1), (3, 9), True), ((2, 99), (3, 1), False)],
)
def test_up_to_date(candidate: tuple[int, int], own: tuple[int, int], newer: bool) -> None:
    assert up_to_date(*candidate, *own) is newer
