# SPDX-License-Identifier: Apache-2.0
"""A consistent copy of the state for the snapshot archive."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.consensus.machine import let_go
from holdfast.state.leaves import DiscardedError, Frozen
from holdfast.storage.types import Server, Unavailable


class Source:
    """Implements `SnapshotSource`: shares everything with the state, so it costs next to nothing until that changes."""

    def __init__(
        self, picture: Frozen, index: int, term: int, servers: tuple[Server, ...], configuration_index: int
    ) -> None:
        self._picture = picture
        self.index = index
        self.term = term
        self.servers = servers
        self.configuration_index = configuration_index

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """Every key in byte order (code point order of str is byte order of UTF-8) with its value.

        Raises Unavailable when a restore takes the state's place meanwhile: both together would not fit into memory.
        """
        try:
            for key, (value, _) in self._picture:
                yield key, value
        except DiscardedError as error:
            raise Unavailable(f"the snapshot was given up: {error}; take another one") from None

    def close(self) -> None:
        """Let go of the copy."""
        let_go(self._picture)
