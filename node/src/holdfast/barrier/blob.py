# SPDX-License-Identifier: Apache-2.0
"""The seal's envelope: protobuf BlobInfo of go-kms-wrapping v2, read and written by hand (raft-api.md 6.3).

BlobInfo: ciphertext=1, iv=2, hmac=3, wrapped=4, key_info=5. The Shamir seal uses the ciphertext only (12-byte IV, then
GCM output) and sometimes a key_info; fields that it has no use for are skipped.
"""

from __future__ import annotations

_CIPHERTEXT = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class BlobError(ValueError):
    """The bytes are no BlobInfo."""


def encode(ciphertext: bytes) -> bytes:
    """A BlobInfo that holds `ciphertext`."""
    return bytes([_CIPHERTEXT << 3 | _BYTES]) + _encode_varint(len(ciphertext)) + ciphertext


def decode(blob: bytes) -> bytes:
    """The ciphertext inside a BlobInfo. Raises BlobError when the bytes are malformed or hold none."""
    ciphertext: bytes | None = None
    position = 0
    while position < len(blob):
        tag, position = _decode_varint(blob, position)
        field, kind = tag >> 3, tag & 7
        if field == 0:
            raise BlobError("invalid field number")
        if kind == _VARINT:
            _, position = _decode_varint(blob, position)
            continue
        if kind == _BYTES:
            size, position = _decode_varint(blob, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise BlobError("invalid wire type")
        if size > len(blob) - position:
            raise BlobError("truncated")
        if field == _CIPHERTEXT and kind == _BYTES:
            ciphertext = blob[position : position + size]
        position += size
    if ciphertext is None:
        raise BlobError("no ciphertext")
    return ciphertext


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise BlobError("truncated or oversized number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
