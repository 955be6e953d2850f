# SPDX-License-Identifier: Apache-2.0
"""Partitions under load, in network namespaces (root and iproute2 needed): symmetric, one-way, a leader alone, a bridge, churn."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.faults.client import Load
from tests.faults.cluster import certificate, configure, kill, mount_both, restart, sleep_and_answer
from tests.faults.judge import TOTALS, settle
from tests.process.harness import Server, wait_for
from tests.process.test_partitions import FarCluster, FarServer, Network, inside, ip

Make = Callable[..., FarCluster]
Rounds = Callable[[int, int], int]


class Far(FarCluster):
    """Servers in namespaces, with options of storage "raft"."""

    def __init__(self, folder: Path, network: Network, tls: tuple[Path, Path], raft: dict[str, Any]) -> None:
        super().__init__(folder, network, tls)
        self._raft = raft

    def add(self, node_id: str, data: Path | None = None) -> Server:
        server = self.servers[node_id] = FarServer(self.folder / node_id, node_id, self.network, self.tls)
        configure(server, self._raft)
        server.token = self.token
        server.start()
        return server


@pytest.fixture
def make_far(tmp_path: Path) -> Iterator[Make]:
    """One cluster in namespaces of its own; the test runs where the clients are."""
    with contextlib.ExitStack() as stack:

        def build(count: int, **raft: Any) -> FarCluster:
            try:
                network = Network(count)
                stack.callback(network.close)
                stack.enter_context(inside(network.hub))
                ip("link", "set", "lo", "up", namespace=network.hub)
            except (OSError, FileNotFoundError) as error:
                pytest.skip(f"network namespaces cannot be made here (root and iproute2 needed): {error}")
            tls = certificate(tmp_path, list(network.addresses.values()))
            cluster = Far(tmp_path / "far", network, tls, raft)
            stack.callback(cluster.close)
            cluster.build(count)
            mount_both(cluster)
            return cluster

        yield build


def load_on(cluster: FarCluster, seed: int, clients: int = 6) -> Load:
    return Load(cluster, seed, clients, enter=lambda: inside(cluster.network.hub))


def split(
    cluster: FarCluster, one: list[str], other: list[str], *, outgoing: bool = True, incoming: bool = True
) -> None:
    """Nothing passes from `one` to `other` (outgoing), and back (incoming)."""
    for left, right in itertools.product(one, other):
        if outgoing:
            cluster.network.cut(left, right)
        if incoming:
            cluster.network.cut(right, left)
    TOTALS.faults += 1


def alone(cluster: FarCluster, server: Server, **how: bool) -> None:
    split(cluster, [server.node_id], [n for n in cluster.servers if n != server.node_id], **how)


def steps_down(server: Server) -> None:
    wait_for(lambda: server.get("sys/health", timeout=2.0).status != 200, "the old leader steps down", 30)


@pytest.mark.long
def test_a_leader_alone(make_far: Make, tmp_path: Path, seed: int) -> None:
    """Cut off in both directions, then in one: clients still reach it, and must not be told anything old by it."""
    cluster = make_far(3)
    ways = [{}, {"incoming": False}, {"outgoing": False}]
    with load_on(cluster, seed, 8) as load:
        for number in range(4):
            load.progress()
            old = cluster.leader()
            alone(cluster, old, **ways[number % 3])
            steps_down(old)
            load.progress(40)
            cluster.network.heal()
    settle(load, tmp_path)


@pytest.mark.parametrize("lease", [False, pytest.param(True, marks=pytest.mark.long)], ids=["read-index", "lease"])
def test_a_leader_wakes_up_alone(make_far: Make, tmp_path: Path, seed: int, rounds: Rounds, lease: bool) -> None:
    """It is cut off while it sleeps: when it wakes, nobody tells it that it was replaced, and clients wait for its answers."""
    cluster = make_far(3, lease_reads=lease)
    with load_on(cluster, seed) as load:
        for _ in range(rounds(1, 3)):
            load.progress()
            old = cluster.leader()
            sleep_and_answer(load, old, lambda old=old: alone(cluster, old))  # type: ignore[misc]
            steps_down(old)
            cluster.network.heal()
    settle(load, tmp_path)


@pytest.mark.long
def test_two_against_three(make_far: Make, tmp_path: Path, seed: int) -> None:
    """A minority of two, with the leader or without it; then three pieces, of which none is a majority."""
    cluster = make_far(5)
    names = list(cluster.servers)
    random = Random(seed)
    with load_on(cluster, seed) as load:
        for number in range(2):
            load.progress()
            leader = cluster.leader().node_id
            others = random.sample([n for n in names if n != leader], 4)
            few = [leader, others[0]] if number % 2 else others[:2]
            split(cluster, few, [n for n in names if n not in few])
            load.progress(40)
            cluster.network.heal()
        load.progress()
        pieces = [names[:2], names[2:4], names[4:]]
        for one, other in itertools.combinations(pieces, 2):
            split(cluster, one, other)
        for server in cluster.servers.values():
            steps_down(server)
        cluster.network.heal()
        load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_a_bridge(make_far: Make, tmp_path: Path, seed: int) -> None:
    """Five servers, two on each side of one that sees all: a majority is only there with the bridge."""
    cluster = make_far(5)
    names = list(cluster.servers)
    random = Random(seed)
    with load_on(cluster, seed) as load:
        for number in range(3):
            load.progress()
            leader = cluster.leader().node_id
            others = random.sample([n for n in names if n != leader], 4)
            bridge = leader if number % 2 else others[0]
            rest = [n for n in [leader, *others] if n != bridge]
            split(cluster, rest[:2], rest[2:])
            load.progress(40)
            cluster.network.heal()
    settle(load, tmp_path)


@pytest.mark.long
def test_a_ring(make_far: Make, tmp_path: Path, seed: int) -> None:
    """Each of three servers can send to the next one only: nobody has a majority that answers it; then all is well again."""
    cluster = make_far(3)
    names = list(cluster.servers)
    with load_on(cluster, seed) as load:
        for _ in range(2):
            load.progress()
            for one, following in zip(names, [*names[1:], names[0]], strict=True):
                split(cluster, [following], [one], incoming=False)
            for server in cluster.servers.values():
                steps_down(server)
            cluster.network.heal()
            load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_cuts_and_kills_at_random(make_far: Make, tmp_path: Path, seed: int) -> None:
    """Any cuts, in either direction, for a moment each, while now and then a server is killed."""
    cluster = make_far(3)
    random = Random(seed)
    pairs = list(itertools.permutations(cluster.servers, 2))
    with load_on(cluster, seed, 8) as load:
        for number in range(12):
            for source, target in random.sample(pairs, random.randint(1, 4)):
                cluster.network.cut(source, target)
            TOTALS.faults += 1
            time.sleep(random.uniform(0.3, 2.5))  # how long a fault lasts; nothing is waited for
            victim = random.choice(list(cluster.servers.values())) if number % 3 == 2 else None
            if victim is not None:
                kill(victim)
            cluster.network.heal()
            if victim is not None:
                restart(cluster, victim)
            load.progress()
    settle(load, tmp_path)
