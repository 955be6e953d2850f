# SPDX-License-Identifier: Apache-2.0
"""The replicated state machine: an ordered map of ciphertext with a revision per key. Pure; no IO, no clock, no randomness.

A command is a batch of proposals (group commit): `[[preconditions, ops], …]`, msgpack, where preconditions are
`[[key, revision], …]` (0: must be absent) and ops are `[0, key, value]` (put) or `[1, key]` (delete). Each proposal is atomic; its
result is the entry's index, or the key whose precondition failed (design.md 14).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgpack
from sortedcontainers import SortedDict

PUT, DELETE = 0, 1

Proposal = tuple[list[tuple[str, int]], list[tuple[int, str, bytes] | tuple[int, str]]]
Result = int | str  # revision, or the key whose precondition failed


def encode(proposals: Sequence[object]) -> bytes:
    """A command's payload."""
    packed: bytes = msgpack.packb(proposals)
    return packed


class State:
    """Everything that was written, as of the last applied entry."""

    def __init__(self) -> None:
        self._items: SortedDict[str, tuple[bytes, int]] = SortedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def apply(self, index: int, payload: bytes) -> list[Result]:
        """Apply one command at log `index`; one result for each of its proposals. Deterministic."""
        results: list[Result] = []
        for preconditions, ops in msgpack.unpackb(payload):
            failed = next((key for key, revision in preconditions if self.revision(key) != revision), None)
            if failed is not None:
                results.append(failed)
                continue
            for op in ops:
                if op[0] == PUT:
                    self._put(op[1], op[2], index)
                else:
                    self._delete(op[1])
            results.append(index)
        return results

    def _put(self, key: str, value: bytes, revision: int) -> None:
        old = self._items.get(key)
        self.bytes += len(value) - (len(old[0]) if old else -len(key))
        self._items[key] = (value, revision)

    def _delete(self, key: str) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self.bytes -= len(key) + len(old[0])

    def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision) at `key`."""
        found: tuple[bytes, int] | None = self._items.get(key)
        return found

    def revision(self, key: str) -> int:
        """Revision of `key`, 0 when it is absent."""
        found = self._items.get(key)
        return found[1] if found else 0

    def children(self, prefix: str) -> list[str]:
        """Sorted immediate children below `prefix`; folders end in "/". Skips over whole folders."""
        result: list[str] = []
        start = prefix
        while True:
            key = next(self._items.irange(start), None)
            if key is None or not key.startswith(prefix):
                return result
            head, slash, _ = key[len(prefix) :].partition("/")
            if head + slash:
                result.append(head + slash)
            # "0" follows "/": the next start is after everything below this folder, or just after this key.
            start = prefix + head + "0" if slash else key + "\0"

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, sorted; a copy."""
        keys = []
        for key in self._items.irange(prefix):
            if not key.startswith(prefix):
                break
            keys.append(key)
        return iter(keys)

    def freeze(self) -> Mapping[str, tuple[bytes, int]]:
        """A consistent copy (shallow: values are shared and immutable), in no particular order; 32 ms for a million keys."""
        return dict.copy(self._items)

    @staticmethod
    def load(items: dict[str, tuple[bytes, int]]) -> State:
        """A state of these items."""
        state = State()
        state._items = SortedDict(items)
        state.bytes = sum(len(key) + len(value) for key, (value, _) in items.items())
        return state
