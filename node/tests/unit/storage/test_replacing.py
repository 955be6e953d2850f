# SPDX-License-Identifier: Apache-2.0
"""While a restore takes the place of the state: no half state is ever read, and two states are never held together."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from holdfast.consensus import machine
from holdfast.state.records import decode_entries, encode_entry
from holdfast.storage import raft_store
from holdfast.storage.raft import RaftStorage
from holdfast.storage.types import Put, StorageError, Unavailable

from .conftest import Group, until


class Gate:
    """Holds the loading of a restore file at its first record."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        monkeypatch.setattr(machine, "decode_entries", self._decode)

    def _decode(self, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
        for number, entry in enumerate(decode_entries(file)):
            if number == 1:
                self.reached.set()
                assert self.open.wait(20)
            yield entry


async def begin_restore(storage: RaftStorage, path: Path, content: bytes) -> asyncio.Task[int]:
    path.write_bytes(content)
    sha = hashlib.sha256(content).hexdigest()
    return asyncio.create_task(storage.restore(path, sha, len(content), lambda *_: None))


async def test_reads_are_refused_and_nothing_of_the_old_state_is_held(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft_store, "_PATIENCE", 0.05)
    storage = await group.first()
    await storage.commit([Put("core/seal", b"mine"), Put("data/old", b"x" * 2000)])
    download = await storage.open_snapshot()
    half = download.entries()
    assert next(half) == ("core/seal", b"mine")
    running = storage._replica
    assert running is not None

    gone: list[bytes] = []

    class Watched(bytes):
        def __del__(self) -> None:
            gone.append(bytes(self))

    for number in range(200):  # several leaves; another download holds them all
        running.machine.state._items.put(f"data/watched{number:03}", (Watched(b"%d" % number), 9))
    whole = await storage.open_snapshot()
    gate = Gate(monkeypatch)
    task = await begin_restore(
        storage, tmp_path / "s", encode_entry("core/seal", b"new") + encode_entry("data/new", b"y")
    )
    await until(gate.reached.is_set)
    gc.collect()
    assert len(gone) == 200  # before anything of the new state is there
    for read in (
        lambda: storage.get("data/old"),
        lambda: storage.get("data/new"),
        lambda: storage.list("data/"),
        lambda: storage.list(""),
        lambda: storage.scan(""),
        lambda: list(half),
        lambda: list(download.entries()),
    ):
        with pytest.raises(Unavailable, match="replaced"):
            read()
    for call in (storage.commit([Put("a", b"")]), storage.read_barrier(), storage.open_snapshot()):
        with pytest.raises(Unavailable, match="try again"):
            await call
    item = storage.get("core/seal")  # how this server is unsealed stays known
    assert item is not None
    assert item.value == b"mine"
    download.close()
    whole.close()
    gate.open.set()
    await task
    assert {key: storage.get(key).value for key in storage.scan("")} == {"core/seal": b"new", "data/new": b"y"}  # type: ignore[union-attr]
    await storage.commit([Put("a", b"")])
    assert len(list((await storage.open_snapshot()).entries())) == 3


async def test_a_request_waits_for_a_state_that_is_replaced_quickly(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await group.first()
    gate = Gate(monkeypatch)
    task = await begin_restore(storage, tmp_path / "s", encode_entry("a", b"1") + encode_entry("b", b"2"))
    await until(gate.reached.is_set)
    barrier = asyncio.create_task(storage.read_barrier())
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(task, barrier)
    assert storage.list("") == ["a", "b"]


async def test_a_read_on_its_way_is_refused_when_the_new_state_takes_long(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_PATIENCE", 0.2)
    storage = await group.first()

    async def at_once(_running: object) -> None:
        """As if the replacement began right after the read came in."""

    monkeypatch.setattr(storage, "_settled", at_once)
    gate = Gate(monkeypatch)
    task = await begin_restore(storage, tmp_path / "s", encode_entry("a", b"1") + encode_entry("b", b"2"))
    await until(gate.reached.is_set)
    with pytest.raises(Unavailable, match="being replaced"):
        await storage.read_barrier()
    gate.open.set()
    await task
    await storage.read_barrier()


async def test_a_snapshot_that_is_being_written_gives_the_old_state_up(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await group.first()
    await storage.commit([Put(f"k{n}", bytes(900)) for n in range(300)])
    running = storage._replica
    assert running is not None
    writing, go_on = threading.Event(), threading.Event()
    real: Any = machine.files.write

    def slow(path: Path, items: Any, pause: Any) -> Any:
        def hold() -> None:
            writing.set()
            assert go_on.wait(20)

        return real(path, items, hold)

    monkeypatch.setattr(machine.files, "write", slow)
    running.raft.request_snapshot()
    await until(writing.is_set)
    await (await begin_restore(storage, tmp_path / "s", encode_entry("new", b"1")))
    go_on.set()
    await until(lambda: not running.raft._saving)
    assert running.raft.snapshot is None
    assert not list((group.folder / "n1" / "raft").glob("*snap-*"))
    monkeypatch.setattr(machine.files, "write", real)
    running.raft._snapshot_after = 0.0
    await until(lambda: running.raft.snapshot is not None)  # the one that follows a restore
    assert group.fatal == []


async def test_a_stop_does_not_wait_for_a_snapshot(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record could no longer reach the journal, so the file would be thrown away at the next start."""
    storage = await group.first()
    await storage.commit([Put(f"k{n}", bytes(900)) for n in range(1000)])
    running = storage._replica
    assert running is not None
    writing, go_on = threading.Event(), threading.Event()
    real: Any = machine.files.write
    pieces = 0

    def slow(path: Path, items: Any, pause: Any) -> Any:
        def hold() -> None:
            nonlocal pieces
            pieces += 1
            writing.set()
            assert go_on.wait(20)

        return real(path, items, hold)

    monkeypatch.setattr(machine.files, "write", slow)
    running.raft.request_snapshot()
    await until(writing.is_set)
    picture = next(iter(running.machine._pictures))
    stopping = asyncio.create_task(storage.stop())
    await until(lambda: picture._leaves is None)
    go_on.set()
    await stopping
    assert pieces < 4
    assert not list((group.folder / "n1" / "raft").glob("*snap-*"))
    again = group.storage("n1")
    await again.start()
    assert len(again.list("")) == 1000


async def test_a_verified_file_that_cannot_be_loaded_stops_the_server(group: Group, tmp_path: Path) -> None:
    storage = await group.first()
    await storage.commit([Put("old", b"1")])
    task = await begin_restore(storage, tmp_path / "s", b"\x05no records")
    await until(lambda: group.fatal)
    assert "cannot be loaded" in group.fatal[0]
    with pytest.raises(Unavailable):
        storage.get("old")
    task.cancel()
    with pytest.raises((asyncio.CancelledError, StorageError)):
        await task


async def test_a_restore_file_goes_with_the_snapshot_that_covers_it(group: Group, tmp_path: Path) -> None:
    """The snapshot that follows is usually of the very index of the restore."""
    storage = await group.first()
    await (await begin_restore(storage, tmp_path / "s", encode_entry("a", b"1")))
    running = storage._replica
    assert running is not None
    await until(lambda: running.raft.snapshot is not None)
    await storage.flush()
    await storage.commit([Put("b", b"2")])
    await until(lambda: not list((group.folder / "n1" / "raft").glob("restore-*")))
    await storage.stop()
    again = group.storage("n1")
    await again.start()
    assert again.list("") == ["a", "b"]


async def test_a_snapshot_that_fails_for_whatever_reason_is_tried_again(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await group.first()
    running = storage._replica
    assert running is not None
    tries: list[int] = []
    write = machine.files.write

    def broken(*arguments: Any) -> tuple[int, str]:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("a mistake")
        return write(*arguments)

    monkeypatch.setattr(machine.files, "write", broken)
    monkeypatch.setattr("holdfast.consensus.state_files._RETRY", 0.0)
    running.raft.request_snapshot()
    await until(lambda: tries and not running.raft._saving)
    running.raft.request_snapshot()
    await until(lambda: running.raft.snapshot is not None)
