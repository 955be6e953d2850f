# SPDX-License-Identifier: Apache-2.0
"""Taking a snapshot: the state of one index as a stream of archive pieces, never all in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator

from holdfast.snapshot.archive import ArchiveWriter, Meta, SnapshotServer
from holdfast.snapshot.sealer import Sealer
from holdfast.state.pace import Pace
from holdfast.state.records import encode_entry, encoded_size
from holdfast.storage.types import SnapshotSource

_PIECE = 512 * 1024  # bytes of state.bin in one piece


async def archive_stream(source: SnapshotSource, sealer: Sealer) -> AsyncGenerator[bytes, None]:
    """The archive of `source` in pieces. The caller closes `source`.

    Iterating is done in a worker thread, one piece ahead of the consumer. Raises what `sealer` and the source raise; an
    archive that was not consumed to its end lacks SHA256SUMS.sealed and is recognised as incomplete by every reader.
    """
    size = await asyncio.to_thread(_count, source)
    servers = tuple(SnapshotServer(server.node_id, server.address, server.voter) for server in source.servers)
    meta = Meta(source.index, source.term, size, source.configuration_index, servers)
    writer = ArchiveWriter(meta, int(time.time()))
    blocks = _blocks(source)
    pace = Pace()

    def produce() -> bytes | None:
        pace()
        block = next(blocks, None)
        return None if block is None else writer.state(block)

    # The seal is asked first: a node that is sealed meanwhile must fail before the first byte has gone out.
    await sealer.seal_wrap(b"")
    head = writer.start()
    upcoming = asyncio.ensure_future(asyncio.to_thread(produce))
    try:
        yield head
        while (piece := await upcoming) is not None:
            upcoming = asyncio.ensure_future(asyncio.to_thread(produce))
            if piece:
                yield piece
    finally:
        await asyncio.wait([upcoming])  # the thread must not outlive the source
    yield writer.finish(await sealer.seal_wrap(writer.sums()))


def _count(source: SnapshotSource) -> int:
    pace = Pace()
    size = 0
    for number, (key, value) in enumerate(source.entries()):
        size += encoded_size(key, value)
        if number % 256 == 0:
            pace()
    return size


def _blocks(source: SnapshotSource) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for key, value in source.entries():
        record = encode_entry(key, value)
        parts.append(record)
        size += len(record)
        if size >= _PIECE:
            yield b"".join(parts)
            parts.clear()
            size = 0
    if parts:
        yield b"".join(parts)
