# SPDX-License-Identifier: Apache-2.0
"""The face of the Raft layer: an asyncio server with proposals, linearizable reads, membership, transfer and restore.

Proposals made in the same turn of the event loop travel in one entry (group commit). Every wait here has its own time-out: stock
callbacks may never fire (consensus.md 1).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from holdfast.consensus import clock, identity, membership, recovery, transport, wal
from holdfast.consensus import types as t
from holdfast.consensus.autopilot import Health
from holdfast.consensus.deadlines import Deadlines
from holdfast.consensus.disk import FileDisk
from holdfast.consensus.driver import Driver
from holdfast.consensus.journal import RaftLog
from holdfast.consensus.machine import StateMachine
from holdfast.consensus.raft import Raft
from holdfast.consensus.seam import SUCCESS
from holdfast.consensus.types import Configuration, Member, NotLeaderError, Role, Timing, UnknownOutcomeError
from holdfast.state import machine as state_machine
from holdfast.state.files import StateFileError

log = logging.getLogger("holdfast.raft")

SEGMENT = 16 * 1024 * 1024
_BATCH_BYTES = 1024 * 1024  # of proposals in one entry
_BATCH_COUNT = 2000
_WRITE_TIMEOUT = 10.0
_READ_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where this server listens and what it tells others. `advertise` is host:port."""

    listen: tuple[str, int]
    advertise: str
    api_addr: str
    version: str


