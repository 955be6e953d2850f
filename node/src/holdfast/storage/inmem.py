# SPDX-License-Identifier: Apache-2.0
"""The `inmem` backend: development servers and unit tests. Nothing survives the process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from holdfast.state.leaves import Leaves
from holdfast.storage.types import Item, Op, PreconditionFailed, Put


class InmemStorage:
    """A `Storage` in one map; revisions count commits."""

    storage_type = "inmem"

    def __init__(self) -> None:
        self._items = Leaves()
        self._revision = 0

    def get(self, key: str) -> Item | None:
        """The value at `key`, or None."""
        found = self._items.get(key)
        return Item(*found) if found else None

    def scan(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, sorted (a copy: safe against changes while iterating)."""
        keys = []
        for key in self._items.keys_from(prefix):
            if not key.startswith(prefix):
                break
            keys.append(key)
        return iter(keys)

    def list(self, prefix: str) -> list[str]:
        """Sorted immediate children below `prefix`; folders end in "/"."""
        start = len(prefix)
        children = set()
        for key in self.scan(prefix):
            head, slash, _ = key[start:].partition("/")
            children.add(head + slash)
        return sorted(children - {""})

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        """Apply `ops` at once; raises PreconditionFailed before anything changes."""
        for key, revision in (preconditions or {}).items():
            item = self.get(key)
            if (item.revision if item else 0) != revision:
                raise PreconditionFailed(key)
        self._revision += 1
        for op in ops:
            if isinstance(op, Put):
                self._items.put(op.key, (op.value, self._revision))
            else:
                self._items.delete(op.key)
        return self._revision

    async def read_barrier(self) -> None:
        """Every read is current already."""
