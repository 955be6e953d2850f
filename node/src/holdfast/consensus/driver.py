# SPDX-License-Identifier: Apache-2.0
"""Drives one `Raft` on the event loop: coalesced steps, a timer, and the journal's thread (design.md 15).

The journal is written and synced in a thread of its own, one batch at a time, so that a slow disk stops neither heartbeats nor
HTTP; what gathers meanwhile is the next batch (group commit). A failed write or sync stops the server for good.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable

from holdfast.consensus.raft import Raft
from holdfast.consensus.types import Message
from holdfast.consensus.wal import Batch

TICK = 0.01  # seconds
_COMMIT_IDLE = 0.05  # seconds until a commit index that nothing else flushes is flushed by itself

log = logging.getLogger("holdfast.raft")


class Driver:
    """Owns the steps of a Raft server. `after_step` runs after every step."""

    def __init__(self, raft: Raft, after_step: Callable[[], None]) -> None:
        self.raft = raft
        self._after_step = after_step
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._flushing = False
        self._stopped = False
        self._commit_noted = 0.0
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="raft-journal", daemon=True)
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to step."""
        self._thread.start()
        self._tick()

    def receive(self, peer: str, message: Message) -> None:
        """A message from an authenticated server. One that makes no sense is dropped, with a line in the log."""
        try:
            self.raft.receive(peer, message)
        except ValueError as error:
            log.warning("message dropped", extra={"fields": {"peer": peer, "error": str(error)}})
            return
        self.post()

    def post(self) -> None:
        """Step soon."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _tick(self) -> None:
        if not self._stopped:
            self._timer = self._loop.call_later(TICK, self._tick)
            self.post()

    def _step(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self.raft.step()
        except Exception as error:  # half a step was done; repeating it for ever would be a leader that leads nobody
            self.raft.fail(f"a step failed: {type(error).__name__}: {error}")
            return
        self._flush()
        self._after_step()

    def _flush(self) -> None:
        journal = self.raft.log
        if self._flushing or self.raft.stopped:
            return
        if not journal.wal.pending:
            if not journal.commit_unlogged:
                self._commit_noted = 0.0
                return
            now = time.monotonic()
            if not self._commit_noted:
                self._commit_noted = now
            if now - self._commit_noted < _COMMIT_IDLE:
                return
        self.flush_now()

    def flush_now(self) -> None:
        """Give everything buffered to the journal's thread, unless a batch is on its way already."""
        if not self._flushing:
            self._commit_noted = 0.0
            self._flushing = True
            self._idle.clear()
            self._queue.put(self.raft.log.take())

    async def flushed(self) -> None:
        """Return once everything known now, the commit index included, is on disk."""
        await self._idle.wait()
        if self.raft.log.wal.pending or self.raft.log.commit_unlogged:
            self.flush_now()
        await self._idle.wait()

    def _write(self) -> None:
        while (batch := self._queue.get()) is not None:
            error = ""
            try:
                self.raft.log.wal.write(batch)
            except Exception as failure:  # whatever it is, nothing more may be acknowledged
                error = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
            try:
                self._loop.call_soon_threadsafe(self._written, batch.lsn, error)
            except RuntimeError:  # the loop is closed: the process is ending
                return
            if not error:
                self.raft.log.wal.prepare()

    def _written(self, lsn: int, error: str) -> None:
        self._flushing = False
        self._idle.set()
        if error:
            self.raft.fail(f"the Raft journal cannot be written: {error}")
            return
        try:
            self.raft.durable(lsn)
        except Exception as failure:  # half of what waited for the disk was done: as in `_step`
            self.raft.fail(f"a flush could not be followed up: {type(failure).__name__}: {failure}")
            return
        self.post()

    async def stop(self) -> None:
        """Flush what is buffered and end the thread."""
        if not self.raft.stopped:
            await self.flushed()
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, 10)
