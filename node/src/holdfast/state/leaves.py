# SPDX-License-Identifier: Apache-2.0
"""An ordered map for millions of keys that never has to do much at once: sorted leaves that are never changed, only exchanged.

Why not a dictionary: doubling one of millions of keys, copying it, sorting its keys or freeing it takes the interpreter for
hundreds of milliseconds, and up to another tenth of the state's memory. Here every step touches one leaf; a picture of the whole
state is a copy of the list of leaves. Leaves are tuples of what the garbage collector need not follow, so it forgets them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

LEAF = 32  # keys a leaf holds at most
_FILL = 24  # keys of a leaf that is built in order: the first inserts need not split it
_PIECE = 32  # leaves let go of at once: about half a millisecond

Value = tuple[bytes, int]  # stored bytes and revision
Leaf = tuple[tuple[str, ...], tuple[Value, ...]]


class DiscardedError(Exception):
    """A picture of the state was let go of while it was being read: a restore or a snapshot has taken the state's place."""


class Leaves:
    """Sorted map of keys to (value, revision). `count` keys; `bytes`: length of all keys and values."""

    def __init__(self) -> None:
        self._leaves: list[Leaf] = []
        self._bounds: list[str] = []  # bounds[i] <= every key of leaf i < bounds[i + 1]; the first may be too high
        self.count = 0
        self.bytes = 0

    @staticmethod
    def build(pairs: Iterable[tuple[str, Value]]) -> Leaves:
        """A map of `pairs`. Fast in key order, right in any; the last value of a key counts."""
        made = Leaves()
        keys: list[str] = []
        values: list[Value] = []
        last: str | None = None
        late: list[tuple[str, Value]] = []
        size = 0
        for key, value in pairs:
            if last is not None and key <= last:
                late.append((key, value))
                if len(late) >= LEAF:  # an unordered file: give what has gathered to the map as it is
                    made._append(keys, values, size)
                    keys, values, size = [], [], 0
                    for item in late:
                        made.put(*item)
                    late.clear()
                    last = made._last()
                continue
            keys.append(key)
            values.append(value)
            size += len(key) + len(value[0])
            last = key
            if len(keys) == _FILL:
                made._append(keys, values, size)
                keys, values, size = [], [], 0
        made._append(keys, values, size)
        for item in late:
            made.put(*item)
        return made

    def _append(self, keys: list[str], values: list[Value], size: int) -> None:
        if keys:
            self._leaves.append((tuple(keys), tuple(values)))
            self._bounds.append(keys[0])
            self.count += len(keys)
            self.bytes += size

    def _last(self) -> str | None:
        return self._leaves[-1][0][-1] if self._leaves else None

    def get(self, key: str) -> Value | None:
        """The value at `key`."""
        at = bisect_right(self._bounds, key) - 1
        if at < 0:
            return None
        keys, values = self._leaves[at]
        position = bisect_left(keys, key)
        return values[position] if position < len(keys) and keys[position] == key else None

    def put(self, key: str, value: Value) -> None:
        """Store `value` at `key`."""
        at = bisect_right(self._bounds, key) - 1
        if at < 0:
            if not self._leaves:
                self._append([key], [value], len(key) + len(value[0]))
                return
            at, self._bounds[0] = 0, key
        keys, values = self._leaves[at]
        position = bisect_left(keys, key)
        if position < len(keys) and keys[position] == key:
            self.bytes += len(value[0]) - len(values[position][0])
            changed = list(values)
            changed[position] = value
            self._leaves[at] = (keys, tuple(changed))
            return
        self.count += 1
        self.bytes += len(key) + len(value[0])
        keys = keys[:position] + (key,) + keys[position:]  # noqa: RUF005 (half again as fast as unpacking)
        values = values[:position] + (value,) + values[position:]  # noqa: RUF005
        if len(keys) <= LEAF:
            self._leaves[at] = (keys, values)
            return
        # Keys that come in order leave full leaves behind.
        middle = LEAF if position == LEAF and at == len(self._leaves) - 1 else LEAF // 2
        self._leaves[at : at + 1] = [(keys[:middle], values[:middle]), (keys[middle:], values[middle:])]
        self._bounds.insert(at + 1, keys[middle])

    def delete(self, key: str) -> None:
        """Forget `key`, if it is there."""
        at = bisect_right(self._bounds, key) - 1
        if at < 0:
            return
        keys, values = self._leaves[at]
        position = bisect_left(keys, key)
        if position == len(keys) or keys[position] != key:
            return
        self.count -= 1
        self.bytes -= len(key) + len(values[position][0])
        keys = keys[:position] + keys[position + 1 :]
        values = values[:position] + values[position + 1 :]
        if not keys:
            del self._leaves[at], self._bounds[at]
            return
        self._leaves[at] = (keys, values)
        if len(keys) < LEAF // 4:
            self._join(at if at + 1 < len(self._leaves) else at - 1)

    def _join(self, at: int) -> None:
        """Make one leaf of `at` and the next, if that is not too large."""
        if at < 0:
            return
        (keys, values), (more_keys, more_values) = self._leaves[at], self._leaves[at + 1]
        if len(keys) + len(more_keys) <= _FILL:
            self._leaves[at : at + 2] = [(keys + more_keys, values + more_values)]
            del self._bounds[at + 1]

    def keys_from(self, start: str) -> Iterator[str]:
        """Keys from `start` on, sorted. Nothing may be changed meanwhile."""
        at = max(0, bisect_right(self._bounds, start) - 1)
        if at < len(self._leaves):
            keys = self._leaves[at][0]
            yield from keys[bisect_left(keys, start) :]
        for number in range(at + 1, len(self._leaves)):
            yield from self._leaves[number][0]

    def freeze(self) -> Frozen:
        """The map as it is now."""
        return Frozen(self._leaves.copy())


class Frozen:
    """The map as it was at one moment, sorted: iterate over (key, (value, revision)), also from another thread."""

    def __init__(self, leaves: list[Leaf]) -> None:
        self._leaves: list[Leaf] | None = leaves

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        number = 0
        while True:
            leaves = self._leaves
            found = leaves[number : number + 1] if leaves is not None else []
            # Asked after the look: another thread may be emptying that very list, and half a picture must not pass for a whole one.
            if self._leaves is None:
                raise DiscardedError("the state was replaced meanwhile")
            if not found:
                return
            keys, values = found[0]
            del leaves, found  # else this would keep the whole picture while the caller works
            number += 1
            yield from zip(keys, values, strict=True)

    def discard(self) -> Iterator[None]:
        """Let go of everything, one small piece per iteration; who still reads gets a DiscardedError."""
        leaves, self._leaves = self._leaves, None
        while leaves:
            del leaves[-_PIECE:]
            yield
