# SPDX-License-Identifier: Apache-2.0
"""kill -9 and SIGSTOP under load: nothing acknowledged is lost, no read is stale, the cluster goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults.client import Load
from tests.faults.cluster import FaultCluster, another_leads, kill, pause, restart, resume, sleep_and_answer
from tests.faults.judge import settle

Make = Callable[..., FaultCluster]
Rounds = Callable[[int, int], int]


def test_the_leader_is_killed_again_and_again(make_cluster: Make, tmp_path: Path, seed: int, rounds: Rounds) -> None:
    cluster = make_cluster(3)
    with Load(cluster, seed) as load:
        for _ in range(rounds(1, 6)):
            load.progress()
            old = cluster.leader()
            kill(old)
            another_leads(cluster, old)
            load.progress()
            restart(cluster, old)
    settle(load, tmp_path, lead_each=rounds(0, 1) == 1)


@pytest.mark.long
def test_followers_are_killed_in_turn(make_cluster: Make, tmp_path: Path, seed: int) -> None:
    cluster = make_cluster(3)
    random = Random(seed)
    with Load(cluster, seed) as load:
        for _ in range(6):
            load.progress()
            follower = random.choice(cluster.followers())
            kill(follower)
            load.progress(60)
            restart(cluster, follower)
    settle(load, tmp_path)


@pytest.mark.long
def test_all_servers_are_killed_at_once(make_cluster: Make, tmp_path: Path, seed: int) -> None:
    cluster = make_cluster(3)
    with Load(cluster, seed) as load:
        for _ in range(6):
            load.progress(60)
            servers = list(cluster.servers.values())
            kill(*servers)
            restart(cluster, *servers)
        load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_any_two_of_five_servers_are_killed(make_cluster: Make, tmp_path: Path, seed: int) -> None:
    cluster = make_cluster(5)
    random = Random(seed)
    with Load(cluster, seed) as load:
        for number in range(3):
            load.progress()
            victims = random.sample(list(cluster.servers.values()), 2)
            if number % 2 and cluster.leader() not in victims:
                victims[0] = cluster.leader()
            kill(*victims)
            load.progress(40)
            restart(cluster, *victims)
    settle(load, tmp_path)


@pytest.mark.parametrize("lease", [False, pytest.param(True, marks=pytest.mark.long)], ids=["read-index", "lease"])
def test_a_leader_that_slept_answers_nothing_old(
    make_cluster: Make, tmp_path: Path, seed: int, rounds: Rounds, lease: bool
) -> None:
    cluster = make_cluster(3, raft={"lease_reads": lease})
    with Load(cluster, seed, clients=8) as load:
        for _ in range(rounds(1, 5)):
            load.progress()
            sleep_and_answer(load, cluster.leader())
    settle(load, tmp_path)


@pytest.mark.long
def test_sleepers_of_all_kinds(make_cluster: Make, tmp_path: Path, seed: int) -> None:
    """Leaders, followers, majorities and everybody sleep for a while that is about as long as an election takes."""
    cluster = make_cluster(3)
    random = Random(seed)
    with Load(cluster, seed, clients=8) as load:
        for _ in range(15):
            load.progress()
            sleepers = random.sample(list(cluster.servers.values()), random.choice([1, 1, 2, 3]))
            for server in sleepers:
                pause(server)
            time.sleep(random.uniform(0.2, 3.0))
            for server in sleepers:
                resume(server)
    settle(load, tmp_path)
