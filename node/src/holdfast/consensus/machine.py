# SPDX-License-Identifier: Apache-2.0
"""The Machine port in production: the state in memory, its files written and read in worker threads."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.consensus.disk import FileDisk
from holdfast.consensus.types import Configuration, RestoreFile, Snapshot
from holdfast.state import files
from holdfast.state.machine import State
from holdfast.state.records import RecordError, decode_entries

log = logging.getLogger("holdfast.raft")


class StateMachine:
    """Holds `state`. `replaced()` is called when a snapshot or a restore has taken its place."""

    def __init__(self, disk: FileDisk, fatal: Callable[[str], None], replaced: Callable[[], None]) -> None:
        self.state = State()
        self.raft: Any = None
        self.post: Callable[[], None] = lambda: None
        self._disk = disk
        self._fatal = fatal
        self._replaced = replaced
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot, at start-up. Raises StateFileError or OSError."""
        self.state = State.load(files.read(self._disk.path / snapshot.file))

    def apply(self, index: int, term: int, payload: bytes) -> object:
        """Apply one entry; the results of its proposals."""
        return self.state.apply(index, payload)

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- snapshots ---

    def begin_snapshot(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        """Write the state as it is now to a file."""
        frozen = self.state.freeze()
        name = f"snap-{index}-{term}-{secrets.token_hex(4)}.state"
        path = self._disk.path / name

        def write() -> tuple[int, str]:
            temporary = path.with_name("tmp-" + name)
            try:
                size, sha256 = files.write(temporary, frozen, lambda: time.sleep(0.0005))
                os.rename(temporary, path)
                self._disk.sync_dir()
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            return size, sha256

        async def save() -> None:
            started = time.monotonic()
            try:
                size, sha256 = await asyncio.to_thread(write)
            except OSError as error:
                log.error("snapshot not written, the log is kept", extra={"fields": {"error": str(error)}})
                self.raft.snapshot_saved(None)
                return
            took = round(time.monotonic() - started, 3)
            log.info("snapshot written", extra={"fields": {"index": index, "bytes": size, "seconds": took}})
            self.raft.snapshot_saved(Snapshot(index, term, name, size, sha256, configuration, configuration_index))
            self.post()

        self._run(save())

    def begin_install(self, snapshot: Snapshot) -> None:
        """Load a snapshot that the leader sent."""
        path = self._disk.path / snapshot.file
        self._run(self._replace(lambda: files.read(path), lambda: self.raft.installed(snapshot), snapshot.file))

    def begin_restore(self, index: int, term: int, restore: RestoreFile) -> None:
        """Load a restore file; every value gets the revision of the RESTORE entry."""
        path = self._disk.path / restore.file
        load = lambda: _read_records(path, index)  # noqa: E731
        self._run(self._replace(load, lambda: self.raft.restored(index), restore.file))

    async def _replace(
        self, load: Callable[[], dict[str, tuple[bytes, int]]], done: Callable[[], None], name: str
    ) -> None:
        try:
            state = await asyncio.to_thread(lambda: State.load(load()))
        except (OSError, files.StateFileError, RecordError) as error:
            self._fatal(f"the state file {name} cannot be loaded: {error}")
            return
        self.state = state
        done()
        self._replaced()
        self.post()


def _read_records(path: Path, revision: int) -> dict[str, tuple[bytes, int]]:
    with path.open("rb") as file:
        return {key: (value, revision) for key, value in decode_entries(file)}
