# SPDX-License-Identifier: Apache-2.0
"""What the layers above see of storage: a flat, ordered map of ciphertext, and (for Raft) the cluster behind it.

`Storage` is the whole contract of a physical backend; `Cluster` is what only a Raft backend adds. Nothing here knows
HTTP, tokens or plaintext.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol


class StorageError(Exception):
    """A storage call failed and nothing was changed (except for `OutcomeUnknown`). The text is fit for a user."""


class NotLeader(StorageError):
    """This node is not the leader (any more); nothing was written."""


class OutcomeUnknown(StorageError):
    """The write may or may not have been committed (leadership was lost, or a time-out). Never retry it silently."""


class PreconditionFailed(StorageError):
    """A precondition did not hold when the entry was applied; nothing was written."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the value at {key} has changed meanwhile")
        self.key = key


class EntryTooLarge(StorageError):
    """The batch exceeds max_entry_size, or a key exceeds 32,768 bytes."""


class NoSpace(StorageError):
    """The disk's free-space reserve is used up; writes are refused until there is room."""


class Unavailable(StorageError):
    """The data cannot be read or written for a moment: a restore or a snapshot is taking its place. Nothing was changed."""


class MembershipRefused(StorageError):
    """A configuration change is not possible or not safe now (unknown id, last voter, another change in flight)."""


@dataclass(frozen=True, slots=True)
class Item:
    """A stored value. `revision` is the Raft log index of the write that stored it (design.md 14)."""

    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Store `value` (ciphertext, bytes) at `key` (slash-separated path without a leading slash)."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `key`; no error when it is absent."""

    key: str


Op = Put | Delete


