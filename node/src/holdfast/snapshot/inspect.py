# SPDX-License-Identifier: Apache-2.0
"""Looking into a snapshot file: check it, and count keys and bytes below every prefix. Values stay ciphertext."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from holdfast.snapshot.archive import ArchiveReader, SnapshotError, Verified
from holdfast.state.records import EntryDecoder, RecordError

_PIECE = 1024 * 1024


@dataclass(slots=True)
class Usage:
    """Keys and stored bytes below a prefix."""

    keys: int = 0
    size: int = 0


@dataclass(slots=True)
class Report:
    """What a snapshot holds. `prefixes` maps the first path segments to their usage."""

    verified: Verified
    keys: int = 0
    size: int = 0
    prefixes: dict[str, Usage] = field(default_factory=dict)


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """A file in pieces of 1 MiB."""
    while data := file.read(_PIECE):
        yield data


def verify(pieces: Iterator[bytes], on_piece: Callable[[bytes], object] | None = None) -> Verified:
    """Check a whole archive, its records included; `on_piece` sees every piece. Raises SnapshotError."""
    return _walk(pieces, lambda key, value: None, on_piece)


def inspect(pieces: Iterator[bytes], depth: int = 2) -> Report:
    """Check a whole archive and count per prefix of `depth` segments. Raises SnapshotError."""
    totals: dict[str, Usage] = defaultdict(Usage)

    def count(key: str, value: bytes) -> None:
        usage = totals["/".join(key.split("/")[:depth])]
        usage.keys += 1
        usage.size += len(key) + len(value)

    verified = _walk(pieces, count, None)
    ordered = dict(sorted(totals.items(), key=lambda item: (-item[1].size, item[0])))
    keys, size = sum(item.keys for item in totals.values()), sum(item.size for item in totals.values())
    return Report(verified, keys, size, ordered)


def _walk(
    pieces: Iterator[bytes], on_entry: Callable[[str, bytes], None], on_piece: Callable[[bytes], object] | None
) -> Verified:
    decoder = EntryDecoder()

    def on_state(piece: bytes) -> None:
        for key, value in decoder.feed(piece):
            on_entry(key, value)

    reader = ArchiveReader(on_state)
    try:
        for piece in pieces:
            if on_piece is not None:
                on_piece(piece)
            reader.feed(piece)
        verified = reader.finish()
        decoder.finish()
    except RecordError as error:
        raise SnapshotError(str(error)) from None
    return verified
