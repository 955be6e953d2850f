# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes: what goes in comes out, and anything else is a WireError."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus import types as t
from holdfast.consensus import wire
from holdfast.consensus.transport import Hello

NUMBERS = st.integers(0, wire.MAX_NUMBER)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "ok": st.booleans(),
    "eligible": st.booleans(),
    "writable": st.booleans(),
    "granted": st.booleans(),
    "transfer": st.booleans(),
    "complete": st.booleans(),
    "file": st.text(max_size=30),
    "sha256": st.text(max_size=64),
    "data": st.binary(max_size=100),
    "snapshot": st.lists(st.integers(0, 9), max_size=4),
    "entries": st.just([]),
}


@st.composite
def messages(draw: st.DrawFn) -> t.Message:
    cls = draw(st.sampled_from(get_args(t.Message)))
    message: Any = cls(*(draw(FIELDS.get(name, NUMBERS)) for name in cls._fields))
    if isinstance(message, t.Append):
        prev = min(message.prev_index, wire.MAX_NUMBER - 5)
        commands = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
        terms = st.integers(0, message.term)
        entries = [t.Entry(c, prev + 1 + i, draw(terms)) for i, c in enumerate(commands)]
        return message._replace(prev_index=prev, entries=entries)
    return message  # type: ignore[no-any-return]


@settings(max_examples=400, deadline=None)
@given(messages())
def test_round_trip(message: t.Message) -> None:
    again = wire.decode(wire.encode(message))
    assert again == message
    assert type(again) is type(message)


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    try:
        message = wire.decode(data)
    except wire.WireError:
        return
    assert wire.decode(wire.encode(message)) == message


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=800, deadline=None)
@given(st.integers(0, 20), st.lists(ANYTHING, max_size=7))
def test_any_msgpack_is_a_message_or_a_wire_error(kind: int, fields: list[Any]) -> None:
    try:
        message = wire.decode(msgpack.packb([kind, *fields]))
    except wire.WireError:
        return
    assert all(0 <= f <= wire.MAX_NUMBER for f in message if isinstance(f, int))


@settings(max_examples=400, deadline=None)
@given(messages(), st.data())
def test_a_flipped_byte_or_a_cut_is_a_message_or_a_wire_error(message: t.Message, data: st.DataObject) -> None:
    raw = bytearray(wire.encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    with contextlib.suppress(wire.WireError):
        assert isinstance(wire.decode(bytes(raw)), get_args(t.Message))


@pytest.mark.parametrize(
    "fields",
    [
        [2, -1, 0],
        [2, 2**63, 0],
        [2, True, 0],
        [2, 1.0, 0],
        [2, 1],
        [2, 1, 1, 1],
        [99, 1],
        [],
        {},
        "x",
        [1, 5, 1, 3, 1, 1, [[b"", 4, 1]]],
        [1, 5, 1, 3, 1, 1, [[b"\x00", 5, 1]]],  # a gap
        [1, 5, 1, 3, 1, 1, [[b"\x00", 4, 6]]],  # a term beyond the leader's
        [1, 5, 1, 3, 1, 1, [[b"\x00", 4, -1]]],
        [1, 5, 1, 3, 1, 1, [[b"\x00", 2**60, 1]]],
        [1, 5, 1, 3, 1, 1, [[b"\x00", 4]]],
        [1, 5, 1, 3, 1, 1, ["x"]],
    ],
)
def test_refused(fields: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(msgpack.packb(fields))


def test_deep_nesting_and_huge_lengths_cost_nothing() -> None:
    for data in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc1"):
        with pytest.raises(wire.WireError):
            wire.decode(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100) | st.lists(ANYTHING, max_size=8).map(msgpack.packb))
def test_any_hello_is_one_or_a_wire_error(data: bytes) -> None:
    try:
        hello = Hello.unpack(data)
    except wire.WireError:
        return
    assert Hello.unpack(hello.pack()) == hello


# --- what is packed inside messages and records ---

MEMBERS = st.builds(
    t.Member, st.text(min_size=1, max_size=8), st.text(max_size=8), st.sampled_from(t.Role), st.integers(1, 9)
)
CONFIGURATIONS = st.builds(
    t.Configuration,
    st.text(max_size=8),
    st.lists(MEMBERS, max_size=4).map(tuple),
    st.lists(st.text(max_size=8), max_size=2).map(tuple),
    st.lists(st.text(max_size=8), max_size=3).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(CONFIGURATIONS, st.integers(0, 2**40), st.integers(0, 2**40))
def test_configurations_and_snapshots_round_trip(configuration: t.Configuration, index: int, term: int) -> None:
    assert t.Configuration.unpack(configuration.pack()) == configuration
    snapshot = t.Snapshot(index, term, "snap-1.state", 5, "ab", configuration, index)
    assert t.Snapshot.unpack(msgpack.unpackb(msgpack.packb(snapshot.pack()))) == snapshot


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=80) | ANYTHING.map(msgpack.packb) | st.lists(ANYTHING, max_size=4).map(msgpack.packb))
def test_other_bytes_are_no_configuration(data: bytes) -> None:
    try:
        found = t.Configuration.unpack(data)
    except ValueError:
        return
    assert isinstance(found, t.Configuration)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANYTHING, max_size=8) | ANYTHING)
def test_other_fields_are_no_snapshot(fields: Any) -> None:
    try:
        found = t.Snapshot.unpack(fields)
    except ValueError:
        return
    assert isinstance(found, t.Snapshot)
