# SPDX-License-Identifier: Apache-2.0
"""The replicated state machine: an ordered map of ciphertext with a revision per key. Pure; no IO, no clock, no randomness.

A command is a batch of proposals (group commit): `[[preconditions, ops], …]`, msgpack, where preconditions are
`[[key, revision], …]` (0: must be absent) and ops are `[0, key, value]` (put) or `[1, key]` (delete). Each proposal is atomic; its
result is the entry's index, or the key whose precondition failed (design.md 14).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgpack

from holdfast.state.leaves import Frozen, Leaves, Value

PUT, DELETE = 0, 1

Proposal = tuple[list[tuple[str, int]], list[tuple[int, str, bytes] | tuple[int, str]]]
Result = int | str  # revision, or the key whose precondition failed


class ReplacingError(Exception):
    """The state is being replaced by a snapshot or a restore and cannot be read now. Nothing is wrong with it."""


def encode(proposals: Sequence[object]) -> bytes:
    """A command's payload."""
    packed: bytes = msgpack.packb(proposals)
    return packed


class State:
    """Everything that was written, as of the last applied entry."""

    def __init__(self, items: Leaves | None = None) -> None:
        self._items = items or Leaves()

    def __len__(self) -> int:
        return self._items.count

    @property
    def size(self) -> int:
        """Length of all keys (in characters) and values together."""
        return self._items.bytes

    def apply(self, index: int, payload: bytes) -> list[Result]:
        """Apply one command at log `index`; one result for each of its proposals. Deterministic."""
        results: list[Result] = []
        items = self._items
        for preconditions, ops in msgpack.unpackb(payload):
            failed = next((key for key, revision in preconditions if self.revision(key) != revision), None)
            if failed is not None:
                results.append(failed)
                continue
            for op in ops:
                if op[0] == PUT:
                    items.put(op[1], (op[2], index))
                else:
                    items.delete(op[1])
            results.append(index)
        return results

    def get(self, key: str) -> Value | None:
        """(value, revision) at `key`."""
        return self._items.get(key)

    def revision(self, key: str) -> int:
        """Revision of `key`, 0 when it is absent."""
        found = self._items.get(key)
        return found[1] if found else 0

    def children(self, prefix: str) -> list[str]:
        """Sorted immediate children below `prefix`; folders end in "/". Skips over whole folders."""
        result: list[str] = []
        start = prefix
        while True:
            for key in self._items.keys_from(start):
                if not key.startswith(prefix):
                    return result
                head, slash, _ = key[len(prefix) :].partition("/")
                if slash:
                    result.append(head + slash)
                    break
                if head:
                    result.append(head)
            else:
                return result
            start = prefix + head + "0"  # "0" follows "/": after everything below this folder

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, sorted; a copy."""
        keys = []
        for key in self._items.keys_from(prefix):
            if not key.startswith(prefix):
                break
            keys.append(key)
        return iter(keys)

    def freeze(self) -> Frozen:
        """A consistent picture of now, in key order, that shares everything with the state: about 1 ms for a million keys."""
        return self._items.freeze()

    @staticmethod
    def load(items: Iterable[tuple[str, Value]]) -> State:
        """A state of these (key, (value, revision)); fast when they come in key order."""
        return State(Leaves.build(items))

    def end(self, kept: str) -> tuple[Replacing, Frozen]:
        """Stop being the state: (what can still be read of it, everything that is to be let go of, piece by piece)."""
        left, gone = Leaves(), self._items.freeze()
        for key in self.keys(kept):
            value = self._items.get(key)
            assert value is not None
            left.put(key, value)
        self._items = Leaves()
        return Replacing(left, kept), gone


class Replacing(State):
    """A state that is being replaced: what a server must know of itself can be read as it was, nothing else can."""

    def __init__(self, items: Leaves, kept: str) -> None:
        super().__init__(items)
        self._kept = kept

    def _check(self, key: str) -> None:
        if not key.startswith(self._kept):
            raise ReplacingError("the data is being replaced by a snapshot: try again in a moment")

    def apply(self, index: int, payload: bytes) -> list[Result]:
        """Never: the next entry waits for the new state."""
        raise ReplacingError(f"entry {index} must wait until the state has been replaced")

    def get(self, key: str) -> Value | None:
        """As in State, or ReplacingError."""
        self._check(key)
        return super().get(key)

    def children(self, prefix: str) -> list[str]:
        """As in State, or ReplacingError."""
        self._check(prefix)
        return super().children(prefix)

    def keys(self, prefix: str) -> Iterator[str]:
        """As in State, or ReplacingError."""
        self._check(prefix)
        return super().keys(prefix)

    def freeze(self) -> Frozen:
        """Never: this is not a whole state."""
        raise ReplacingError("the data is being replaced by a snapshot: try again in a moment")
