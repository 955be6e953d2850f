# SPDX-License-Identifier: Apache-2.0
"""The Raft layer alone: three processes, mTLS, fdatasync before every acknowledgement; no HTTP, no barrier.

`python -m bench.raft_layer [--seconds N] [--rounds N] [--kills N]` prints medians of `rounds`.
Writers are coroutines in the leader's process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "node"), str(ROOT / "node" / "src")]

from tests.raft.cluster import Cluster


def throughput(cluster: Cluster, writers: int, size: int, seconds: float, rounds: int) -> str:
    """One row: the median round."""
    found = [cluster.leader().ask("load", writers=writers, size=size, seconds=seconds) for _ in range(rounds)]
    middle = {name: statistics.median(row[name] for row in found) for name in found[0]}
    best = max(row["rate"] for row in found)
    return (
        f"{middle['rate']:,.0f}/s (best {best:,.0f}), p50 {middle['p50']:.2f} ms, p99 {middle['p99']:.2f} ms, "
        f"{middle['cpu'] * 1e6:.0f} µs of the leader's processor an entry"
    )


def failover(cluster: Cluster, kills: int) -> str:
    """kill -9 of the leader until a write is acknowledged by another server."""
    times = []
    for _ in range(kills):
        leader = cluster.leader()
        cluster.agree()
        others = [s for s in cluster.servers.values() if s is not leader]
        started = time.monotonic()
        leader.kill()
        for server in others:
            server.send("probe", seconds=30.0)
        times.append(min(server.answer()["at"] for server in others) - started)
        leader.start()
    times.sort()
    worst = times[min(len(times) - 1, int(len(times) * 0.99))]
    return f"p50 {statistics.median(times):.2f} s, p99 {worst:.2f} s of {kills}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            print("| Raft layer, 3 processes, mTLS, fdatasync | holdfast |\n|---|---|")
            for writers, size in ((1, 1024), (64, 1024), (256, 1024), (256, 100), (64, 10240)):
                row = throughput(cluster, writers, size, options.seconds, options.rounds)
                print(f"| {writers} in flight, {size} bytes | {row} |", flush=True)
            if options.kills:
                print(f"| kill -9 of the leader until a write is acknowledged | {failover(cluster, options.kills)} |")
        finally:
            cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
