# SPDX-License-Identifier: Apache-2.0
"""Snapshot download and upload over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.types import ApiError, StandbyError
from holdfast.snapshot.archive import ArchiveReader
from holdfast.snapshot.restore import MISMATCH, Restorer
from holdfast.state.records import decode_entries
from holdfast.storage.types import Leader, NotLeader, Server, StorageError

ENTRIES = [("core/keyring", b"k"), ("core/seal-config", b"{}"), *((f"logical/{n:04}", bytes(2000)) for n in range(900))]
REAL = Path(__file__).parents[2] / "fixtures" / "openbao-2.6.2.snap"
PATH = "/v1/sys/storage/raft/snapshot"


@dataclass
class Source:
    fail_after: int | None = None
    closed: bool = False
    index: int = 12
    term: int = 2
    servers: tuple[Server, ...] = (Server("n1", "127.0.0.1:8201", True),)
    configuration_index: int = 1
    passes: int = 0

    def entries(self) -> Iterator[tuple[str, bytes]]:
        self.passes += 1
        for number, entry in enumerate(ENTRIES):
            if self.passes == 2 and number == self.fail_after:
                raise OSError("disk error")
            yield entry

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeCluster:
    node_id: str = "n1"
    source: Source = field(default_factory=Source)
    restored: list[tuple[list[tuple[str, bytes]], str, int]] = field(default_factory=list)
    trouble: Exception | None = None
    gate: asyncio.Event | None = None

    def leader(self) -> Leader:
        return Leader("n9", "127.0.0.1:1", "https://leader:8200/")

    def is_leader(self) -> bool:
        return True

    async def open_snapshot(self) -> Source:
        return self.source

    async def restore(self, path: Path, sha256: str, size: int, progress: Callable[[str, int, int], None]) -> int:
        progress("replicating", 0, size)
        if self.gate:
            await self.gate.wait()
        if self.trouble:
            raise self.trouble
        data = path.read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
        assert path.stat().st_mode & 0o777 == 0o600
        with path.open("rb") as file:
            self.restored.append((list(decode_entries(file)), sha256, size))
        return 99


class FakeSealer:
    key = b"A"

    async def seal_wrap(self, data: bytes) -> bytes:
        return self.key + data

    async def seal_open(self, blob: bytes) -> bytes:
        if not blob.startswith(self.key):
            raise ValueError("authentication failed")
        return blob[1:]


@dataclass
class Setup:
    running: Any
    cluster: FakeCluster
    connection: Any
    spool: Path


@pytest.fixture
def setup(serve: Any, tmp_path: Path) -> Any:
    @asynccontextmanager
    async def build(**settings: Any) -> Any:
        cluster = FakeCluster()
        spool = tmp_path / "spool"
        async with serve(cluster=cluster, snapshots=Restorer(cluster, FakeSealer(), spool), **settings) as running:
            running.core.answer = lambda request: None
            yield Setup(running, cluster, await running.connect(), spool)

    return build


async def download(setup: Setup) -> bytes:
    answer = await setup.connection.ask("GET", PATH, X_Vault_Token="t")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["content-disposition"] == "attachment"
    body: bytes = answer.body
    return body


async def test_save_and_restore(setup: Any) -> None:
    async with setup() as found:
        data = await download(found)
        assert found.cluster.source.closed
        state: list[bytes] = []
        reader = ArchiveReader(state.append)
        reader.feed(data)
        verified = reader.finish()
        assert verified.sealed == b"A" + verified.sums
        assert (verified.meta.index, verified.meta.term, verified.meta.configuration_index) == (12, 2, 1)
        answer = await found.connection.ask("POST", PATH, data, X_Vault_Token="t")
        assert (answer.status, answer.body) == (204, b"")
        assert found.cluster.restored == [(ENTRIES, verified.state_sha256, verified.state_size)]
        assert list(found.spool.iterdir()) == []
        body = (await found.connection.ask("GET", PATH + "-status")).json()["data"]
        assert (body["stage"], body["index"], body["last_error"]) == ("done", 99, "")
        tokens = {request.token for request in found.running.core.requests}
        assert tokens == {"t", ""}


async def test_wrong_seal_key(setup: Any) -> None:
    async with setup() as found:
        data = REAL.read_bytes()
        answer = await found.connection.ask("POST", PATH, data)
        assert (answer.status, answer.json()) == (400, {"errors": [MISMATCH]})
        assert found.cluster.restored == []
        assert (await found.connection.ask("PUT", PATH + "-force", data)).status == 204
        assert len(found.cluster.restored[0][0]) == 82


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "last byte", "no keyring"])
async def test_bad_bodies_change_nothing(setup: Any, kind: str, monkeypatch: Any) -> None:
    async with setup() as found:
        if kind == "no keyring":
            monkeypatch.setitem(globals(), "ENTRIES", ENTRIES[1:])
        data = await download(found)
        bodies = {"empty": b"", "garbage": b"x" * 700, "truncated": data[: len(data) // 2], "last byte": data[:-1]}
        body = bodies.get(kind, data)
        for path in (PATH, PATH + "-force"):
            answer = await found.connection.ask("POST", path, body)
            assert answer.status == 400
            assert answer.json()["errors"][0]
        assert found.cluster.restored == []
        assert list(found.spool.iterdir()) == []
        status = (await found.connection.ask("GET", PATH + "-status")).json()["data"]
        assert status["stage"] == "failed"
        assert status["last_error"] == answer.json()["errors"][0]


async def test_no_right_no_bytes(setup: Any) -> None:
    async with setup() as found:
        found.running.core.answer = lambda request: ApiError(403, "permission denied")
        for method, path in (("GET", PATH), ("POST", PATH), ("POST", PATH + "-force"), ("GET", PATH + "-status")):
            answer = await found.connection.ask(method, path, b"x" if method == "POST" else None)
            assert (answer.status, answer.json()) == (403, {"errors": ["permission denied"]})
        assert found.cluster.source.passes == 0
        assert not found.spool.exists()


async def test_standby_redirects(setup: Any) -> None:
    async with setup() as found:
        found.running.core.answer = lambda request: StandbyError()
        for method, path in (("GET", PATH), ("POST", PATH), ("POST", PATH + "-force")):
            answer = await found.connection.ask(method, path + "?a=b", b"x" if method == "POST" else None)
            assert (answer.status, answer.headers["location"]) == (307, f"https://leader:8200{path}?a=b")


async def test_a_download_that_fails_breaks_the_connection(setup: Any) -> None:
    async with setup() as found:
        found.cluster.source.fail_after = 600
        await found.connection.send(f"GET {PATH} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        data = await asyncio.wait_for(found.connection.reader.read(), 5)
        assert data.startswith(b"HTTP/1.1 200")
        assert not data.endswith(b"0\r\n\r\n")
        assert found.cluster.source.closed


async def test_a_download_that_fails_at_once_is_a_500(setup: Any) -> None:
    async with setup() as found:

        async def fails() -> Source:
            raise StorageError("raft error when taking snapshot")

        found.cluster.open_snapshot = fails
        answer = await found.connection.ask("GET", PATH)
        assert (answer.status, answer.json()) == (500, {"errors": ["raft error when taking snapshot"]})


async def test_one_restore_at_a_time_and_progress(setup: Any) -> None:
    async with setup() as found:
        data = await download(found)
        found.cluster.gate = asyncio.Event()
        other = await found.running.connect()
        first = asyncio.create_task(other.ask("POST", PATH, data))
        status = {"stage": ""}
        while status["stage"] != "replicating":
            await asyncio.sleep(0.005)
            status = (await found.connection.ask("GET", PATH + "-status")).json()["data"]
        assert status["total"] > 0
        answer = await found.connection.ask("POST", PATH, data)
        assert answer.status == 400
        assert "running already" in answer.json()["errors"][0]
        found.cluster.gate.set()
        assert (await first).status == 204


async def test_leadership_lost_during_restore(setup: Any) -> None:
    async with setup() as found:
        data = await download(found)
        found.cluster.trouble = NotLeader("lost")
        answer = await found.connection.ask("POST", PATH, data)
        assert answer.status == 307
        assert list(found.spool.iterdir()) == []


async def test_an_upload_that_breaks_off(setup: Any) -> None:
    async with setup() as found:
        data = await download(found)
        await found.connection.send(f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        await found.connection.send(data[:1000])
        found.connection.writer.close()
        restorer = found.running.context.snapshots
        while restorer.status.stage != "failed":
            await asyncio.sleep(0.005)
        assert found.cluster.restored == []
        assert list(found.spool.iterdir()) == []


async def test_verbs(setup: Any) -> None:
    async with setup() as found:
        for method, path in (("DELETE", PATH), ("GET", PATH + "-force"), ("POST", PATH + "-status"), ("HEAD", PATH)):
            assert (await found.connection.ask(method, path)).status == 405
