# SPDX-License-Identifier: Apache-2.0
"""What must hold over all servers at all times, and the history of what clients asked and were told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.consensus.types import Entry

if TYPE_CHECKING:
    from tests.sim.node import Node

WRITE, CAS, READ = "write", "cas", "read"


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(slots=True)
class Operation:
    """One call of a client on one key. `invoked` and `returned` count events: who returned before another was invoked, came first.

    `ok`: True, it took effect and the client knows (a check-and-set that found another value: `found` False); False: it surely
    did not; None: nobody knows. `value` is what it writes, or what a read found; 0 is "no value".
    """

    kind: str
    key: str
    value: int
    invoked: int
    expected: int | None = None
    returned: int | None = None
    ok: bool | None = None
    found: bool = True


class Checks:
    """Election safety, leader completeness, log matching and state machine safety, as they happen."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.logged: dict[
            tuple[int, int], tuple[int, bytes]
        ] = {}  # (index, term) -> the term before it, and the command
        self.committed_in: dict[int, int] = {}  # the lowest term of a server that applied it: it was committed by then
        self.last_committed = 1
        self.acked: dict[int, bytes] = {}
        self.max_acked = 1
        self.reads = 0
        self.restores = 0
        self.history: list[Operation] = []
        self.events = 0
        self.broken = ""  # a server takes what `applied` raises for its machine's failure, and stops

    def tick(self) -> int:
        """The next moment."""
        self.events += 1
        return self.events

    def invoke(self, kind: str, key: str, value: int = 0, expected: int | None = None) -> Operation:
        """A client asks."""
        operation = Operation(kind, key, value, self.tick(), expected)
        self.history.append(operation)
        return operation

    def answer(self, operation: Operation, ok: bool | None) -> None:
        """A client is told."""
        operation.returned, operation.ok = self.tick(), ok

    def leader(self, term: int, node: Node) -> None:
        """A server leads: it is the only one of its term, and has every committed entry."""
        other = self.leaders.setdefault(term, node.id)
        if other != node.id:
            raise Violation(f"election safety: {other} and {node.id} lead term {term}")
        log = node.raft.log
        for index, (entry_term, command) in self.committed.items():
            if index <= log.first or term < self.committed_in[index]:
                continue  # a late winner of an older term need not have it, and can commit nothing
            if index > log.last:
                raise Violation(f"leader completeness: {node.id} leads term {term} without committed entry {index}")
            entry = log.get(index)
            if (entry.term, entry.command) != (entry_term, command):
                raise Violation(f"leader completeness: {node.id} leads term {term} with another entry {index}")

    def appended(self, node: Node, before: int, entry: Entry) -> None:
        """A server appends an entry after one of term `before`: entries of one index and term are one, and so is all before them."""
        known = self.logged.setdefault((entry.index, entry.term), (before, entry.command))
        if known != (before, entry.command):
            raise Violation(f"log matching: {node.id} appends another entry {entry.index} of term {entry.term}")

    def cut(self, node: Node, index: int) -> None:
        """A server is about to cut its log from `index` on: nothing of that may be committed."""
        log = node.raft.log
        for entry in log[index - log.first :]:
            if self.committed.get(entry.index) == (entry.term, entry.command):
                raise Violation(f"{node.id} cuts committed entry {entry.index}")

    def applied(self, node: Node, entry: Entry) -> None:
        """A server applies an entry: it is the same everywhere."""
        known = self.committed.setdefault(entry.index, (entry.term, entry.command))
        self.committed_in[entry.index] = min(node.raft.current_term, self.committed_in.get(entry.index, 1 << 62))
        self.last_committed = max(self.last_committed, entry.index)
        if known != (entry.term, entry.command):
            self.broken = f"state machine safety: {node.id} applies another entry {entry.index}"
            raise Violation(self.broken)

    def acknowledged(self, index: int, command: bytes) -> None:
        """A client was told that its write is safe."""
        self.acked[index] = command
        self.max_acked = max(self.max_acked, index)
        if index in self.committed and self.committed[index][1] != command:
            raise Violation(f"acknowledged entry {index} is another one in the log")
