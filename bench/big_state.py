# SPDX-License-Identifier: Apache-2.0
"""A large state in three real servers: memory, seconds and silence of every step that moves the whole of it.

`python -m bench.big_state [--mib N] [--value BYTES] [--steps NAME,…] [--folder DIR]`. For each step: seconds, resident MiB of every
server before, at most (VmHWM) and after, and what that is more than the state itself; the longest time
without an answer, and without a good one, to reads and writes at the leader; the slowest answer of every server to sys/health (its
event loop stood still so long); how often leadership moved; and the most that a server had on disk. Needs free disk of about twelve
times the state; everything is removed at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "node"))
sys.path.insert(0, str(ROOT / "node" / "src"))

import urllib3
from holdfast.snapshot.archive import ArchiveReader, ArchiveWriter, Meta
from holdfast.state.records import EntryDecoder, encode_entry, encoded_size
from tests.process.harness import LocalCluster, Server, wait_for

MIB = 1024 * 1024
AWAY = 120 * MIB  # this or a fifth of the state is written while a server is away: a leader keeps less of its log


def status_of(server: Server, name: str) -> int:
    """A figure of /proc/PID/status in KiB."""
    assert server.process is not None
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", text)[1])  # type: ignore[index]


def used(folder: Path) -> int:
    """Bytes on disk below a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


class Probe:
    """Reads and writes one after the other at whoever leads, and remembers the longest silences."""

    def __init__(self, cluster: LocalCluster, server: Server) -> None:
        self.server = server
        self._cluster = cluster
        self._stop = threading.Event()
        self.silence = {"answer": 0.0, "read": 0.0, "write": 0.0}
        self.others: dict[int, int] = {}
        self.texts: set[bytes] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = dict.fromkeys(self.silence, time.monotonic())
        number = 0
        while not self._stop.is_set():
            number += 1
            for name in ("read", "write"):
                server = self.server
                if name == "read":
                    answer = server.get("kv1/probe", timeout=30.0)
                else:
                    answer = server.post("kv1/probe", {"v": number}, timeout=30.0)
                now = time.monotonic()
                good = answer.status in (200, 204)
                if not good:
                    self.others[answer.status] = self.others.get(answer.status, 0) + 1
                    self.texts.add(answer.body[:200])
                for kind, there in (("answer", answer.status > 0), (name, good)):
                    self.silence[kind] = max(self.silence[kind], now - last[kind])
                    if there:
                        last[kind] = now
            time.sleep(0.005)


