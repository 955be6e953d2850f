# SPDX-License-Identifier: Apache-2.0
"""How engines store values: compact JSON in UTF-8. Encoder and decoder are made once; every secret passes here."""

from __future__ import annotations

from json import JSONDecoder, JSONEncoder
from typing import Any

_encode = JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode
_decode = JSONDecoder().decode


def encode(value: Any) -> bytes:
    """The stored form of a JSON value. Half a surrogate pair, which JSON can spell, becomes U+FFFD, as in Go."""
    text = _encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def decode(stored: bytes) -> Any:
    """The inverse of `encode`. Raises ValueError for anything else."""
    return _decode(stored.decode())
