# SPDX-License-Identifier: Apache-2.0
"""Restoring a snapshot: spool and verify, check the seal, then have the cluster replace its state (design.md 6)."""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.snapshot.archive import ArchiveReader, SnapshotError, Verified
from holdfast.snapshot.sealer import Sealer
from holdfast.state.records import EntryDecoder, RecordError
from holdfast.storage.types import Cluster, NoSpace, StorageError

_BATCH = 1024 * 1024  # bytes of the body handed to the worker thread at once
_SYNC_EVERY = 4 * 1024 * 1024  # bytes: one sync of gigabytes would hold up the journal's, on the same disk
# Without these no server could ever be unsealed again, so a state that lacks them is refused, also with force.
_REQUIRED = frozenset(("core/keyring", "core/seal-config"))
MISMATCH = (
    "could not verify hash file, possibly the snapshot is using a different set of unseal keys; "
    "use the snapshot-force API to bypass this check"
)


@dataclass(slots=True)
class Status:
    """How the last restore is doing; times are Unix seconds, `done` and `total` count bytes (0: unknown)."""

    stage: str = "idle"  # idle | receiving | verifying | (stages of Cluster.restore) | done | failed
    done: int = 0
    total: int = 0
    started: float = 0.0
    finished: float = 0.0
    index: int = 0
    last_error: str = ""

    def body(self) -> dict[str, Any]:
        """For the API."""
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "start_time": int(self.started),
            "end_time": int(self.finished),
            "index": self.index,
            "last_error": self.last_error,
        }


class Restorer:
    """Runs one restore at a time. `spool` is a directory of its own on the file system of the Raft data."""

    def __init__(self, cluster: Cluster, sealer: Sealer, spool: Path, logger: logging.Logger | None = None) -> None:
        self.status = Status()
        self._cluster = cluster
        self.sealer = sealer
        self._spool = spool
        self._logger = logger or logging.getLogger("holdfast.snapshot")
        self._running = False

    def clean(self) -> None:
        """Remove what an earlier process left in the spool directory."""
        if self._spool.is_dir():
            for entry in self._spool.glob("restore-*.bin"):
                entry.unlink(missing_ok=True)

    async def restore(self, chunks: AsyncIterator[bytes], force: bool) -> int:
        """Restore the archive that `chunks` yields; returns the index once the new state is visible here.

        Nothing has changed when this raises SnapshotError or NoSpace. Without `force` the archive must have been sealed
        with this cluster's seal key (raft-api.md 1.6).
        """
        if self._running:
            raise SnapshotError("a restore is running already; see sys/storage/raft/snapshot-status for its progress")
        self._running = True
        self.status = Status("receiving", started=time.time())
        path = self._spool / f"restore-{uuid.uuid4()}.bin"
        try:
            verified = await self._receive(chunks, path)
            self.status.stage = "verifying"
            if not force:
                await self._check_seal(verified)
            index = await self._apply(path, verified)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._running = False
            await asyncio.to_thread(path.unlink, missing_ok=True)
        self.status.stage, self.status.index, self.status.finished = "done", index, time.time()
        self._logger.info("snapshot restored", extra={"fields": {"index": index, "bytes": verified.state_size}})
        return index

    async def _receive(self, chunks: AsyncIterator[bytes], path: Path) -> Verified:
        """Verify the stream while its state.bin goes to `path`."""
        sink = await asyncio.to_thread(_Sink, path)
        try:
            batch: list[bytes] = []
            size = 0
            async for chunk in chunks:
                batch.append(chunk)
                size += len(chunk)
                if size >= _BATCH:
                    await asyncio.to_thread(sink.feed, b"".join(batch))
                    self.status.done += size
                    batch.clear()
                    size = 0
            await asyncio.to_thread(sink.feed, b"".join(batch))
            self.status.done += size
            return await asyncio.to_thread(sink.finish)
        finally:
            await asyncio.to_thread(sink.close)

    async def _check_seal(self, verified: Verified) -> None:
        try:
            opened = await self.sealer.seal_open(verified.sealed)
        except ValueError:
            raise SnapshotError(MISMATCH) from None
        if not hmac.compare_digest(opened, verified.sums):
            raise SnapshotError(MISMATCH)

    async def _apply(self, path: Path, verified: Verified) -> int:
        def progress(stage: str, done: int, total: int) -> None:
            self.status.stage, self.status.done, self.status.total = stage, done, total

        task = asyncio.ensure_future(self._cluster.restore(path, verified.state_sha256, verified.state_size, progress))
        # From here on the restore must not be cut short because a client went away.
        return await asyncio.shield(task)

    def _failed(self, error: BaseException) -> None:
        known = isinstance(error, SnapshotError | StorageError)
        self.status.last_error = str(error) if known else type(error).__name__
        self.status.stage, self.status.finished = "failed", time.time()
        self._logger.warning("snapshot not restored", extra={"fields": {"error": self.status.last_error}})


class _Sink:
    """The worker thread's side: archive reader, record check and spool file."""

    def __init__(self, path: Path) -> None:
        self._keys: set[str] = set()
        self._unsynced = 0
        self._decoder = EntryDecoder()
        self._reader = ArchiveReader(self._state)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _disk(error) from None
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=_BATCH)

    def feed(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except RecordError as error:
            raise SnapshotError(str(error)) from None
        except OSError as error:
            raise _disk(error) from None

    def _state(self, piece: bytes) -> None:
        self._file.write(piece)
        self._unsynced += len(piece)
        if self._unsynced >= _SYNC_EVERY:
            self._unsynced = 0
            self._file.flush()
            os.fdatasync(self._file.fileno())
        for key, _ in self._decoder.feed(piece):
            if key in _REQUIRED:
                self._keys.add(key)

    def finish(self) -> Verified:
        verified = self._reader.finish()
        try:
            self._decoder.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        except RecordError as error:
            raise SnapshotError(str(error)) from None
        except OSError as error:
            raise _disk(error) from None
        if missing := _REQUIRED - self._keys:
            raise SnapshotError(f"the snapshot holds no {sorted(missing)[0]}, so no server could be unsealed after it")
        return verified

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # buffered bytes that no longer fit
            if error.errno != errno.ENOSPC:
                raise _disk(error) from None


def _disk(error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("there is not enough disk space to receive the snapshot; nothing was changed")
    return StorageError(f"cannot write the snapshot to disk: {error.strerror}; nothing was changed")
