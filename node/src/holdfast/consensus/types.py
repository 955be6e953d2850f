# SPDX-License-Identifier: Apache-2.0
"""The nouns of the Raft layer: entries, configurations, snapshots on disk, and the messages between servers.

Messages are named tuples: immutable, cheap to build and to pack. Terms, indexes and offsets are whole numbers; the first
entry a client can write has index 2 (index 1 is the sentinel that every log starts with).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

WIRE_FORMAT = 1  # of messages; said in every hello
LOG_FORMAT = 1  # of entries; each member's highest is part of the configuration (design.md 16)


class ConsensusError(Exception):
    """The Raft layer refused a call. The text is fit for a user."""


class NotLeaderError(ConsensusError):
    """This server does not lead, or no longer does; the proposal was not appended."""


class UnknownOutcomeError(ConsensusError):
    """The entry was appended but leadership was lost before it was known to be committed."""


class RefusedError(ConsensusError):
    """A configuration change is impossible or unsafe now. `passing`: the reason goes away by itself soon."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


class JournalError(ConsensusError):
    """The journal or a snapshot on disk cannot be trusted. The text names the file, the offset and what to do."""


class Role(IntEnum):
    """Suffrage of a member. A LEARNER is promoted once it has caught up; a NON_VOTER never by itself."""

    VOTER = 0
    LEARNER = 1
    NON_VOTER = 2


@dataclass(frozen=True, slots=True)
class Member:
    """One server of a configuration: identity, cluster address host:port, suffrage, highest log format it reads."""

    node_id: str
    address: str
    role: Role
    format: int = LOG_FORMAT


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who is in the cluster. `ca` holds the trusted CA certificates (PEM); `removed` the ids that were removed."""

    cluster_id: str
    members: tuple[Member, ...]
    ca: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def member(self, node_id: str) -> Member | None:
        """The member with this id, or None."""
        return next((m for m in self.members if m.node_id == node_id), None)

    @property
    def voters(self) -> frozenset[str]:
        """Ids of all voters."""
        return frozenset(m.node_id for m in self.members if m.role is Role.VOTER)

    def pack(self) -> bytes:
        """The form that is logged and kept in snapshots."""
        members = [[m.node_id, m.address, int(m.role), m.format] for m in self.members]
        packed: bytes = msgpack.packb([self.cluster_id, members, list(self.ca), list(self.removed)])
        return packed

    @staticmethod
    def unpack(data: bytes) -> Configuration:
        """Inverse of `pack`. Raises ValueError on anything else."""
        try:
            cluster_id, members, ca, removed = msgpack.unpackb(data)
            return Configuration(
                cluster_id,
                tuple(Member(i, a, Role(r), f) for i, a, r, f in members),
                tuple(ca),
                tuple(removed),
            )
        except (TypeError, ValueError, msgpack.UnpackException) as error:
            raise ValueError(f"not a configuration: {error}") from None


class Entry(NamedTuple):
    """One log entry. `command` is a type byte and a payload; the order of fields is pysyncobj's."""

    command: bytes
    index: int  # type: ignore[assignment]
    term: int


REGULAR, NO_OP, MEMBERSHIP = 0, 1, 2  # pysyncobj's command types
RESTORE = 4  # our own: {id, sha256, size} of a state file that replaces the state (design.md 6)
KINDS = {REGULAR: 1, NO_OP: 1, MEMBERSHIP: 1, RESTORE: 1}  # kind of entry -> the log format that brought it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state file on this server's disk: everything up to and including `index` (of `term`)."""

    index: int
    term: int
    file: str
    size: int
    sha256: str
    configuration: Configuration
    configuration_index: int

    def pack(self) -> list[Any]:
        """As a msgpack-able list."""
        return [
            self.index,
            self.term,
            self.file,
            self.size,
            self.sha256,
            self.configuration.pack(),
            self.configuration_index,
        ]

    @staticmethod
    def unpack(fields: list[Any]) -> Snapshot:
        """Inverse of `pack`. Raises ValueError."""
        try:
            index, term, file, size, sha256, configuration, configuration_index = fields
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a snapshot record: {error}") from None
        ok = all(isinstance(n, int) for n in (index, term, size, configuration_index))
        if not (ok and isinstance(file, str) and isinstance(sha256, str) and isinstance(configuration, bytes)):
            raise ValueError("not a snapshot record")
        return Snapshot(
            index,
            term,
            file,
            size,
            sha256,
            Configuration.unpack(configuration),
            configuration_index,
        )


@dataclass(frozen=True, slots=True)
class RestoreFile:
    """A verified state file that a RESTORE entry names."""

    file: str
    sha256: str
    size: int


