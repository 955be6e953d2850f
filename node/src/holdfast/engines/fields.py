# SPDX-License-Identifier: Apache-2.0
"""Typed access to request fields, as lenient as OpenBao's schema decoder, and Go durations (raft-api.md 0.1, 1.10)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from holdfast.engines.types import EngineError

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DAYS = re.compile(r"([0-9]+)d")
_MAX_SECONDS = 2**63 / 10**9  # a Go duration is an int64 of nanoseconds
_TRUE = {"1", "t", "true"}
_FALSE = {"0", "f", "false", ""}


def parse_duration(value: Any) -> float:
    """Seconds of an integer (seconds), a digit string, a Go duration ("1h30m", "-1s") or days ("7d").

    Raises ValueError with Go's text for anything else.
    """
    if value is None or value == "":
        return 0.0
    if isinstance(value, bool):
        raise ValueError(f'time: invalid duration "{value}"')
    if isinstance(value, int | float):
        return _bounded(float(value), value)
    text = str(value).strip()
    sign = -1 if text.startswith("-") else 1
    body = text.lstrip("+-")
    if body.isascii() and body.isdigit():
        return _bounded(sign * float(body), text)
    if days := _DAYS.fullmatch(body):
        return _bounded(sign * float(days[1]) * 86400, text)
    total, position = 0.0, 0
    while part := _PART.match(body, position):
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not position or position != len(body):
        raise ValueError(f'time: invalid duration "{text}"')
    return _bounded(sign * total / 10**9, text)


def _bounded(seconds: float, text: Any) -> float:
    if not -_MAX_SECONDS < seconds < _MAX_SECONDS:
        raise ValueError(f'time: invalid duration "{text}"')
    return seconds


def format_duration(seconds: float) -> str:
    """Go's text of a duration: "24h0m0s", "1.5s", "250ms", "0s"."""
    nanoseconds = round(seconds * 10**9)
    if not nanoseconds:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 1_000:
        return f"{sign}{rest}ns"
    for unit, size in (("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        text = f"{hours}h{minutes}m{text}"
    elif minutes:
        text = f"{minutes}m{text}"
    return sign + text


def _decimal(value: int, size: int) -> str:
    whole, fraction = divmod(value, size)
    digits = str(fraction).zfill(len(str(size)) - 1).rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def invalid(name: str, reason: str) -> EngineError:
    """The 400 for a field of the wrong type."""
    return EngineError(400, f'Field validation failed: error converting input for field "{name}": {reason}')


def string(data: Mapping[str, Any], name: str, default: str = "") -> str:
    """A text field; numbers and booleans become text. Raises EngineError 400."""
    value = data.get(name)
    if value is None:
        return default
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return str(value)
    raise invalid(name, f"'{name}' expected type 'string', got another type")


def boolean(data: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A boolean field; 0, 1 and their texts are taken too. Raises EngineError 400."""
    value = data.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value != 0
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    raise invalid(name, f"'{name}' cannot be read as a boolean")


def integer(data: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A whole number; digit strings are taken too. Raises EngineError 400."""
    value = data.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,19}", value.strip(), re.ASCII):
        return int(value)
    raise invalid(name, f"'{name}' cannot be read as a whole number")


def natural(data: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A whole number of at least 0. Raises EngineError 400 naming the field (OpenBao would store nonsense)."""
    value = integer(data, name, default)
    if value < 0:
        raise EngineError(400, f"{name} must not be negative; received: {value}")
    return value


def duration(data: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    """Seconds of a duration field. Raises EngineError 400."""
    if data.get(name) is None:
        return default
    try:
        return parse_duration(data[name])
    except (ValueError, TypeError) as error:
        raise invalid(name, str(error)) from None


def strings(data: Mapping[str, Any], name: str) -> list[str] | None:
    """A list of texts, or a comma-separated text; None when the field is absent. Raises EngineError 400."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list) and all(isinstance(part, str | int | float) for part in value):
        return [str(part) for part in value]
    raise invalid(name, f"'{name}' expected a list of strings")


def mapping(data: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """An object field; None when absent. Raises EngineError 400."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, dict):
        return value
    raise invalid(name, f"'{name}' expected a map")


def string_mapping(data: Mapping[str, Any], name: str) -> dict[str, str] | None:
    """An object of texts; None when absent. Raises EngineError 400."""
    value = mapping(data, name)
    if value is None:
        return None
    if any(not isinstance(item, str | int | float) for item in value.values()):
        raise invalid(name, f"'{name}' expected a map of strings")
    return {key: string(value, key) for key in value}
