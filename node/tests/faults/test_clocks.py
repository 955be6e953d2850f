# SPDX-License-Identifier: Apache-2.0
"""Wall clocks that jump and clocks that run at different rates: consensus does not notice, and a token's time is wall time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults.client import Load
from tests.faults.cluster import FaultCluster, another_leads, kill, restart, sleep_and_answer, term
from tests.faults.judge import TOTALS, settle

Make = Callable[..., FaultCluster]
Rounds = Callable[[int, int], int]
HOUR, DAY = 3600.0, 86400.0


def test_wall_clocks_jump(make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int, rounds: Rounds) -> None:
    """Of the leader, of a follower, of all; there and back, by an hour and by a day. No election follows from it."""
    cluster = make_cluster(3, shim_library)
    random = Random(seed)
    with Load(cluster, seed) as load:
        load.progress()
        before = term(cluster)
        for number, jump in enumerate([DAY, -HOUR, HOUR, -DAY, 30 * DAY][: rounds(1, 5)]):
            leader = cluster.leader()
            who = [[leader], [random.choice(cluster.followers())], list(cluster.servers.values())][number % 3]
            for server in who:
                cluster.shims[server.node_id].jump(jump)
                TOTALS.faults += 1
            load.progress(60)
            assert cluster.leader() is leader
            for server in who:
                cluster.shims[server.node_id].jump(0.0)
            load.progress(60)
            assert cluster.leader() is leader
        assert term(cluster) == before
    settle(load, tmp_path)


@pytest.mark.long
def test_wall_clocks_jump_while_leaders_die(make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int) -> None:
    """Every restart finds another time: whatever is on disk with a date in the future or the past is read the same."""
    cluster = make_cluster(3, shim_library)
    with Load(cluster, seed) as load:
        for jump in (HOUR, DAY, 7 * DAY, -0.5 * HOUR, 0.0):
            load.progress()
            old = cluster.leader()
            kill(old)
            cluster.shims[old.node_id].jump(jump)
            another_leads(cluster, old)
            restart(cluster, old)
            load.progress()
        for shim in cluster.shims.values():
            shim.jump(0.0)
    settle(load, tmp_path)


@pytest.mark.long
def test_a_server_that_lives_yesterday_comes_back_when_its_clock_is_set(
    make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int
) -> None:
    """A day back, the certificates of a new cluster are not valid yet: the server is alone, and harmless."""
    cluster = make_cluster(3, shim_library)
    with Load(cluster, seed) as load:
        load.progress()
        late = cluster.followers()[0]
        before = term(cluster)
        kill(late)
        cluster.shims[late.node_id].jump(-DAY)
        late.start()
        load.progress(60)
        cluster.shims[late.node_id].jump(0.0)
        cluster.unseal(late)
        load.progress()
        assert term(cluster) == before
    settle(load, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("lease", [False, True], ids=["read-index", "lease"])
def test_clocks_run_at_different_rates(
    make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int, lease: bool
) -> None:
    """One runs 5 % fast, one 5 % slow; leaders sleep and die. Nobody takes an old quorum, lease or heartbeat for a fresh one."""
    rates = {"n1": 5.0, "n2": -5.0}
    cluster = make_cluster(3, shim_library, rates=rates, raft={"lease_reads": lease})
    with Load(cluster, seed, clients=8) as load:
        load.progress(100)
        before = term(cluster)
        load.progress(100)
        assert term(cluster) == before
        for number in range(6):
            old = cluster.leader()
            if number % 2:
                kill(old)
                another_leads(cluster, old)
                restart(cluster, old)
            else:
                sleep_and_answer(load, old)
            load.progress()
    settle(load, tmp_path)


def test_a_token_lives_by_the_wall_clock(make_cluster: Make, shim_library: Path) -> None:
    """Its end is a moment of wall time: it comes early when the leader's clock is ahead."""
    cluster = make_cluster(1, shim_library)
    server = cluster.leader()
    tokens = {}
    for ttl in ("2h", "2d"):
        answer = server.post("auth/token/create", {"ttl": ttl, "policies": ["default"]})
        assert answer.status == 200, answer.body
        tokens[ttl] = answer.json["auth"]["client_token"]

    def valid() -> list[str]:
        found = []
        for ttl, token in tokens.items():
            status = server.get("auth/token/lookup-self", token=token).status
            assert status in (200, 403)
            found += [ttl] if status == 200 else []
        return found

    shim = cluster.shims["n1"]
    shim.jump(HOUR)
    assert valid() == ["2h", "2d"]
    shim.jump(-DAY)
    assert valid() == ["2h", "2d"]
    shim.jump(DAY)
    assert valid() == ["2d"]
