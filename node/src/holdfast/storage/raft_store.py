# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of the `raft` backend, and what it knows of its cluster. Base of `storage.raft.RaftStorage`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from holdfast.consensus import types as t
from holdfast.consensus import wal
from holdfast.consensus.disk import FileDisk
from holdfast.consensus.replica import Replica
from holdfast.state.machine import ReplacingError
from holdfast.storage.types import (
    EntryTooLarge,
    Event,
    ForwardReply,
    ForwardRequest,
    Item,
    Leader,
    MembershipRefused,
    NoSpace,
    NotLeader,
    Op,
    OutcomeUnknown,
    PreconditionFailed,
    Put,
    Server,
    StorageError,
    Unavailable,
)

log = logging.getLogger("holdfast.storage.raft")

MAX_KEY = 32768  # bytes, OpenBao's limit
_REPLACING = "the data is being replaced by a snapshot: try again in a moment"
_PATIENCE = 1.0  # seconds that a request waits for a state that is being replaced
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """What the configuration says about Raft. Sizes in bytes, times in seconds."""

    path: Path
    node_id: str
    cluster_listen: tuple[str, int]
    cluster_addr: str
    api_addr: str
    version: str
    performance_multiplier: float = 1
    max_entry_size: int = 1048576
    max_transaction_size: int = 8388608
    autopilot_update_interval: float = 0.2
    lease_reads: bool = False


def exit_now(reason: str) -> None:
    logging.shutdown()
    os._exit(70)


