# SPDX-License-Identifier: Apache-2.0
"""Slow, full and failing disks under load. A sync that fails ends the server, at once and for good: what the page cache still
holds after it is nobody's data (fsyncgate). The others go on; after a restart on a sound disk nothing acknowledged is missing."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults.client import Load
from tests.faults.cluster import FaultCluster, kill, restart
from tests.faults.judge import TOTALS, lead, settle
from tests.faults.shim import ALLOCATE, FOREVER, SYNC, WRITE
from tests.process.harness import Server, wait_for
from tests.process.test_faults import ballast, small_disk

__all__ = ["small_disk"]  # a fixture

Make = Callable[..., FaultCluster]
Rounds = Callable[[int, int], int]
EXIT = 70  # EX_SOFTWARE, see exit_now


def ended_by_its_disk(cluster: FaultCluster, server: Server, error: int, since: int) -> None:
    """The server ends by itself, says why in one line, and has not touched the disk again."""
    wait_for(server.ended, "the server stops", 30)
    assert server.process is not None
    assert server.process.returncode == EXIT
    said = server.log.read_text()[since:]
    assert "Traceback" not in said
    critical = [line for line in said.splitlines() if "Raft has stopped" in line]
    assert len(critical) == 1, said
    assert f"the Raft journal cannot be written: {os.strerror(error)}" in critical[0]
    shim = cluster.shims[server.node_id]
    assert shim.get("seen_failures") == 1, "it tried again"
    assert shim.get("seen_after") == 0, "it went on writing after a sync had failed"


FAILURES = [
    pytest.param("leader", SYNC, errno.EIO, id="leader-sync-EIO"),
    pytest.param("follower", SYNC, errno.EIO, id="follower-sync-EIO", marks=pytest.mark.long),
    pytest.param("leader", WRITE, errno.ENOSPC, id="leader-write-ENOSPC", marks=pytest.mark.long),
    pytest.param("follower", WRITE, errno.EIO, id="follower-write-EIO", marks=pytest.mark.long),
    pytest.param("leader", SYNC, errno.ENOSPC, id="leader-sync-ENOSPC", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("who", "calls", "error"), FAILURES)
def test_a_failed_sync_or_write_stops_the_server(
    make_cluster: Make,
    tmp_path: Path,
    shim_library: Path,
    seed: int,
    rounds: Rounds,
    who: str,
    calls: int,
    error: int,
) -> None:
    cluster = make_cluster(3, shim_library)
    with Load(cluster, seed) as load:
        for _ in range(rounds(1, 2)):
            load.progress()
            victim = cluster.leader() if who == "leader" else cluster.followers()[0]
            since = victim.log.stat().st_size
            # Once: a server that tried again would succeed, and acknowledge what may be lost.
            cluster.shims[victim.node_id].fail(calls, error, 1)
            TOTALS.faults += 1
            ended_by_its_disk(cluster, victim, error, since)
            load.progress(40)
            cluster.shims[victim.node_id].well()
            restart(cluster, victim)
            load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_a_disk_that_stays_bad_keeps_the_server_down(
    make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int
) -> None:
    cluster = make_cluster(3, shim_library)
    with Load(cluster, seed) as load:
        load.progress()
        victim = cluster.followers()[0]
        shim = cluster.shims[victim.node_id]
        shim.fail(SYNC | WRITE | ALLOCATE, errno.EIO, FOREVER)
        TOTALS.faults += 1
        wait_for(victim.ended, "the server stops", 30)
        for _ in range(2):
            load.progress()
            since = victim.log.stat().st_size
            with contextlib.suppress(AssertionError):  # it may have ended before it answered
                victim.start()
            wait_for(victim.ended, "the server stops again", 30)
            said = victim.log.read_text()[since:]
            assert os.strerror(errno.EIO) in said
            assert "Traceback" not in said
        shim.well()
        restart(cluster, victim)
        load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_slow_disks_cost_time_and_nothing_else(
    make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int
) -> None:
    """Each server's disk in turn, then the majority's, needs longer for a sync than an election takes at most."""
    cluster = make_cluster(3, shim_library)
    servers = list(cluster.servers.values())
    with Load(cluster, seed) as load:
        slow = [[cluster.leader()], *([s] for s in servers), servers[:2], servers]
        for group in slow:
            for server in group:
                cluster.shims[server.node_id].slow(1.0 if len(group) == 1 else 0.3)
                TOTALS.faults += 1
            load.progress(15)
            for server in group:
                cluster.shims[server.node_id].well()
            load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_kills_while_disks_are_slow(make_cluster: Make, tmp_path: Path, shim_library: Path, seed: int) -> None:
    """A server is killed while much of what it has said waits for its disk."""
    cluster = make_cluster(3, shim_library)
    random = Random(seed)
    for shim in cluster.shims.values():
        shim.slow(0.05)
    with Load(cluster, seed) as load:
        for number in range(6):
            load.progress(15)
            everybody = list(cluster.servers.values())
            victims = everybody if number % 3 == 2 else [random.choice([*everybody, cluster.leader()])]
            kill(*victims)
            restart(cluster, *victims)
        for shim in cluster.shims.values():
            shim.well()
        load.progress()
    settle(load, tmp_path)


@pytest.mark.long
def test_a_full_disk_refuses_and_forgets_nothing(
    make_cluster: Make, tmp_path: Path, small_disk: Path, seed: int
) -> None:
    """The disk of one server has no room left, while it follows and while it leads; then there is room again."""
    cluster = make_cluster(3, data={"n1": small_disk / "data"})
    small = cluster.servers["n1"]
    with Load(cluster, seed) as load:
        for leads in (True, False, True):
            load.progress()
            if leads:
                lead(cluster, small)
            elif cluster.leader() is small:
                lead(cluster, cluster.servers["n2"])
            filler = ballast(small_disk)
            TOTALS.faults += 1
            wait_for(lambda: "no entries are taken" in small.log.read_text()[-4000:], "the server notices", 30)
            if not leads:
                load.progress(40)
            filler.unlink()
            load.progress()
        assert not small.ended()
    settle(load, tmp_path)
