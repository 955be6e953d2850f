# SPDX-License-Identifier: Apache-2.0
"""The records of state.bin: uvarint length, then protobuf StorageEntry {string key=1; bytes value=2; bool seal_wrap=3}.

The encoding is OpenBao's (raft-api.md 3.1), byte for byte: fields in order, empty ones left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

MAX_RECORD = 64 * 1024 * 1024  # bytes; far above any entry that could have been written
_CHUNK = 256 * 1024


class RecordError(ValueError):
    """The bytes are no sequence of records. The text says what is wrong."""


def _uvarint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_entry(key: str, value: bytes) -> bytes:
    """One framed record of a key and its stored value."""
    name = key.encode("utf-8")
    head = b"\x0a" + _uvarint(len(name)) + name if name else b""
    if value:
        head += b"\x12" + _uvarint(len(value))
    return _uvarint(len(head) + len(value)) + head + value


def encoded_size(key: str, value: bytes) -> int:
    """The length of `encode_entry(key, value)` in bytes, without building it."""
    name = len(key) if key.isascii() else len(key.encode("utf-8"))
    size = 0
    if name:
        size += 1 + _width(name) + name
    if value:
        size += 1 + _width(len(value)) + len(value)
    return _width(size) + size


def _width(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def _read_uvarint(buffer: bytes | bytearray, position: int, end: int) -> tuple[int, int] | None:
    """(value, next position), or None when the number is not complete before `end`. Raises RecordError."""
    value = shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise RecordError("a length in state.bin is not valid")
    return None


def _decode(record: bytes) -> tuple[str, bytes]:
    key, value = b"", b""
    position, end = 0, len(record)
    while position < end:
        tag = _read_uvarint(record, position, end)
        field = _read_uvarint(record, tag[1], end) if tag else None
        if tag is None or field is None:
            raise RecordError("a record in state.bin is cut off")
        position = field[1]
        if tag[0] in (0x0A, 0x12):
            stop = position + field[0]
            if stop > end:
                raise RecordError("a record in state.bin is cut off")
            if tag[0] == 0x0A:
                key = record[position:stop]
            else:
                value = record[position:stop]
            position = stop
        elif tag[0] != 0x18:  # seal_wrap has no meaning here, its value is skipped
            raise RecordError("a record in state.bin has an unknown field")
    try:
        return key.decode("utf-8"), value
    except UnicodeDecodeError:
        raise RecordError("a key in state.bin is not UTF-8") from None


class EntryDecoder:
    """Decodes records from pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The records that `data` completes, as (key, value); consume the iterator. Raises RecordError."""
        if self._rest:
            data = self._rest + data
        self._rest = data  # what an iterator that is not consumed leaves behind
        position, end = 0, len(data)
        while position < end:
            # The usual record is taken apart right here: a restore decodes millions of them.
            start, size, shift = position, 0, 0
            while start < end:
                byte = data[start]
                start += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 63:
                    raise RecordError("a length in state.bin is not valid")
            else:
                break
            if size > MAX_RECORD:
                raise RecordError("a record in state.bin is larger than any entry can be")
            stop = start + size
            if stop > end:
                break
            yield _usual(data, start, stop) or _decode(data[start:stop])
            position = stop
        self._rest = data[position:]

    def finish(self) -> None:
        """Raise RecordError when the last record is cut off."""
        if self._rest:
            raise RecordError("state.bin ends in the middle of a record")


def _usual(data: bytes, start: int, stop: int) -> tuple[str, bytes] | None:
    """The record at start:stop when it is a short key and a value of less than 2 MiB in this order, else None."""
    if stop - start < 2 or data[start] != 0x0A or data[start + 1] >= 0x80:
        return None
    middle = start + 2 + data[start + 1]
    if middle + 4 >= stop or data[middle] != 0x12:
        return None
    length, position = data[middle + 1], middle + 2
    if length >= 0x80:
        length += (data[position] << 7) - 0x80
        position += 1
        if length >= 0x4000:
            length += (data[position] << 14) - 0x4000
            position += 1
    if position + length != stop:
        return None
    try:
        return data[start + 2 : middle].decode("utf-8"), data[position:stop]
    except UnicodeDecodeError:
        return None


def decode_entries(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Every (key, value) of a state.bin, read piece by piece. Raises RecordError."""
    decoder = EntryDecoder()
    while data := stream.read(_CHUNK):
        yield from decoder.feed(data)
    decoder.finish()