class Storage(Protocol):
    """A physical backend. Reads are local and synchronous (call `read_barrier` first for a linearizable read)."""

    @property
    def storage_type(self) -> str:
        """The name in `seal-status.storage_type`: "raft", "inmem", …"""

    def get(self, key: str) -> Item | None:
        """The applied value at `key`, or None."""

    def list(self, prefix: str) -> list[str]:
        """Sorted immediate children below `prefix` (which is "" or ends in "/"); folders end in "/"."""

    def scan(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, sorted, in full."""

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        """Apply `ops` as one atomic batch and return its revision.

        `preconditions` maps a key to the revision it must have at apply time (0: the key must be absent).
        Raises PreconditionFailed, NotLeader, OutcomeUnknown, EntryTooLarge or NoSpace.
        """

    async def read_barrier(self) -> None:
        """Return once every write acknowledged before this call is visible to `get` (Raft: ReadIndex). Raises NotLeader."""


@dataclass(frozen=True, slots=True)
class Server:
    """One entry of the replicated configuration. `address` is the cluster address host:port.

    `voter` is the suffrage now; `permanent_non_voter` means it is never promoted by itself (OpenBao's non-voter).
    """

    node_id: str
    address: str
    voter: bool
    leader: bool = False
    permanent_non_voter: bool = False


@dataclass(frozen=True, slots=True)
class Leader:
    """The leader this node knows of. `api_addr` is its advertised API URL ("" while unknown)."""

    node_id: str
    address: str
    api_addr: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's credentials on the cluster port (design.md 12). All PEM text; the key stays on this node's disk, 0600."""

    cluster_id: str
    node_id: str
    ca_pem: str
    cert_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """What the leader knows of a server; times in seconds. `stable_since` is Unix time; `last_contact` is None for never."""

    node_id: str
    address: str
    alive: bool
    healthy: bool
    last_contact: float | None
    last_term: int
    last_index: int
    stable_since: float
    status: str  # leader | voter | non-voter
    node_type: str  # voter | non-voter (the latter only for permanent non-voters)
    version: str
    sealed: bool
    api_addr: str = ""


@dataclass(frozen=True, slots=True)
class AutopilotState:
    """The leader's view of cluster health (reference: raft-api.md 1.9)."""

    healthy: bool
    failure_tolerance: int
    leader: str
    servers: tuple[ServerHealth, ...]


@dataclass(frozen=True, slots=True)
class AutopilotConfig:
    """Autopilot settings; durations in seconds (raft-api.md 1.10)."""

    cleanup_dead_servers: bool = False
    last_contact_threshold: float = 10.0
    dead_server_last_contact_threshold: float = 86400.0
    max_trailing_logs: int = 1000
    min_quorum: int = 0
    server_stabilization_time: float = 10.0


class Event(Enum):
    """What a cluster listener is told. Listeners run on the event loop, in order, and must not block."""

    LEADER_GAINED = "leader_gained"  # this node leads and its own term's no-op is applied
    LEADER_LOST = "leader_lost"
    STATE_REPLACED = "state_replaced"  # a restore or an installed snapshot has replaced the whole state
    REMOVED = "removed"  # this server is no longer in the configuration
    CONFIGURATION = "configuration"  # the configuration changed


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """An HTTP request of a standby, carried to the leader over the cluster port. `target` is path and query."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    remote_addr: str = ""


@dataclass(frozen=True, slots=True)
class ForwardReply:
    """The leader's answer to a ForwardRequest."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)


class SnapshotSource(Protocol):
    """A consistent copy of the state at one index, for the snapshot archive. `close()` frees it."""

    index: int
    term: int
    servers: tuple[Server, ...]
    configuration_index: int

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """Every key in byte order with its stored value; may be iterated more than once and from a worker thread."""

    def close(self) -> None: ...


class Cluster(Protocol):
    """The Raft side of a Raft backend. Everything runs on the node's one event loop."""

    node_id: str
    cluster_addr: str  # host:port
    api_addr: str

    def has_state(self) -> bool:
        """True when this data directory belongs to a cluster (bootstrapped, joined, or removed from one)."""

    def cluster_id(self) -> str:
        """The cluster's UUID, "" without state."""

    def removed(self) -> bool:
        """True when this server has been removed from its cluster."""

    def is_leader(self) -> bool:
        """True when this node leads and has applied its own term's no-op (it may serve requests)."""

    def leader(self) -> Leader | None: ...

    def servers(self) -> tuple[Server, ...]: ...

    def ca_pem(self) -> str:
        """The trusted cluster CA certificate(s), from the replicated configuration."""

    @property
    def term(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def applied_index(self) -> int: ...

    async def bootstrap(self, identity: Identity) -> None:
        """Form a new cluster of one voter and return once this node leads. Raises StorageError when state exists."""

    async def join(self, identity: Identity, servers: Sequence[Server]) -> None:
        """Start as a learner of an existing cluster with what the leader's answer returned."""

    async def flush(self) -> None:
        """Make the commit index durable now, so that a sealed restart sees everything committed so far."""

    def set_eligible(self, eligible: bool) -> None:
        """Whether this node may campaign: True once it is unsealed (design.md 13)."""

    async def transfer_leadership(self, to: str | None = None, timeout: float = 10.0) -> None:
        """Hand leadership to `to`, or to the most up-to-date unsealed voter. Raises StorageError when nobody took it."""

    async def step_down(self) -> None:
        """Transfer when possible, else become a follower; do not campaign again for 10 s while others may."""

    async def add_server(self, node_id: str, address: str, permanent_non_voter: bool) -> None:
        """Leader: add a learner; the same id with another address replaces the entry. Autopilot promotes it later."""

    async def remove_server(self, node_id: str) -> bool:
        """Leader: remove a server (leadership moves first when it is this one). False when the id is unknown."""

    async def promote(self, node_id: str) -> None: ...

    async def demote(self, node_id: str) -> None: ...

    def autopilot_state(self) -> AutopilotState | None:
        """Leader only; None while it is not known yet."""

    def set_autopilot(self, config: AutopilotConfig) -> None: ...

    def subscribe(self, listener: Callable[[Event], None]) -> None: ...

    async def forward(self, request: ForwardRequest) -> ForwardReply:
        """Carry a request to the leader over the cluster port. Raises NotLeader when there is no reachable leader."""

    def on_forward(self, handler: Callable[[ForwardRequest], Awaitable[ForwardReply]]) -> None: ...

    async def open_snapshot(self) -> SnapshotSource: ...

    async def restore(self, path: Path, sha256: str, size: int, progress: Callable[[str, int, int], None]) -> int:
        """Replace the whole state by the verified state.bin at `path` (uvarint-framed StorageEntry records) on every member.

        Returns the index of the RESTORE entry once it is applied here; the file is moved away. `progress(stage, done, total)`.
        """

    def status(self) -> dict[str, Any]:
        """Figures for logs and metrics."""
