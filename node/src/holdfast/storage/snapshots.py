# SPDX-License-Identifier: Apache-2.0
"""A consistent copy of the state for the snapshot archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from holdfast.storage.types import Server


class Source:
    """Implements `SnapshotSource`: holds references to immutable values, so it costs one dictionary."""

    def __init__(
        self,
        items: Mapping[str, tuple[bytes, int]],
        index: int,
        term: int,
        servers: tuple[Server, ...],
        configuration_index: int,
    ) -> None:
        self._items = items
        self._keys: list[str] | None = None
        self.index = index
        self.term = term
        self.servers = servers
        self.configuration_index = configuration_index

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """Every key in byte order with its value (code point order of str is byte order of UTF-8)."""
        if self._keys is None:
            self._keys = sorted(self._items)
        for key in self._keys:
            yield key, self._items[key][0]

    def close(self) -> None:
        """Let go of the copy."""
        self._items, self._keys = {}, []
