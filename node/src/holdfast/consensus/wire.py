# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes: msgpack arrays `[kind, field…]`, checked field by field. Nothing is executed, nothing is pickled."""

from __future__ import annotations

from typing import Any

import msgpack

from holdfast.consensus import types as t

MAX_FRAME = 48 * 1024 * 1024  # one frame on the cluster port; also bounds a forwarded request
MAX_NUMBER = 1 << 62  # of terms, indexes and offsets: what is derived from them must still fit into 64 bits

_KINDS: dict[int, tuple[type[Any], tuple[type, ...]]] = {
    1: (t.Append, (int, int, int, int, int, list)),
    2: (t.Heartbeat, (int, int)),
    3: (t.Ack, (int, int, bool, int, int)),
    4: (t.HeartbeatAck, (int, int, int, int, int, bool, bool)),
    5: (t.PreVote, (int, int, int)),
    6: (t.PreVoteReply, (int, int, bool)),
    7: (t.Vote, (int, int, int, bool)),
    8: (t.VoteReply, (int, bool)),
    9: (t.TimeoutNow, (int,)),
    10: (t.Chunk, (str, int, str, int, bytes, int)),
    11: (t.ChunkAck, (str, int, bool)),
    12: (t.Install, (int, int, list)),
    13: (t.Pull, (str, str, int)),
    14: (t.Removed, (int, int)),
}
_NUMBERS: dict[type[Any], int] = {cls: number for number, (cls, _) in _KINDS.items()}


class WireError(Exception):
    """Bytes from the network that are not a message."""


def encode(message: t.Message) -> bytes:
    """The bytes of `message` (without a frame)."""
    packed: bytes = msgpack.packb((_NUMBERS[type(message)], *message))
    return packed


def decode(data: bytes | memoryview) -> t.Message:
    """The message in `data`. Raises WireError for anything that is not exactly one well-typed message."""
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException, TypeError, OverflowError) as error:
        raise WireError(f"not msgpack: {type(error).__name__}") from None
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], int):
        raise WireError("not a message")
    kind = _KINDS.get(fields[0])
    if kind is None:
        raise WireError(f"unknown message kind {fields[0]}")
    cls, kinds = kind
    values = fields[1:]
    if len(values) != len(kinds):
        raise WireError(f"{cls.__name__} with {len(values)} fields")
    for value, wanted in zip(values, kinds, strict=True):
        if type(value) is not wanted or (isinstance(value, int) and not 0 <= value <= MAX_NUMBER):
            raise WireError(f"{cls.__name__} with a field of the wrong type")
    if cls is t.Append:
        values[5] = _entries(values[5], values[0], values[2])
    message: t.Message = cls(*values)
    return message


def _entries(raw: list[Any], leader_term: int, prev_index: int) -> list[t.Entry]:
    """The entries of an Append: they follow `prev_index` without a gap, and none is of a later term than the leader's."""
    entries = []
    for number, item in enumerate(raw, prev_index + 1):
        if type(item) is not list or len(item) != 3:
            raise WireError("Append with a malformed entry")
        command, index, term = item
        if type(command) is not bytes or not command or type(index) is not int or type(term) is not int:
            raise WireError("Append with a malformed entry")
        if index != number or not 0 <= term <= leader_term:
            raise WireError("Append with entries that cannot follow each other")
        entries.append(t.Entry(command, index, term))
    return entries
