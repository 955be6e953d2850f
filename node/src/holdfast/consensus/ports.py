# SPDX-License-Identifier: Apache-2.0
"""What the Raft layer needs of the world, so that a simulator can stand in for all of it."""

from __future__ import annotations

from typing import Protocol

from holdfast.consensus.types import Configuration, Message, RestoreFile, Snapshot


class Disk(Protocol):
    """One flat directory. Calls raise OSError; the caller treats a failed write or sync as fatal (never retried)."""

    def list(self) -> list[str]: ...

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes: ...

    def size(self, name: str) -> int: ...

    def create(self, name: str, size: int) -> None:
        """A new file of `size` reserved bytes; an existing one is emptied."""

    def write(self, name: str, offset: int, data: bytes) -> None: ...

    def sync(self, name: str) -> None:
        """fdatasync."""

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def sync_dir(self) -> None:
        """Make creations, renames and removals durable."""

    def free(self) -> int:
        """Bytes available to this process on the file system."""


class Clock(Protocol):
    """Monotonic seconds."""

    def __call__(self) -> float: ...


class Random(Protocol):
    """Uniform numbers in [0, 1)."""

    def random(self) -> float: ...


class Network(Protocol):
    """Best-effort messages to a server by id: they may be lost, repeated, late or out of order."""

    def send(self, peer: str, message: Message) -> None: ...


class Machine(Protocol):
    """The replicated state machine. `apply` is pure and fast; the `begin_*` calls work aside and report to Raft when done."""

    def apply(self, index: int, term: int, payload: bytes) -> object:
        """Apply one REGULAR entry; the result goes to its proposer. An exception is fatal for the server."""

    def begin_snapshot(self, index: int, term: int, configuration: Configuration, configuration_index: int) -> None:
        """Write the state as it is now to a file; then call `Raft.snapshot_saved`."""

    def begin_install(self, snapshot: Snapshot) -> None:
        """Replace the state by the file; then call `Raft.installed`."""

    def begin_restore(self, index: int, term: int, restore: RestoreFile) -> None:
        """Replace the state by the restore file as of `index`; then call `Raft.restored`."""


class Observer(Protocol):
    """Who wants to know what happens. Called in the middle of a step: note it and return."""

    def state_changed(self) -> None:
        """Leadership, term or configuration changed."""

    def was_removed(self) -> None:
        """This server is no longer a member."""

    def fatal(self, reason: str) -> None:
        """The server must stop now; nothing more may be acknowledged."""
