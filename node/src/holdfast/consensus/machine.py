# SPDX-License-Identifier: Apache-2.0
"""The Machine port in production: the state in memory, its files written and read in worker threads.

Two states never are in memory together: once the file that replaces the state is verified and durable, the old state is let go of,
then the file is loaded. A load that fails after that is fatal anyway. Meanwhile reads are refused (`state.machine.Replacing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from holdfast.consensus.disk import FileDisk
from holdfast.consensus.types import Configuration, RestoreFile, Snapshot
from holdfast.state import files
from holdfast.state.leaves import DiscardedError, Frozen, Value
from holdfast.state.machine import State
from holdfast.state.pace import Pace
from holdfast.state.records import decode_entries

log = logging.getLogger("holdfast.raft")

_KEPT = "core/"  # how this server is unsealed: it answers for that while everything else is replaced
_PATIENCE = 1.0  # seconds that a read waits for a state that is being replaced
_M_ARENA_MAX = -8
_Load = Callable[[Callable[[], None]], Iterator[tuple[str, Value]]]


def _one_arena() -> None:
    """Have glibc serve all threads from one heap: what one thread frees of a state, another must be able to load into."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in other C libraries, which have no such arenas
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


_one_arena()  # at import: a thread keeps the arena it had first


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
        self._pictures: weakref.WeakSet[Frozen] = weakref.WeakSet()
        self._whole = asyncio.Event()
        self._whole.set()

    def load(self, snapshot: Snapshot) -> None:
        """Take the state of a snapshot, at start-up. Raises StateFileError or OSError."""
        self.state = State.load(files.read(self._disk.path / snapshot.file))

    def apply(self, index: int, term: int, payload: bytes) -> object:
        """Apply one entry; the results of its proposals."""
        return self.state.apply(index, payload)

    def picture(self) -> Frozen:
        """The state as it is now; give it to `let_go` afterwards. Raises ReplacingError."""
        frozen = self.state.freeze()
        self._pictures.add(frozen)
        return frozen

    @property
    def replacing(self) -> bool:
        """True while there is no whole state to read."""
        return not self._whole.is_set()

    async def whole(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until there is a whole state; False when there is none yet."""
        try:
            async with asyncio.timeout(timeout):
                await self._whole.wait()
        except TimeoutError:
            return False
        return True

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up snapshots that are being written (the log is kept), and wait for what else is under way."""
        for picture in list(self._pictures):
            _discard(picture, lambda: None)  # nothing is freed: the state holds it all
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- snapshots ---

    def begin_snapshot(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        """Write the state as it is now to a file."""
        frozen = self.picture()
        name = f"snap-{index}-{term}-{secrets.token_hex(4)}.state"
        path = self._disk.path / name

        def write() -> tuple[int, str]:
            temporary = path.with_name("tmp-" + name)
            pace = Pace()
            try:
                size, sha256 = files.write(temporary, frozen, pace)
                os.rename(temporary, path)
                self._disk.sync_dir()
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            finally:
                _discard(frozen, pace)
            return size, sha256

        async def save() -> None:
            started = time.monotonic()
            try:
                size, sha256 = await asyncio.to_thread(write)
            except Exception as error:  # whatever it is, Raft must hear of it: it would never make another one
                level = logging.INFO if isinstance(error, DiscardedError) else logging.ERROR
                text = str(error) or type(error).__name__
                log.log(level, "snapshot not written, the log is kept", extra={"fields": {"error": text}})
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
        self._run(
            self._replace(lambda pause: files.read(path, pause), lambda: self.raft.installed(snapshot), path.name)
        )

    def begin_restore(self, index: int, term: int, restore: RestoreFile) -> None:
        """Load a restore file; every value gets the revision of the RESTORE entry."""
        path = self._disk.path / restore.file
        load: _Load = lambda pause: _read_records(path, index, pause)  # noqa: E731
        self._run(self._replace(load, lambda: self.raft.restored(index), restore.file))

    async def _replace(self, load: _Load, done: Callable[[], None], name: str) -> None:
        self._whole.clear()
        self._loop.call_later(_PATIENCE, self._refuse_reads)
        self.state, old = self.state.end(_KEPT)
        pictures = [old, *self._pictures]  # a snapshot or a download under way would keep the old state in memory
        started = time.monotonic()

        def exchange() -> State:
            pace = Pace()
            while pictures:
                _discard(pictures.pop(), pace)
            return State.load(load(pace))

        try:
            state = await asyncio.to_thread(exchange)
        except Exception as error:  # whatever it is, there is no state any more
            self._fatal(f"the state file {name} cannot be loaded: {error or type(error).__name__}")
            return
        gc.freeze()  # the collector need not walk over the new state, which would stop the event loop; nothing in it makes cycles
        self.state = state
        self._whole.set()
        fields = {"file": name, "keys": len(state), "seconds": round(time.monotonic() - started, 3)}
        log.info("state replaced", extra={"fields": fields})
        done()
        self._replaced()
        self.post()

    def _refuse_reads(self) -> None:
        leading = self.raft.leadership
        if self.replacing and leading is not None:
            leading.reads.fail()


def let_go(frozen: Frozen) -> None:
    """Let go of a picture in a thread of its own: freeing what only it still holds may take a while."""
    threading.Thread(target=_discard, args=(frozen, Pace()), name="picture", daemon=True).start()


def _discard(frozen: Frozen, pause: Callable[[], None]) -> None:
    for _ in frozen.discard():
        pause()


def _read_records(path: Path, revision: int, pause: Callable[[], None]) -> Iterator[tuple[str, Value]]:
    with path.open("rb") as file:
        for number, (key, value) in enumerate(decode_entries(file)):
            if number % 128 == 0:
                pause()
            yield key, (value, revision)