class RaftStore:
    """The `Storage` half. Before `bootstrap` or `join` it is empty and refuses writes."""

    storage_type = "raft"

    def __init__(self, settings: RaftSettings, on_fatal: Callable[[str], None] = exit_now) -> None:
        self.settings = settings
        self.node_id = settings.node_id
        self.cluster_addr = settings.cluster_addr
        self.api_addr = settings.api_addr
        self._on_fatal = on_fatal
        self._replica: Replica | None = None
        self._listeners: list[Callable[[Event], None]] = []
        self._forward_handler: Callable[[ForwardRequest], Awaitable[ForwardReply]] | None = None
        self._eligible = False
        self._led = False
        self._configuration_index = -1
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    def _need(self) -> Replica:
        if self._replica is None:
            raise NotLeader("this server is not a member of a cluster yet")
        return self._replica

    def _emit(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener(event)

    def _changed(self) -> None:
        running = self._replica
        if running is None:
            return
        leads = self.is_leader()
        if leads != self._led:
            self._led = leads
            log.info("leadership", extra={"fields": {"leads": leads, "term": running.raft.current_term}})
            self._emit(Event.LEADER_GAINED if leads else Event.LEADER_LOST)
        index = running.raft.history.latest_index
        if index != self._configuration_index:
            self._configuration_index = index
            self._emit(Event.CONFIGURATION)

    def get(self, key: str) -> Item | None:
        """The applied value at `key`."""
        try:
            found = self._replica.machine.state.get(key) if self._replica else None
        except ReplacingError as error:
            raise Unavailable(str(error)) from None
        return Item(*found) if found else None

    def list(self, prefix: str) -> list[str]:
        """Immediate children below `prefix`."""
        try:
            return self._replica.machine.state.children(prefix) if self._replica else []
        except ReplacingError as error:
            raise Unavailable(str(error)) from None

    def scan(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`."""
        try:
            return self._replica.machine.state.keys(prefix) if self._replica else iter(())
        except ReplacingError as error:
            raise Unavailable(str(error)) from None

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        """See `Storage.commit`."""
        running = self._need()
        if running.machine.replacing:
            await self._settled(running)
        size = 0
        packed: list[Any] = []
        for op in ops:
            if len(op.key.encode("utf-8")) > MAX_KEY:
                raise EntryTooLarge(
                    f"put failed due to key being too large, max key size for integrated storage is {MAX_KEY}"
                )
            if isinstance(op, Put):
                if len(op.value) > self.settings.max_entry_size:
                    raise EntryTooLarge(
                        "put failed due to value being too large; "
                        f"got {len(op.value)} bytes, max: {self.settings.max_entry_size} bytes"
                    )
                packed.append((0, op.key, op.value))
                size += len(op.value)
            else:
                packed.append((1, op.key))
            size += len(op.key) + 16
        if size > self.settings.max_transaction_size:
            raise EntryTooLarge(
                f"the batch is too large; got {size} bytes, max: {self.settings.max_transaction_size} bytes"
            )
        if not running.room(size):
            raise NoSpace("the disk is nearly full: writes are refused until there is room")
        proposal = (tuple((preconditions or {}).items()), packed)
        result = await self._translate(running.propose(proposal, size))
        if isinstance(result, str):
            raise PreconditionFailed(result)
        return result

    async def _settled(self, running: Replica) -> None:
        """A small state is replaced in a moment; for a large one the client has to come again."""
        if not await running.machine.whole(_PATIENCE):
            raise Unavailable(_REPLACING)

    async def _translate(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except t.NotLeaderError as error:
            raise NotLeader(str(error)) from None
        except t.UnknownOutcomeError as error:
            raise OutcomeUnknown(str(error)) from None
        except t.RefusedError as error:
            raise MembershipRefused(str(error)) from None
        except t.ConsensusError as error:
            raise StorageError(str(error)) from None

    async def read_barrier(self) -> None:
        """ReadIndex."""
        running = self._need()
        if running.machine.replacing:
            await self._settled(running)
        try:
            await running.read_barrier()
        except t.NotLeaderError as error:
            if running.machine.replacing:  # it waited for a restore that takes longer
                raise Unavailable(_REPLACING) from None
            raise NotLeader(str(error)) from None

    def has_state(self) -> bool:
        """True when there is a Raft journal."""
        if self._replica is not None:
            return True
        folder = self.settings.path / "raft"
        return folder.is_dir() and wal.exists(FileDisk(folder))

    def cluster_id(self) -> str:
        """The cluster's UUID."""
        return self._replica.transport.hello.cluster_id if self._replica else ""

    def removed(self) -> bool:
        """True when this server was removed."""
        return bool(self._replica and self._replica.raft.removed)

    def is_leader(self) -> bool:
        """True when this server leads and its state is complete."""
        leading = self._replica.raft.leadership if self._replica else None
        return leading is not None and leading.ready

    def leader(self) -> Leader | None:
        """The leader as known here."""
        running = self._replica
        if running is None or running.raft.leader_id is None:
            return None
        leader_id = running.raft.leader_id
        if leader_id == self.node_id:
            return Leader(self.node_id, self.cluster_addr, self.api_addr)
        member = running.raft.history.latest.member(leader_id)
        hello = running.transport.peers.get(leader_id)
        address = member.address if member else (hello.address if hello else "")
        return Leader(leader_id, address, hello.api_addr if hello else "")

    def servers(self) -> tuple[Server, ...]:
        """The configuration in force."""
        if self._replica is None:
            return ()
        raft = self._replica.raft
        return tuple(
            Server(
                m.node_id,
                m.address,
                m.role is t.Role.VOTER,
                m.node_id == raft.leader_id,
                m.role is t.Role.NON_VOTER,
            )
            for m in raft.history.latest.members
        )

    def ca_pem(self) -> str:
        """The cluster's CA certificates."""
        return "\n".join(self._replica.raft.history.latest.ca) if self._replica else ""

    @property
    def term(self) -> int:
        """Current term."""
        return self._replica.raft.current_term if self._replica else 0

    @property
    def commit_index(self) -> int:
        """Highest committed index known here."""
        return self._replica.raft.commit if self._replica else 0

    @property
    def applied_index(self) -> int:
        """Highest applied index."""
        return self._replica.raft.applied if self._replica else 0

    def status(self) -> dict[str, Any]:
        """Figures for logs and metrics."""
        if self._replica is None:
            return {}
        raft = self._replica.raft
        return {
            "term": raft.current_term,
            "state": ("follower", "candidate", "leader")[raft.state],
            "last_index": raft.log.last,
            "commit_index": raft.commit,
            "applied_index": raft.applied,
            "log_bytes": raft.log.bytes,
            "keys": len(self._replica.machine.state),
            "state_bytes": self._replica.machine.state.size,
        }

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """See `Cluster.subscribe`."""
        self._listeners.append(listener)
