# SPDX-License-Identifier: Apache-2.0
"""Records of state.bin."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.state.records import EntryDecoder, RecordError, decode_entries, encode_entry, encoded_size

ENTRIES = st.lists(st.tuples(st.text(max_size=300), st.binary(max_size=400)), max_size=8)


@given(ENTRIES, st.integers(1, 500))
def test_round_trip_in_any_pieces(entries: list[tuple[str, bytes]], piece: int) -> None:
    data = b"".join(encode_entry(key, value) for key, value in entries)
    assert len(data) == sum(encoded_size(key, value) for key, value in entries)
    assert list(decode_entries(io.BytesIO(data))) == entries
    decoder, found = EntryDecoder(), []
    for start in range(0, len(data), piece):
        found += decoder.feed(data[start : start + piece])
    decoder.finish()
    assert found == entries


@given(st.binary(max_size=300))
def test_garbage(data: bytes) -> None:
    try:
        for key, value in decode_entries(io.BytesIO(data)):
            assert isinstance(key, str)
            assert isinstance(value, bytes)
    except RecordError:
        pass


def test_known_bytes() -> None:
    assert encode_entry("a", b"bc") == b"\x07\x0a\x01a\x12\x02bc"
    assert encode_entry("", b"") == b"\x00"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",  # a length that is cut off
        b"\x05\x0a\x01a",  # a record that is cut off
        b"\x03\x0a\x05a",  # a key longer than its record
        b"\x02\x22\x00",  # an unknown field
        b"\xff\xff\xff\xff\x7f",  # a record of 32 GiB
        b"\xff" * 12,
        b"\x03\x0a\x01\xff",  # a key that is no UTF-8
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        list(decode_entries(io.BytesIO(data)))


def test_seal_wrap_field_is_skipped() -> None:
    assert list(decode_entries(io.BytesIO(b"\x08\x0a\x01a\x12\x01b\x18\x01"))) == [("a", b"b")]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 126, 127, 128, 129, 16383, 16384, 2097151, 2097152, 2097153])
@pytest.mark.parametrize("key", ["", "k", "k" * 127, "k" * 128, "schlüssel"])
def test_lengths_at_the_edges(size: int, key: str) -> None:
    entries = [(key, bytes(size)), ("next", b"x")]
    data = b"".join(encode_entry(name, value) for name, value in entries)
    assert list(decode_entries(io.BytesIO(data))) == entries
    assert len(data) == sum(encoded_size(name, value) for name, value in entries)
