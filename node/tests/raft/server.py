# SPDX-License-Identifier: Apache-2.0
"""One server of the Raft layer alone (a `Replica`: mTLS, journal with fdatasync; no HTTP, no barrier), told what to do on stdin.

`python -m tests.raft.server FOLDER NODE_ID HOST:PORT`. Commands and answers are JSON, one a line; `Server` in cluster.py is the
other end. Writers are coroutines in the leader's own process, each with one proposal under way: what is measured is Raft.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import uvloop

from holdfast.consensus.replica import Addresses, Replica
from holdfast.consensus.types import ConsensusError, Timing

_REPORT = 0.01  # seconds between lines that say what was acknowledged


def value_of(key: str, size: int) -> bytes:
    """The value that belongs to `key`: recomputed when the state is checked."""
    digest = hashlib.sha256(key.encode()).digest()
    return (digest * (size // 32 + 1))[:size]


def say(**fields: Any) -> None:
    """One line to whoever started this process."""
    os.write(1, json.dumps(fields).encode() + b"\n")


class Bench:
    """The commands."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.driving: asyncio.Task[None] | None = None
        self.acked: dict[str, int] = {}
        self.size = 0
        self.last = ""

    @property
    def leads(self) -> bool:
        leadership = self.replica.raft.leadership
        return leadership is not None and leadership.ready

    def status(self) -> dict[str, Any]:
        raft = self.replica.raft
        return {
            "leads": self.leads,
            "term": raft.current_term,
            "applied": raft.applied,
            "commit": raft.commit,
            "last": raft.log.last,
            "keys": len(self.replica.machine.state),
            "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        }

    async def write(self, key: str, value: bytes) -> None:
        await self.replica.propose(((), ((0, key, value),)), len(key) + len(value) + 16)

    # --- measuring ---

    async def load(self, writers: int, size: int, seconds: float) -> dict[str, Any]:
        """Closed loop for a while: rate and latencies in ms."""
        value = os.urandom(size)
        latencies: list[float] = []
        end = time.monotonic() + seconds

        async def writer(number: int) -> None:
            count = 0
            while (before := time.monotonic()) < end:
                await self.write(f"load/{number}/{count % 16}", value)
                latencies.append(time.monotonic() - before)
                count += 1

        gc.collect()
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        started = time.monotonic()
        await asyncio.gather(*(writer(n) for n in range(writers)))
        took = time.monotonic() - started
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used
        latencies.sort()
        at = lambda share: round(latencies[int(len(latencies) * share)] * 1000, 3)  # noqa: E731
        return {"rate": len(latencies) / took, "p50": at(0.5), "p99": at(0.99), "cpu": used / len(latencies)}

    async def probe(self, seconds: float) -> dict[str, Any]:
        """Try until a write is acknowledged here or elsewhere; when (CLOCK_MONOTONIC, the same in every process)."""
        end = time.monotonic() + seconds
        state = self.replica.machine.state
        before = state.revision("probe")
        while time.monotonic() < end:
            if self.leads:
                try:
                    await self.write("probe", b"1")
                except ConsensusError:
                    continue
                return {"at": time.monotonic()}
            if state.revision("probe") != before:
                break
            await asyncio.sleep(0.002)
        return {"at": end}

    # --- writing for ever, and checking ---

    def drive(self, writers: int, size: int) -> dict[str, Any]:
        """Write new keys whenever this server leads; every acknowledgement is told."""
        self.size = size
        self.driving = asyncio.create_task(self._drive(writers))
        return {}

    async def _drive(self, writers: int) -> None:
        reporting = asyncio.create_task(self._report())
        try:
            while True:
                if self.leads:
                    run = f"{self.replica.node_id}-{os.getpid()}-{self.replica.raft.current_term}"
                    await asyncio.gather(*(self._writer(f"{run}/{n}") for n in range(writers)))
                await asyncio.sleep(0.005)
        finally:
            reporting.cancel()

    async def _writer(self, name: str) -> None:
        count = 0
        while self.driving is not None:
            key = f"{name}/{count}"
            try:
                await self.write(key, value_of(key, self.size))
            except ConsensusError:
                return
            count += 1
            self.acked[name] = count

    async def _report(self) -> None:
        while True:
            if self.acked:
                say(acked=self.acked)
                self.acked = {}
            await asyncio.sleep(_REPORT)

    async def rest(self) -> dict[str, Any]:
        """Stop writing."""
        task, self.driving = self.driving, None
        if task is not None:
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.acked:
            say(acked=self.acked)
            self.acked = {}
        return {}

    def verify(self, size: int) -> dict[str, Any]:
        """How many keys of each writer are there without a gap, with the right value; and how many keys are wrong."""
        found: dict[str, set[int]] = defaultdict(set)
        wrong = 0
        state = self.replica.machine.state
        for key in state.keys(""):
            name, _, number = key.rpartition("/")
            item = state.get(key)
            if item is None or item[0] != value_of(key, size):
                wrong += 1
            else:
                found[name].add(int(number))
        counts = {}
        for name, numbers in found.items():
            count = 0
            while count in numbers:
                count += 1
            counts[name] = count
        return {"counts": counts, "wrong": wrong}


async def serve(folder: Path, node_id: str, address: str) -> None:
    """Run until stdin ends."""
    host, _, port = address.rpartition(":")

    def fatal(reason: str) -> None:
        say(fatal=reason)
        os._exit(70)

    replica = Replica(folder, node_id, Addresses((host, int(port)), address, "", "test"), Timing(), fatal)
    await replica.start()
    replica.raft.eligible = True
    bench = Bench(replica)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as the service does
    say(started=os.getpid())
    while line := await reader.readline():
        command = json.loads(line)
        name = command.pop("do")
        answer = getattr(bench, name)(**command)
        if asyncio.iscoroutine(answer):
            answer = await answer
        say(answer=answer)
    await replica.stop()


def main() -> None:
    """Command line: folder, node_id, address."""
    folder, node_id, address = sys.argv[1:4]
    uvloop.run(serve(Path(folder), node_id, address))


if __name__ == "__main__":
    main()
