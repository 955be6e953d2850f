# SPDX-License-Identifier: Apache-2.0
"""State files: a snapshot of the state at one index, on this server's disk or on its way to another.

`HFSTATE1`, then blocks `u32 length | u32 crc | payload` (msgpack list of [key, value, revision]), then an end block of length 0 whose
crc is the number of entries modulo 2**32. Keys are written in order; any order is read. The sha256 of the whole file goes with it
wherever it goes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgpack

MAGIC = b"HFSTATE1"
_HEAD = struct.Struct("<II")
_BLOCK = 256 * 1024
_SYNC_EVERY = 4 * 1024 * 1024  # bytes: one sync of gigabytes would hold up the journal's, on the same disk


class StateFileError(Exception):
    """The file is not a whole, undamaged state file. The text names it."""


def write(
    path: Path, items: Iterable[tuple[str, tuple[bytes, int]]], pause: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Write a durable state file (0600) and return (size, sha256). `pause` is called between blocks; may run in a thread."""
    digest = hashlib.sha256()
    size = synced = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in _pieces(items):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            if size - synced >= _SYNC_EVERY:
                file.flush()
                os.fdatasync(file.fileno())
                synced = size
            pause()
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _pieces(items: Iterable[tuple[str, tuple[bytes, int]]]) -> Iterator[bytes]:
    yield MAGIC
    block: list[tuple[str, bytes, int]] = []
    filled = count = 0
    for key, (value, revision) in items:
        block.append((key, value, revision))
        filled += len(key) + len(value)
        count += 1
        if filled >= _BLOCK:
            yield _block(block)
            block, filled = [], 0
    if block:
        yield _block(block)
    yield _HEAD.pack(0, count & 0xFFFFFFFF)


def _block(entries: list[tuple[str, bytes, int]]) -> bytes:
    payload = msgpack.packb(entries)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read(path: Path, pause: Callable[[], None] = lambda: None) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Every entry of a state file as (key, (value, revision)), block by block; `pause` is called between blocks.

    Raises StateFileError as soon as something is wrong: only an iterator that came to its end has read a good file.
    """
    count = 0
    with path.open("rb") as file:
        whole = os.fstat(file.fileno()).st_size
        if file.read(len(MAGIC)) != MAGIC:
            raise StateFileError(f"{path.name} is not a state file")
        while True:
            head = file.read(_HEAD.size)
            if len(head) != _HEAD.size:
                raise StateFileError(f"{path.name} ends too early, at offset {whole}")
            length, crc = _HEAD.unpack(head)
            if length == 0:
                if crc != count & 0xFFFFFFFF:
                    raise StateFileError(f"{path.name} lacks entries before its end at offset {file.tell()}")
                if file.tell() != whole:
                    raise StateFileError(f"{path.name} goes on after its end at offset {file.tell()}")
                return
            if length > whole - file.tell():  # before that much memory is asked for
                raise StateFileError(f"{path.name} is damaged near offset {file.tell()}, or cut off")
            payload = file.read(length)
            if len(payload) != length or zlib.crc32(payload) != crc:
                raise StateFileError(f"{path.name} is damaged near offset {file.tell()}")
            entries = msgpack.unpackb(payload)
            del payload
            for key, value, revision in entries:
                yield key, (value, revision)
            count += len(entries)
            pause()
