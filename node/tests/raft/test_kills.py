# SPDX-License-Identifier: Apache-2.0
"""The Raft layer on real processes: nothing acknowledged is lost to kill -9, and the check itself would notice a loss."""

from __future__ import annotations

import random
from pathlib import Path

from tests.raft.cluster import Cluster
from tests.raft.kills import run


def test_acknowledged_writes_survive_kills(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    found = run(tmp_path, 30_000, seed, writers=64)
    assert found.lost == [], f"python -m tests.raft.kills 30000 {seed}"
    assert found.acknowledged >= 30_000
    assert found.kills + found.pauses >= 5


def test_the_check_notices_a_loss(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        leader = cluster.leader()
        leader.ask("drive", writers=2, size=64)
        while cluster.total < 10:
            cluster.leader()
        leader.ask("rest")
        cluster.agree()
        assert cluster.lost(64) == []
        assert len(cluster.lost(65)) >= 3  # every server has other values than those
        writer = next(iter(cluster.acked))
        cluster.acked[writer] += 1  # one more than there was
        assert len(cluster.lost(64)) == 3
    finally:
        cluster.close()
