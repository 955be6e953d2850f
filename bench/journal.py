# SPDX-License-Identifier: Apache-2.0
"""How long one flush of the journal takes (write and fdatasync), far from and around the beginning of a segment.

`python -m bench.journal [--flushes N] [--folder DIR]`: flushes of eight 1 KiB entries in segments of 16 MiB, compacted as in
production.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "node" / "src"))

from holdfast.consensus import recovery, wal
from holdfast.consensus.disk import FileDisk
from holdfast.consensus.replica import SEGMENT
from holdfast.consensus.types import Configuration, Entry, Snapshot

ENTRY = b"\x00" + bytes(1024)
AROUND = 20  # flushes before and after


def run(folder: Path, flushes: int) -> list[tuple[float, bool]]:
    """(milliseconds, began a segment) of every flush."""
    disk = FileDisk(folder)
    wal.create(disk, "cluster", "n1", SEGMENT)
    log, _ = recovery.recover(disk, SEGMENT)
    index = saved = 1
    times = []
    for _ in range(flushes):
        for _ in range(8):
            index += 1
            log.entry(Entry(ENTRY, index, 1))
        if index - saved > 48 * 1024:
            saved = index
            log.snap(Snapshot(index, 1, "snap", 1, "", Configuration("cluster", ()), 0), index - 16 * 1024)
        batch, sequence = log.take(), log._segments[-1].sequence
        started = time.perf_counter()
        log.write(batch)
        times.append(((time.perf_counter() - started) * 1000, log._segments[-1].sequence != sequence))
        log.prepare()
    disk.close()
    return times


def row(name: str, times: list[float]) -> str:
    """A row of the table."""
    ordered = sorted(times)
    cells = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 1)]
    return f"| {name} | {len(times)} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |"


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flushes", type=int, default=15000)
    parser.add_argument("--folder", default=None)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        times = run(Path(name) / "journal", options.flushes)
    rolls = [number for number, (_, rolled) in enumerate(times) if rolled]
    near = {n for roll in rolls for n in range(max(0, roll - AROUND), min(len(times), roll + AROUND + 1))}
    print("| flushes | number | p50 ms | p99 ms | most ms |\n|---|---|---|---|---|")
    print(row("all", [ms for ms, _ in times]))
    print(row("that begin a segment", [times[roll][0] for roll in rolls]))
    print(row(f"{AROUND} before to {AROUND} after", [times[n][0] for n in sorted(near)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
