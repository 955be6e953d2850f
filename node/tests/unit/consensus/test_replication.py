# SPDX-License-Identifier: Apache-2.0
"""A peer's progress under loss, repetition and reordering."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus.replication import Mode, Progress
from holdfast.consensus.types import Timing

TIMING = Timing(max_inflight=4)


def replicating(last: int = 10) -> Progress:
    progress = Progress(last, 0.0)
    progress.on_match(last, 0.0)
    return progress


def test_probe_sends_one_append_at_a_time() -> None:
    progress = Progress(10, 0.0)
    assert progress.due(10, 0.0, TIMING)
    progress.sent(10, 0.0)
    assert not progress.due(10, 0.1, TIMING)
    assert progress.due(10, 0.15, TIMING)


def test_a_match_begins_the_pipeline_and_the_window_ends_it() -> None:
    progress = replicating()
    for last in range(11, 15):
        assert progress.due(99, 0.0, TIMING)
        progress.sent(last, 0.0)
    assert not progress.due(99, 0.0, TIMING)
    progress.on_match(12, 0.0)
    assert list(progress.inflight) == [13, 14]
    assert progress.due(99, 0.0, TIMING)


def test_a_late_match_does_not_rewind(  # B1
) -> None:
    progress = replicating()
    for last in (11, 12, 13):
        progress.sent(last, 0.0)
    progress.on_match(12, 0.1)
    progress.on_match(11, 0.1)
    assert (progress.match, progress.next) == (12, 14)


def test_old_rejections_mean_nothing() -> None:
    progress = replicating()
    progress.on_reject(10, 3, 0.0)
    progress.on_reject(4, 3, 0.0)
    assert (progress.mode, progress.next) == (Mode.REPLICATE, 11)
    probe = Progress(10, 0.0)
    probe.on_reject(7, 2, 0.0)  # not the probe that is under way
    assert probe.next == 11


@pytest.mark.parametrize(("hint", "wanted"), [(4, 5), (9, 10), (500, 10), (0, 1)])
def test_a_rejected_probe_goes_back_to_the_hint(hint: int, wanted: int) -> None:
    probe = Progress(10, 0.0)
    probe.on_reject(10, hint, 0.0)
    assert probe.next == wanted
    assert probe.due(10, 0.0, TIMING)


def test_a_silent_pipeline_is_probed_again() -> None:
    progress = replicating()
    progress.sent(11, 0.0)
    assert not progress.due(11, 0.2, TIMING)
    assert progress.due(11, 0.3, TIMING)
    assert (progress.mode, progress.next) == (Mode.PROBE, 11)


def test_snapshot_mode_sends_no_entries_and_survives_a_broken_connection() -> None:
    progress = Progress(10, 0.0)
    progress.mode = Mode.SNAPSHOT
    progress.lost(1.0)
    progress.on_reject(10, 2, 1.0)
    assert progress.mode is Mode.SNAPSHOT
    assert not progress.due(99, 9.0, TIMING)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_follower_is_brought_up_to_date_over_a_bad_network(seed: int) -> None:
    """The follower is a model of what `raft.py` does with appends; messages are lost, repeated, reordered, connections break."""
    rng = random.Random(seed)
    leader = [0, *sorted(rng.choices(range(1, 9, 2), k=rng.randint(0, 12)))]
    shared = rng.randint(1, len(leader))
    follower = leader[:shared] + sorted(rng.choices(range(10, 20, 2), k=rng.randint(0, 5)))
    progress, now = Progress(len(leader), 0.0), 0.0
    wire: list[tuple[str, tuple[int, ...]]] = []
    for _round in range(3000):
        calm = _round > 600
        while progress.due(len(leader), now, TIMING):
            prev = progress.next - 1
            assert 0 < prev <= len(leader)
            count = min(len(leader) - prev, rng.randint(1, 3)) if prev < len(leader) else 0
            wire.append(("append", (prev, count)))
            progress.sent(prev + count, now)
        if wire:
            kind, fields = wire.pop(0 if calm else rng.randrange(len(wire)))
            if not calm and rng.random() < 0.2:
                wire.append((kind, fields))
            if not calm and rng.random() < 0.2:
                continue
            if kind == "append":
                prev, count = fields
                if prev > len(follower):
                    wire.append(("no", (prev, len(follower))))
                elif follower[prev - 1] != leader[prev - 1]:
                    wire.append(("no", (prev, prev - 1)))
                else:
                    for index in range(prev, prev + count):
                        if index < len(follower) and follower[index] != leader[index]:
                            del follower[index:]
                        if index >= len(follower):
                            follower.append(leader[index])
                    wire.append(("yes", (prev + count,)))
            elif kind == "yes":
                before = progress.match
                progress.on_match(fields[0], now)
                assert progress.match >= before
            else:
                progress.on_reject(fields[0], fields[1], now)
            assert progress.match <= len(follower)
            assert follower[: progress.match] == leader[: progress.match]
            assert progress.next > progress.match
        if not calm and rng.random() < 0.05:
            progress.lost(now)
        now += 0.01
        if calm and progress.match == len(leader):
            break
    assert progress.match == len(leader)
    assert follower[: len(leader)] == leader


def test_a_server_lags_by_the_time_its_last_round_took() -> None:  # dissertation §4.2.1
    progress = Progress(10, 0.0)
    assert progress.behind(10, 0, 0.0) == float("inf")  # nothing is known yet
    progress.on_match(4, 1.0)
    assert progress.behind(10, 0, 1.0) == float("inf")
    progress.on_match(10, 2.0)
    assert progress.behind(10, 0, 2.0) == 0.0
    assert progress.behind(11, 0, 2.0) == 2.0  # so long did it take last time
    progress.sent(15, 5.0)
    progress.on_match(12, 5.1)
    progress.sent(20, 5.1)
    assert progress.behind(20, 0, 5.1) == 2.0
    progress.on_match(15, 5.2)  # the round that began with 15 is over
    assert progress.behind(20, 0, 5.2) == pytest.approx(0.2)
    progress.sent(21, 5.2)
    assert progress.behind(21, 0, 6.2) == pytest.approx(1.0)  # the round under way takes longer than the last
    progress.on_match(21, 6.3)
    assert progress.behind(21, 0, 60.0) == 0.0
    progress.sent(22, 60.0)
    assert progress.behind(22, 0, 60.1) == pytest.approx(1.1)
    progress.on_match(22, 60.1)
    progress.sent(23, 61.0)
    assert progress.behind(23, 0, 61.1) == pytest.approx(0.1)


def test_a_server_whose_log_is_there_lags_while_it_loads_its_state() -> None:
    progress = Progress(10, 0.0)
    progress.on_match(10, 0.1)
    progress.on_applied(3, 10, 0.1)
    assert progress.behind(10, 10, 0.1) == float("inf")  # it has not been up to date under this leader
    progress.on_applied(10, 11, 3.0)
    progress.on_applied(10, 12, 5.0)  # a restore takes its time
    assert progress.behind(10, 12, 5.0) == pytest.approx(2.0)
    progress.on_applied(11, 12, 6.0)
    progress.on_applied(13, 14, 6.1)  # writes go on all the time, and it is never further behind than an answer
    assert progress.behind(10, 15, 6.15) == pytest.approx(0.05)
    progress.on_applied(15, 15, 6.2)
    assert progress.behind(10, 15, 60.0) == 0.0
