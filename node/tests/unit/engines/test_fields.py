# SPDX-License-Identifier: Apache-2.0
"""Go durations and lenient fields."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engines import fields
from holdfast.engines.types import EngineError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(15, 15), ("15", 15), ("15s", 15), ("1h30m", 5400), ("-1s", -1), ("250ms", 0.25), ("7d", 604800), ("", 0),
     (None, 0), ("1.5h", 5400), ("3us", 3e-6)],
)  # fmt: skip
def test_durations(value: Any, seconds: float) -> None:
    assert fields.parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["rubbish", "1h-", "h", "1 h", True, "9" * 30, "٣s", "1e9s"])
def test_bad_durations(value: Any) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        fields.parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (86400, "24h0m0s"), (10, "10s"), (90, "1m30s"), (1.775786878, "1.775786878s"), (0.25, "250ms"),
     (-1e-9, "-1ns"), (0.0015, "1.5ms"), (3e-6, "3µs")],
)  # fmt: skip
def test_formats(seconds: float, text: str) -> None:
    assert fields.format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_round_trip(microseconds: int) -> None:
    seconds = microseconds / 10**6
    assert fields.parse_duration(fields.format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


def test_lenient_types() -> None:
    data = {"s": 5, "b": "true", "i": "7", "l": "a, b,", "m": {"k": 1}}
    assert fields.string(data, "s") == "5"
    assert fields.boolean(data, "b") is True
    assert fields.integer(data, "i") == 7
    assert fields.strings(data, "l") == ["a", "b"]
    assert fields.string_mapping(data, "m") == {"k": "1"}
    assert fields.strings(data, "none") is None


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (fields.string, []),
        (fields.boolean, "maybe"),
        (fields.integer, "x"),
        (fields.integer, 1.5),
        (fields.natural, -1),
        (fields.strings, {"a": 1}),
        (fields.mapping, []),
        (fields.string_mapping, {"a": []}),
        (fields.duration, []),
    ],
)
def test_wrong_types(read: Any, value: Any) -> None:
    with pytest.raises(EngineError) as error:
        read({"field": value}, "field")
    assert error.value.status == 400
    assert "field" in error.value.errors[0]
