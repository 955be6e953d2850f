# SPDX-License-Identifier: Apache-2.0
"""A disk that fails once: the server stops, nothing is acknowledged, and nothing is tried a second time.

After a failed fsync the kernel may call the lost pages clean, so a second one that succeeds proves nothing (Rebello et al. 2020).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from typing import Any

import pytest

from holdfast.consensus import wal
from holdfast.storage.types import Put, StorageError

from .conftest import Group, until


class FailsOnce:
    """Stands before a method of a disk: the first call that concerns the journal fails, later ones would succeed."""

    def __init__(self, real: Any, error: int) -> None:
        self.real, self.error, self.calls = real, error, 0

    def __call__(self, *arguments: Any) -> Any:
        if arguments and not str(arguments[0]).startswith("wal-"):
            return self.real(*arguments)
        self.calls += 1
        if self.calls == 1:
            raise OSError(self.error, os.strerror(self.error))
        return self.real(*arguments)


@pytest.mark.parametrize("call", ["sync", "write"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
async def test_a_failed_flush_is_fatal_and_never_repeated(
    group: Group, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    storage = await group.first()
    await storage.commit([Put("good", b"1")])
    running = storage._replica
    assert running is not None
    failing = FailsOnce(getattr(running.disk, call), error)
    monkeypatch.setattr(running.disk, call, failing)
    task = asyncio.create_task(storage.commit([Put("bad", b"1")]))
    await until(lambda: group.fatal)
    assert group.fatal == [f"the Raft journal cannot be written: {os.strerror(error)}"]
    running.driver.post()
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert failing.calls == 1
    assert not task.done()  # in production the process is gone by now; here nobody may have said "written"
    assert storage.get("bad") is None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, StorageError):
        await task


@pytest.mark.parametrize("call", ["create", "sync_dir"])
async def test_a_segment_that_cannot_be_begun_is_fatal(
    group: Group, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    storage = await group.first()
    running = storage._replica
    assert running is not None
    monkeypatch.setattr(running.raft.log.wal, "prepare", lambda: None)  # no spare: the roll itself has to make room
    running.raft.log.wal._segments[-1].end = running.raft.log.wal._segments[-1].size - 200
    failing = FailsOnce(getattr(running.disk, call), errno.EIO)
    monkeypatch.setattr(running.disk, call, failing)
    task = asyncio.create_task(storage.commit([Put("bad", bytes(300))]))
    await until(lambda: group.fatal)
    assert "the Raft journal cannot be written" in group.fatal[0]
    assert failing.calls == 1
    assert storage.get("bad") is None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, StorageError):
        await task


async def test_a_spare_that_cannot_be_made_ahead_stops_nobody(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room may have gone meanwhile; the flush that needs it finds out."""
    storage = await group.first()
    running = storage._replica
    assert running is not None
    log = running.raft.log.wal
    log._segments[-1].end = log._segments[-1].size // 2 + 1
    asked: list[str] = []

    def full(name: str, size: int) -> None:
        asked.append(name)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(running.disk, "create", full)
        await storage.commit([Put("a", b"1")])
        await until(lambda: asked)
    assert asked[0] == wal.NEXT
    await storage.commit([Put("b", b"1")])
    await until(lambda: wal.NEXT in running.disk.list())  # made as soon as there is room again
    assert group.fatal == []
