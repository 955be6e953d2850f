# SPDX-License-Identifier: Apache-2.0
"""Simulated clusters: a fixed set of seeds, and fresh ones every time. A failing seed: `python -m tests.sim SEED`."""

from __future__ import annotations

import secrets

import pytest

from tests.sim.scenario import run

FRESH = [secrets.randbelow(1 << 31) for _ in range(40)]


@pytest.mark.parametrize("first", range(1, 61, 10))
def test_fixed_seeds(first: int) -> None:
    acknowledged = reads = 0
    for seed in range(first, first + 10):
        checks = run(seed).checks
        acknowledged += len(checks.acked)
        reads += checks.reads
    assert acknowledged > 500
    assert reads > 100


@pytest.mark.parametrize("seed", FRESH)
def test_fresh_seeds(seed: int) -> None:
    world = run(seed)
    leader = world.leader()
    assert leader is not None
    assert leader.raft.commit >= leader.raft.leadership.noop_index


def test_a_seed_is_one_run() -> None:
    first, second = run(7), run(7)
    assert first.checks.committed == second.checks.committed
    assert first.sent == second.sent
