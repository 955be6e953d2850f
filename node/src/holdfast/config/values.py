# SPDX-License-Identifier: Apache-2.0
"""Reading single values of a configuration: durations, booleans, numbers, addresses. Raises ValueError."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_TRUE = {"true", "1", "t", "yes"}
_FALSE = {"false", "0", "f", "no"}


def duration(value: Any) -> float:
    """Seconds from a number of seconds, or a Go duration such as "1h30m", "500ms" or "10"."""
    if isinstance(value, bool):
        raise ValueError("a duration such as 30s, 5m or 1h is expected")
    if isinstance(value, int | float):
        return _positive(float(value))
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return _positive(float(text))
        if text and _DURATION.sub("", text) == "":
            return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    raise ValueError("a duration such as 30s, 5m or 1h is expected")


def _positive(seconds: float) -> float:
    if seconds < 0:
        raise ValueError("a duration must not be negative")
    return seconds


def boolean(value: Any) -> bool:
    """True or false, also written as "true", "false", 1 or 0 (OpenBao takes them all)."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false is expected")


def integer(value: Any) -> int:
    """A whole number, also as a string."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a whole number is expected")
    try:
        return int(value)
    except ValueError:
        raise ValueError("a whole number is expected") from None


def natural(value: Any) -> int:
    """A whole number that is not negative."""
    number = integer(value)
    if number < 0:
        raise ValueError("the number must not be negative")
    return number


def string(value: Any) -> str:
    """A text; numbers are taken as they are written."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError("a string is expected")


def host_port(value: str, default_port: int | None = None) -> tuple[str, int]:
    """("host", port) from "host:port" or "[ipv6]:port"; a name or address without port takes `default_port`."""
    text = value.strip()
    if "{{" in text:
        raise ValueError("address templates are not supported, write the address itself")
    try:
        parts = urlsplit("//" + text)
        port = parts.port
    except ValueError:
        raise ValueError("an address such as 10.0.0.1:8200 is expected") from None
    if not parts.hostname or parts.path or parts.query or "@" in parts.netloc:
        raise ValueError("an address such as 10.0.0.1:8200 is expected")
    if port is None:
        if default_port is None:
            raise ValueError("the port is missing, as in 10.0.0.1:8200")
        port = default_port
    return parts.hostname, port


def join_host_port(host: str, port: int) -> str:
    """The reverse of `host_port`; IPv6 addresses get their brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url(value: str, default_port: int) -> tuple[str, str, int]:
    """(scheme, host, port) of an advertised address such as https://10.0.0.1:8200; "host:port" is taken as https."""
    text = value.strip()
    if "{{" in text:
        raise ValueError("address templates are not supported, write the address itself")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "https", text
    if scheme not in ("http", "https"):
        raise ValueError("the address must begin with https:// or http://")
    host, port = host_port(rest.rstrip("/"), default_port)
    return scheme, host, port


def is_unspecified(host: str) -> bool:
    """True for 0.0.0.0 and ::, which nobody can connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