class BigState:
    """One cluster, one state, one table."""

    def __init__(self, folder: Path, mib: int, value: int) -> None:
        self.folder = folder
        self.size = mib * MIB
        self.value = value
        self.cluster = LocalCluster(folder / "cluster")
        self.archive = folder / "archive.snap"
        self.rows: list[str] = []

    @property
    def servers(self) -> list[Server]:
        """In the order of their names."""
        return [self.cluster.servers[name] for name in sorted(self.cluster.servers)]

    def _led(self) -> int:
        return sum(server.log.read_text(errors="replace").count("leads=true") for server in self.servers)

    def measure(self, name: str, work: Callable[[Probe], float | None]) -> None:
        """Run a step; `work` may return the seconds that count."""
        leader = self.cluster.leader()
        before = {s: status_of(s, "VmRSS") for s in self.servers if not s.ended()}
        pids = {s: s.process.pid for s in before if s.process}
        for server in before:
            Path(f"/proc/{pids[server]}/clear_refs").write_text("5")
        led, disk = self._led(), 0
        stop = threading.Event()

        def watch() -> None:
            nonlocal disk
            while not stop.wait(0.5):
                disk = max(disk, max(used(s.data) for s in self.servers))

        slowest = dict.fromkeys(self.servers, 0.0)

        def ask(server: Server) -> None:
            while not stop.wait(0.05):
                asked = time.monotonic()
                if server.get("sys/health", timeout=30.0).status:
                    slowest[server] = max(slowest[server], time.monotonic() - asked)

        watchers = [threading.Thread(target=watch), *(threading.Thread(target=ask, args=(s,)) for s in self.servers)]
        for watcher in watchers:
            watcher.start()
        with Probe(self.cluster, leader) as probe:
            started = time.monotonic()
            counted = work(probe)
            took = counted if counted is not None else time.monotonic() - started
        stop.set()
        for watcher in watchers:
            watcher.join()
        cells = []
        for server in self.servers:
            after, most = status_of(server, "VmRSS"), status_of(server, "VmHWM")
            same = server in before and server.process is not None and server.process.pid == pids[server]
            first = before[server] if same else 0
            beside = (most - (first if first > after // 2 else after)) / 1024  # else: the step has made the state
            cells.append(f"{first // 1024}/{most // 1024}/{after // 1024} (+{beside:.0f})")
        quiet = probe.silence
        health = " · ".join(f"{slowest[s]:.2f}" for s in self.servers)
        others = ", ".join(f"{count}× {code or 'none'}" for code, count in sorted(probe.others.items())) or "none"
        row = (
            f"| {name} | {took:.1f} s | {' · '.join(cells)} | {quiet['answer']:.2f} | {quiet['read']:.2f} / "
            f"{quiet['write']:.2f} | {health} | {others} | {self._led() - led} | {disk / MIB:.0f} |"
        )
        print(row, flush=True)
        self.rows.append(row)
        for text in probe.texts - {b""}:
            print("  ", text.decode(errors="replace"), flush=True)

    # --- the state ---

    def build(self) -> None:
        """Three servers, a mount, and an archive of the wanted size made from their snapshot."""
        self.cluster.build(3)
        leader = self.cluster.leader()
        assert leader.post("sys/mounts/kv1", {"type": "kv"}).status == 204
        assert leader.post("kv1/probe", {"v": 0}).status == 204
        self._generate(leader.get("sys/storage/raft/snapshot").body)

    def _generate(self, small: bytes) -> None:
        decoder, known = EntryDecoder(), []
        reader = ArchiveReader(lambda piece: known.extend(decoder.feed(piece)))
        reader.feed(small)
        verified = reader.finish()
        prefix = next(key for key, _ in known if key.endswith("/probe")).removesuffix("probe")  # inside the mount
        count = self.size // self.value

        def entries() -> Iterator[tuple[str, bytes]]:
            rng = random.Random(1)
            block = rng.randbytes(MIB + self.value)
            before = [e for e in known if e[0] < prefix + "a"]
            yield from before
            for number in range(count):
                start = rng.randrange(MIB)
                yield f"{prefix}a/{number // 1000:06d}/{number:09d}", block[start : start + self.value]
            yield from known[len(before) :]

        size = sum(encoded_size(key, value) for key, value in entries())
        writer = ArchiveWriter(Meta(verified.meta.index, verified.meta.term, size), 0)
        with self.archive.open("wb") as file:
            file.write(writer.start())
            for key, value in entries():
                file.write(writer.state(encode_entry(key, value)))
            file.write(writer.finish(verified.sealed))

    def _applied(self, server: Server, timeout: float = 600.0) -> None:
        """Wait until a server has applied what the leader has committed now, and nothing is being loaded."""
        wanted = self.cluster.leader().get("sys/leader").json["raft_committed_index"]

        def there() -> bool:
            answer = server.get("sys/leader")
            return answer.status == 200 and answer.json["raft_applied_index"] >= wanted

        wait_for(there, f"{server.node_id} has applied {wanted}", timeout)

    def _compacted(self) -> None:
        """Wait until no server writes a snapshot any more."""

        def quiet() -> bool:
            return not any(list(s.data.glob("raft/tmp-*")) for s in self.servers)

        time.sleep(1)
        wait_for(quiet, "no snapshot is being written", 600)

    # --- steps ---

    def _upload(self) -> None:
        leader = self.cluster.leader()
        headers = {"X-Vault-Token": leader.token, "Content-Length": str(self.archive.stat().st_size)}
        with self.archive.open("rb") as file:
            answer = urllib3.PoolManager(retries=False).request(
                "POST",
                f"{leader.address}/v1/sys/storage/raft/snapshot-force",
                body=file,
                headers=headers,
                timeout=1200,
            )
        assert answer.status == 204, answer.data

    def restore(self, name: str) -> None:
        """A restore, until every server has it."""

        def work(_probe: Probe) -> None:
            self._upload()
            for server in self.servers:
                self._applied(server)

        self.measure(f"{name}, until all three have it", work)
        self.measure("the snapshots that follow it", lambda _probe: self._compacted())

    def save(self) -> None:
        """A download."""

        def work(_probe: Probe) -> None:
            leader, digest = self.cluster.leader(), hashlib.sha256()
            answer = urllib3.PoolManager(retries=False).request(
                "GET",
                f"{leader.address}/v1/sys/storage/raft/snapshot",
                headers={"X-Vault-Token": leader.token},
                preload_content=False,
                timeout=1200,
            )
            size = 0
            for piece in answer.stream(MIB):
                digest.update(piece)
                size += len(piece)
            assert size > self.size

        self.measure("snapshot save", work)

    def _away(self) -> Server:
        """A follower that is stopped while the leader compacts its log beyond it."""
        leader = self.cluster.leader()
        follower = next(s for s in reversed(self.servers) if s is not leader)
        assert follower.stop() == 0
        value = "x" * 500_000
        for number in range(max(AWAY, self.size // 5) // len(value)):
            assert leader.post(f"kv1/away{number % 8}", {"v": value}).status == 204
        self._compacted()
        follower.start()
        return follower

    def _return(self, follower: Server) -> None:
        self.cluster.unseal(follower)
        self._applied(follower)

    @staticmethod
    def _part(follower: Server) -> int:
        return max((p.stat().st_size for p in follower.data.glob("raft/part-*")), default=0)

    def install(self) -> None:
        """An install on a follower that already holds the old state."""
        follower = self._away()
        self.measure(f"install on {follower.node_id}, which was away", lambda _probe: self._return(follower))
        self._compacted()

    def _half(self, follower: Server) -> int:
        found: int = wait_for(
            lambda: size if (size := self._part(follower)) > self.size // 3 else 0, "a third has arrived", 300
        )
        return found

    def killed_follower(self) -> None:
        """kill -9 of the receiver in the middle of an install."""
        follower = self._away()

        def work(_probe: Probe) -> None:
            had = self._half(follower)
            follower.kill()
            follower.start()
            kept = self._part(follower)
            self._return(follower)
            print(f"  part file at the kill {had / MIB:.0f} MiB, after the restart {kept / MIB:.0f} MiB")

        self.measure(f"install on {follower.node_id}, killed at a third", work)
        self._compacted()

    def killed_leader(self) -> None:
        """kill -9 of the sender in the middle of an install."""
        follower = self._away()
        old = self.cluster.leader()

        def work(probe: Probe) -> None:
            self._half(follower)
            old.kill()
            probe.server = self.cluster.leader()
            self._return(follower)
            old.start()
            self.cluster.unseal(old)

        self.measure(f"install on {follower.node_id}, leader {old.node_id} killed at a third", work)
        self._compacted()

    def start(self) -> None:
        """A restart of one server, until it is unsealed."""
        leader = self.cluster.leader()
        server = next(s for s in self.servers if s is not leader)
        assert server.stop() == 0
        began = time.monotonic()
        server.start()
        self.cluster.unseal(server)
        took = time.monotonic() - began
        self._applied(server)
        rss = status_of(server, "VmRSS") * 1024
        print(f"  start until unsealed {took:.1f} s, {rss / MIB:.0f} MiB resident: {rss / self.size:.2f} x the data")

    def close(self) -> None:
        """End the servers."""
        self.cluster.close()


def main() -> int:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--value", type=int, default=1024)
    parser.add_argument("--steps", default="save,restore,install,killed_follower,killed_leader,start")
    parser.add_argument("--folder", default=None, help="where the servers live (default: the temporary directory)")
    options: Any = parser.parse_args()
    if shutil.disk_usage(options.folder or tempfile.gettempdir()).free < 12 * options.mib * MIB + 4096 * MIB:
        print(f"not enough free disk for {options.mib} MiB of state in three servers", file=sys.stderr)
        return 1
    print(
        f"{options.mib} MiB in values of {options.value} bytes; memory in MiB of n1 · n2 · n3: before/most/after (beside)"
    )
    print(
        "| step | time | memory | no answer, s | no good read / write, s | slowest health, s | others | elections | disk MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bench = BigState(Path(name), options.mib, options.value)
        try:
            bench.build()
            bench.restore("restore into an empty state")
            for step in options.steps.split(","):
                if step == "restore":
                    bench.restore("restore over a state of the same size")
                elif step:
                    getattr(bench, step)()
        finally:
            if os.environ.get("KEEP_LOGS"):
                for server in bench.servers:
                    shutil.copy(server.log, Path(os.environ["KEEP_LOGS"]) / f"{server.node_id}.log")
            bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