@dataclass(slots=True)
class Timing:
    """Timings in seconds and limits. `election` is the least election timeout; each is drawn from [election, 2·election]."""

    heartbeat: float = 0.05
    election: float = 0.4
    quorum: float = 0.8  # a leader without a majority for this long steps down
    resend: float = 0.15  # an unanswered probe, append or chunk is repeated after this
    max_batch: int = 512 * 1024  # bytes of entries in one append
    commit_delay: float = 0.005  # the commit index waits so long for an append to go with before it goes by itself
    max_inflight: int = 32  # appends under way to one server
    chunk: int = 256 * 1024
    chunk_window: int = 8
    sync_bytes: int = 4 * 1024 * 1024  # of an incoming state file: many short syncs, not one that stops the loop
    compact_bytes: int = 48 * 1024 * 1024  # of log since the last snapshot (design.md 19)
    keep_bytes: int = 16 * 1024 * 1024  # of log kept behind a snapshot for servers that lag
    lease_reads: bool = False  # reads trust the clocks instead of asking a majority (consensus/reads.py)
    sticky: float = 0.4  # `election` of the server with the least performance_multiplier: a lease counts on all of them

    @property
    def lease(self) -> float:
        """Length of a leader's lease, 0 for none: three quarters of the least election timeout, for clocks run differently."""
        return min(self.election, self.sticky) * 0.75 if self.lease_reads else 0.0

    def scaled(self, multiplier: float) -> Timing:
        """The same with waits stretched by `multiplier` (performance_multiplier, at least 1, which each server has its own of)."""
        return replace(
            self,
            heartbeat=self.heartbeat * multiplier,
            election=self.election * multiplier,
            quorum=self.quorum * multiplier,
            resend=self.resend * multiplier,
        )


# --- messages -------------------------------------------------------------------------------------------------------


class Append(NamedTuple):
    """Leader → server: entries after (prev_index, prev_term). `seq` grows with every append or heartbeat of a term."""

    term: int
    seq: int
    prev_index: int
    prev_term: int
    commit: int
    entries: list[Entry]


class Heartbeat(NamedTuple):
    """Leader → server: leadership only, no claim about the log (so it can never move commit)."""

    term: int
    seq: int


class Ack(NamedTuple):
    """Answer to Append. ok: the log matches the leader's up to `index` and is durable. Else: try again after `index`."""

    term: int
    seq: int
    ok: bool
    index: int  # type: ignore[assignment]
    prev: int


class HeartbeatAck(NamedTuple):
    """Answer to Heartbeat, with what autopilot wants to know. `eligible`: unsealed, may lead; `writable`: its disk has room."""

    term: int
    seq: int
    last_index: int
    last_term: int
    applied: int
    eligible: bool
    writable: bool


class PreVote(NamedTuple):
    """Would you vote for me in `term`? (dissertation 9.6)."""

    term: int
    last_index: int
    last_term: int


class PreVoteReply(NamedTuple):
    """`term` is the answerer's own: a refused server that lags in terms must learn it (consensus.md 8, seed 1029)."""

    term: int
    proposed: int
    granted: bool


class Vote(NamedTuple):
    """RequestVote. `transfer`: the leader asked for it, stickiness does not apply (dissertation 4.2.3)."""

    term: int
    last_index: int
    last_term: int
    transfer: bool


class VoteReply(NamedTuple):
    """Answer to Vote; sent only when the vote is durable."""

    term: int
    granted: bool


class TimeoutNow(NamedTuple):
    """Leader → the server it hands leadership to."""

    term: int


class Chunk(NamedTuple):
    """A piece of a state file. Empty `data` asks how far the receiver is."""

    file: str
    size: int
    sha256: str
    offset: int
    data: bytes
    crc: int


class ChunkAck(NamedTuple):
    """The receiver holds `offset` bytes; `complete`: verified and durable."""

    file: str
    offset: int
    complete: bool


class Install(NamedTuple):
    """Leader → server that holds the snapshot's file: replace log and state by it. `snapshot` is Snapshot.pack()."""

    term: int
    seq: int
    snapshot: list[Any]


class Pull(NamedTuple):
    """A server that applies RESTORE without having the file asks for it."""

    file: str
    sha256: str
    size: int


class Removed(NamedTuple):
    """To a server that the committed configuration at `index` has removed; `term`: of the newest entry the sender knows committed."""

    index: int  # type: ignore[assignment]
    term: int


Message = (
    Append
    | Heartbeat
    | Ack
    | HeartbeatAck
    | PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | TimeoutNow
    | Chunk
    | ChunkAck
    | Install
    | Pull
    | Removed
)


@dataclass(slots=True)
class Recovered:
    """What a journal says after a restart. `entries[0]` is the sentinel at the log's base."""

    entries: list[Entry]
    term: int = 0
    voted_for: str | None = None
    commit: int = 1
    snapshot: Snapshot | None = None
    removed: bool = False
    leader_commit: int = (
        1  # the highest commit index that a leader told this server as its member, as far as it is recorded
    )
    cluster_id: str = ""
    node_id: str = ""
    warnings: list[str] = field(default_factory=list)