class Replica:
    """One running Raft server on a data directory. `changed()` is called when leadership or membership may have changed."""

    def __init__(self, path: Path, node_id: str, addresses: Addresses, timing: Timing, fatal: Callable[[str], None]):
        self.node_id = node_id
        self.disk = FileDisk(path / "raft")
        self._addresses = addresses
        self._timing = timing
        self._on_fatal = fatal
        self.changed: Callable[[], None] = lambda: None
        self.replaced: Callable[[], None] = lambda: None
        self.was_removed_callback: Callable[[], None] = lambda: None
        self._credentials = identity.load(path / "identity")
        self._changes = False
        self._batch: list[tuple[Any, asyncio.Future[int | str]]] = []
        self._batch_bytes = 0
        self._batch_scheduled = False
        self._writes = Deadlines(_WRITE_TIMEOUT, _unconfirmed)
        self._reads = Deadlines(_READ_TIMEOUT, _no_quorum)
        self._room_checked = float("-inf")
        self._room_left = self._granted = 0
        self._has_room = True
        stat = os.stat(self.disk.path)
        self._directory = (stat.st_dev, stat.st_ino)
        self.raft: Raft
        self.machine: StateMachine
        self.driver: Driver
        self.transport: transport.Transport

    # --- life ---

    async def start(self) -> None:
        """Recover and run. Raises JournalError, OSError."""
        credentials = self._credentials
        if credentials is None:
            raise t.JournalError(
                "there is a Raft journal but no identity beside it: wipe this server and join it again"
            )
        if credentials.node_id != self.node_id:
            raise t.JournalError(
                f"the data directory belongs to server {credentials.node_id}, not to {self.node_id}: "
                "set node_id to that, or use another path"
            )
        journal, recovered = await asyncio.to_thread(recovery.recover, self.disk, SEGMENT)
        for warning in recovered.warnings:
            log.warning("journal recovered", extra={"fields": {"detail": warning}})
        if (recovered.cluster_id, recovered.node_id) != (credentials.cluster_id, self.node_id):
            raise t.JournalError(
                f"the Raft journal belongs to server {recovered.node_id} of cluster {recovered.cluster_id}, the identity beside "
                f"it to {self.node_id} of {credentials.cluster_id}: restore the directory as it was, or wipe it and join again"
            )
        self.machine = StateMachine(self.disk, self.fatal, lambda: self.replaced())
        kept = {recovered.snapshot.file} if recovered.snapshot else set()
        for name in self.disk.list():
            if name.startswith(("tmp-", "new-")) or (name.startswith("snap-") and name not in kept):
                self.disk.remove(name)
        if recovered.snapshot is not None:
            try:
                await asyncio.to_thread(self.machine.load, recovered.snapshot)
            except (OSError, StateFileError) as error:
                raise t.JournalError(
                    f"the snapshot cannot be loaded: {error}; wipe this server and join it again"
                ) from None
        hello = transport.Hello(
            self.node_id,
            credentials.cluster_id,
            self._addresses.advertise,
            self._addresses.api_addr,
            self._addresses.version,
        )
        contexts = [
            transport.tls_context(server, credentials.ca_pem, credentials.certificate, credentials.key)
            for server in (True, False)
        ]
        self.transport = transport.Transport(
            hello,
            (contexts[0], contexts[1]),
            lambda peer, message: self.driver.receive(peer, message),
            self._connected,
            self._lost,
        )
        self.raft = Raft(
            self.node_id,
            RaftLog(journal, recovered),
            recovered,
            clock=clock.now,
            random=random.Random(),
            network=self.transport,
            machine=self.machine,
            disk=self.disk,
            observer=self,
            timing=self._timing,
        )
        self.raft.room = self.room
        self.machine.raft = self.raft
        self.driver = Driver(self.raft, self._after_step)
        self.machine.post = self.driver.post
        self._follow_configuration()
        await self.transport.start(*self._addresses.listen)
        self.driver.start()
        self.raft.step()  # what is known to be committed is applied before anybody looks at the state
        while self.raft.loading() and not self.raft.stopped:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Flush, close, forget."""
        await self.driver.stop()
        await self.machine.stop()
        await self.transport.stop()
        self.disk.close()

    def fatal(self, reason: str) -> None:
        """Raft's observer: nothing more may be promised."""
        self.raft.stopped = True
        log.critical("Raft has stopped", extra={"fields": {"reason": reason}})
        self._on_fatal(reason)

    # --- Raft's observer ---

    def state_changed(self) -> None:
        """Something that `changed` should look at, after this step."""
        self._changes = True

    def was_removed(self) -> None:
        """This server is no longer a member."""
        log.warning("this server was removed from its cluster")
        self._changes = True
        self.was_removed_callback()

    def _after_step(self) -> None:
        if self._changes:
            self._changes = False
            self._follow_configuration()
            self.changed()

    def _follow_configuration(self) -> None:
        members = self.raft.history.latest.members
        known = {m.node_id: m.address for m in members}
        self.transport.addresses = known or dict(self._credentials.addresses if self._credentials else {})

    def _connected(self, peer: str) -> None:
        if self.raft.removal_of(peer) is not None:
            log.warning("a removed server has connected", extra={"fields": {"peer": peer}})
        self.raft.removed_message(peer)
        self._changes = True

    def _lost(self, peer: str) -> None:
        self.raft.disconnected(peer)

    # --- room ---

    def room(self, size: int) -> bool:
        """True when an entry of `size` bytes can be logged and the disk's reserve is untouched; it counts as logged from now on.

        Size 0 only asks.

        The disk is asked twice a second. What was granted in between may not have reached a segment yet: it is taken off, else
        fast writers could fill the segment beyond what the disk has room to continue, which is fatal.
        """
        now = time.monotonic()
        if now - self._room_checked > 0.5:
            self._room_checked = now
            try:
                spare = self.disk.free() - min(64 * 1024 * 1024, self.disk.total() // 20)
                self._room_left = self.raft.log.wal.capacity(spare) - self._granted if spare >= 0 else 0
            except OSError:
                self._room_left = 0
            self._granted = 0
            self._note_room(self._room_left > 0)
        if size == 0:
            return self._room_left > 0
        size += 256
        if size > self._room_left:
            return False
        self._room_left -= size
        self._granted += size
        return True

    def _note_room(self, there_is: bool) -> None:
        if there_is != self._has_room:
            self._has_room = there_is
            if there_is:
                log.warning("the disk has room again: entries are taken")
            else:
                log.error("the disk is nearly full: no entries are taken until there is room")

    def check_directory(self) -> None:
        """Stop when the journal's directory is not the one that was opened: what is written goes nowhere any more."""
        try:
            stat = os.stat(self.disk.path)
        except OSError as error:
            self.fatal(f"the Raft directory {self.disk.path} cannot be read any more: {error.strerror}")
            return
        if (stat.st_dev, stat.st_ino) != self._directory:
            self.fatal(f"the Raft directory {self.disk.path} was replaced under the running server")

    # --- proposals ---

    async def propose(self, proposal: Any, size: int) -> int | str:
        """Commit one proposal (state.machine); its result. Raises NotLeaderError, UnknownOutcomeError."""
        if not self.raft.is_leader:
            raise NotLeaderError("this server is not the leader")
        future: asyncio.Future[int | str] = self._writes.future()
        if self._batch and (self._batch_bytes + size > _BATCH_BYTES or len(self._batch) >= _BATCH_COUNT):
            self._propose_batch()
        self._batch.append((proposal, future))
        self._batch_bytes += size
        if not self._batch_scheduled:
            self._batch_scheduled = True
            asyncio.get_running_loop().call_soon(self._propose_batch)
        return await future

    async def _outcome(self, future: asyncio.Future[Any], timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise _unconfirmed() from None

    def _propose_batch(self) -> None:
        batch, self._batch = self._batch, []
        self._batch_bytes, self._batch_scheduled = 0, False
        if not batch:
            return
        command = bytes([t.REGULAR]) + state_machine.encode([proposal for proposal, _ in batch])

        def done(results: Any, reason: int) -> None:
            for position, (_, future) in enumerate(batch):
                if future.done():
                    continue
                if reason == SUCCESS:
                    future.set_result(results[position])
                else:
                    future.set_exception(_failure(reason))

        try:
            self.raft.propose(command, done)
        except NotLeaderError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        self.driver.post()

    async def change(self, change: Callable[[Configuration], Configuration], timeout: float = _WRITE_TIMEOUT) -> bool:
        """Commit a configuration change, waiting for one that is under way. False: it was so already.

        Raises RefusedError, NotLeaderError, UnknownOutcomeError.
        """
        deadline = time.monotonic() + timeout
        while True:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def done(_result: Any, reason: int, future: asyncio.Future[Any] = future) -> None:
                if not future.done():
                    if reason == SUCCESS:
                        future.set_result(None)
                    else:
                        future.set_exception(_failure(reason))

            try:
                if not self.raft.propose_change(change, done):
                    return False
            except t.RefusedError as error:
                if not error.passing or time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(0.02)
                continue
            self.driver.post()
            await self._outcome(future, timeout)
            return True

    async def add(self, member: Member) -> None:
        """Add or replace a learner or non-voter; what an earlier self of it acknowledged counts no more.

        When it returns the change is committed: until then a wiped server must not run again.
        """
        if not await self.change(lambda old: membership.add(old, member)):
            await self.read_barrier()  # it was so already: as far as a leader knows that a majority still follows
        self.transport.drop(member.node_id)  # what its earlier self has under way must not be taken for its answers
        if self.raft.leadership is not None:
            self.raft.leadership.restart(member.node_id, clock.now())

    # --- reads ---

    async def read_barrier(self) -> None:
        """ReadIndex. Raises NotLeaderError."""
        future: asyncio.Future[bool] = self._reads.future()
        self.raft.read_index(lambda ok: None if future.done() else future.set_result(ok))
        self.driver.post()
        if not await future:
            raise _no_quorum()

    # --- leadership ---

    async def transfer(self, to: str | None, timeout: float) -> None:
        """Hand leadership over. Raises NotLeaderError or RefusedError."""
        leading = self.raft.leadership
        if leading is None:
            raise NotLeaderError("this server is not the leader")
        target = leading.begin_transfer(to, clock.now(), timeout)
        if target is None:
            who = f"server {to}" if to else "no other voter"
            raise t.RefusedError(f"{who} can take over now: it must be a voter, unsealed, connected and caught up")
        self.driver.post()
        deadline = time.monotonic() + timeout
        while self.raft.leadership is leading:
            if time.monotonic() >= deadline or leading.transfer_target is None:
                leading.transfer_target = None
                raise t.RefusedError(f"server {target} did not take over")
            await asyncio.sleep(0.005)
        while self.raft.leader_id is None and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    def resign(self) -> None:
        """Stop leading at once, whoever follows."""
        if self.raft.leadership is not None:
            self.raft.resign()
            self.driver.post()

    # --- health ---

    def health(self) -> Mapping[str, Health]:
        """Every other member, as the leader sees it; {} elsewhere."""
        leading = self.raft.leadership
        if leading is None:
            return {}
        now = clock.now()
        last = self.raft.log.last
        return {
            peer: Health(
                now - p.acked_at,
                p.answered,
                p.last_index,
                p.last_term,
                p.match,
                p.stable_since,
                p.writable,
                p.behind(last, self.raft.commit, now),
            )
            for peer, p in leading.progress.items()
        }

    # --- restore ---

    async def restore(self, name: str, sha256: str, size: int, progress: Callable[[str, int, int], None]) -> int:
        """Replace the state everywhere by the file `name` in the Raft directory (design.md 6). The RESTORE entry's index."""
        leading = self.raft.leadership
        if leading is None or not leading.ready:
            raise NotLeaderError("this server is not the leader")
        if leading.restore is not None:
            raise t.RefusedError("another restore is under way: wait until it is done")
        leading.distribute(t.RestoreFile(name, sha256, size))
        try:
            while not leading.restore_held():
                if self.raft.leadership is not leading:
                    raise NotLeaderError("leadership was lost while the snapshot was copied; nothing was changed")
                progress("copying", leading.restore_progress(), size)
                self.driver.post()
                await asyncio.sleep(0.02)
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            def done(result: Any, reason: int) -> None:
                if not future.done():
                    if reason == SUCCESS:
                        future.set_result(result)
                    else:
                        future.set_exception(_failure(reason))

            progress("applying", 0, size)
            self.raft.propose(bytes([t.RESTORE]) + msgpack.packb([name, sha256, size]), done)
            self.driver.post()
            index: int = await self._outcome(future, 60.0 + size / 1_000_000)
            progress("done", size, size)
            return index
        finally:
            if self.raft.leadership is leading:
                leading.end_restore()


def _unconfirmed() -> Exception:
    return UnknownOutcomeError(
        "the write was not confirmed in time and may or may not take effect: read it back before trying again"
    )


def _no_quorum() -> Exception:
    return NotLeaderError("this server is not the leader, or has lost its quorum")


def _failure(reason: int) -> Exception:
    if reason == 3:  # DISCARDED: the entry was replaced by another one
        return NotLeaderError("leadership moved before the write was replicated; it did not take effect")
    if reason == 6:
        return t.RefusedError("another configuration change is under way: try again in a moment", passing=True)
    return UnknownOutcomeError(
        "leadership moved: the write may or may not take effect; read it back before trying again"
    )


def create(path: Path, node_id: str, cluster_id: str, configuration: Configuration | None) -> None:
    """Make the journal of a new cluster (`configuration` given) or of a joiner (None). Raises OSError."""
    disk = FileDisk(path / "raft")
    entries = []
    if configuration is not None:
        entries = [t.Entry(bytes([t.MEMBERSHIP]) + configuration.pack(), 2, 1)]
    wal.create(disk, cluster_id, node_id, SEGMENT, entries, 1 if entries else 0)
    disk.close()


def new_configuration(cluster_id: str, node_id: str, address: str, ca_pem: str) -> Configuration:
    """A cluster of one voter."""
    return Configuration(cluster_id, (Member(node_id, address, Role.VOTER),), (ca_pem,))
