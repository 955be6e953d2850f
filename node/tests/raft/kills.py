# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.raft.kills [WRITES] [SEED]`: acknowledged writes under repeated kill -9; then all are looked for on every server.

Every writer writes new keys; what it was told is acknowledged is counted outside of the servers. Victims: mostly the leader, a
follower, now and then all at once, or a leader that is stopped for a while (SIGSTOP).
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.raft.cluster import Cluster, Server


@dataclass
class Outcome:
    """What a run did. `lost` has a sentence for every promise that was broken."""

    acknowledged: int
    kills: int
    pauses: int
    writers: int
    seconds: float
    lost: list[str]


def run(folder: Path, writes: int, seed: int, size: int = 256, writers: int = 256) -> Outcome:
    """Run until `writes` are acknowledged and at least five misfortunes have happened."""
    rng = random.Random(seed)
    cluster = Cluster(folder)
    kills = pauses = 0
    started = time.monotonic()
    every = max(1, min(6_000, writes // 10))  # acknowledged writes between two misfortunes
    try:
        cluster.start()
        for server in cluster.servers.values():
            server.ask("drive", writers=writers, size=size)
        while cluster.total < writes or kills + pauses < 5:
            _wait(cluster, cluster.total + rng.randint(every // 4, every * 2))
            kind = rng.random()
            if kind < 0.1:
                victims = list(cluster.servers.values())
            elif kind < 0.6:
                victims = [cluster.leader()]
            else:
                victims = [rng.choice(list(cluster.servers.values()))]
            if 0.5 < kind < 0.7:
                pauses += 1
                _pause(victims[0], rng.uniform(0.1, 2.0))
                continue
            for victim in victims:
                victim.kill()
                kills += 1
            time.sleep(rng.uniform(0, 0.5))
            for victim in victims:
                victim.start()
                victim.ask("drive", writers=writers, size=size)
        for server in cluster.servers.values():
            server.ask("rest")
        cluster.agree()
        took = time.monotonic() - started
        return Outcome(cluster.total, kills, pauses, len(cluster.acked), took, cluster.lost(size))
    finally:
        cluster.close()


def _pause(server: Server, seconds: float) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    server.process.send_signal(signal.SIGCONT)


def _wait(cluster: Cluster, goal: int) -> None:
    last, moved = cluster.total, time.monotonic()
    while cluster.total < goal:
        time.sleep(0.01)
        if cluster.total != last:
            last, moved = cluster.total, time.monotonic()
        elif time.monotonic() - moved > 60:
            raise AssertionError(f"no write was acknowledged for a minute, {last} were before")


def main() -> int:
    """1 when anything that was acknowledged is gone."""
    writes = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 31)
    print(f"{writes} writes, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), writes, seed)
    print(
        f"{found.acknowledged} acknowledged by {found.writers} writers in {found.seconds:.0f} s under {found.kills} kills and "
        f"{found.pauses} pauses, {len(found.lost)} promises broken"
    )
    for sentence in found.lost:
        print(sentence)
    return 1 if found.lost else 0


if __name__ == "__main__":
    sys.exit(main())
