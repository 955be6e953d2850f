# SPDX-License-Identifier: Apache-2.0
"""Shamir secret sharing over GF(2^8) with the polynomial 0x11B, byte for byte as OpenBao does it (raft-api.md 6.3)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

SHARE_OVERHEAD = 1  # the x coordinate, last byte of a share


class ShamirError(ValueError):
    """The shares or the parameters cannot be used. The text names no share."""


def _tables() -> tuple[bytes, bytes]:
    exp = bytearray(510)
    log = bytearray(256)
    value = 1
    for power in range(255):
        exp[power] = exp[power + 255] = value
        log[value] = power
        doubled = value << 1
        value ^= doubled ^ 0x11B if doubled & 0x100 else doubled  # times the generator 3
    return bytes(exp), bytes(log)


_EXP, _LOG = _tables()


def multiply(a: int, b: int) -> int:
    """The product of two field elements (0..255)."""
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def divide(a: int, b: int) -> int:
    """The quotient of two field elements. Raises ShamirError when `b` is 0."""
    if not b:
        raise ShamirError("division by zero")
    return _EXP[_LOG[a] - _LOG[b] + 255] if a else 0


def split(secret: bytes, shares: int, threshold: int) -> list[bytes]:
    """Split `secret` (at least one byte) into `shares` parts (2..255), any `threshold` (2..shares) of which restore it.

    A part is one y byte per secret byte followed by one x byte. Raises ShamirError on impossible parameters.
    """
    if not secret:
        raise ShamirError("cannot split an empty secret")
    if not 2 <= threshold <= shares <= 255:
        raise ShamirError("parts and threshold must satisfy 2 <= threshold <= parts <= 255")
    xs = secrets.SystemRandom().sample(range(1, 256), shares)
    parts = [bytearray() for _ in xs]
    for byte in secret:
        coefficients = (byte, *secrets.token_bytes(threshold - 1))
        for x, part in zip(xs, parts, strict=True):
            value = 0
            for coefficient in reversed(coefficients):  # Horner
                value = multiply(value, x) ^ coefficient
            part.append(value)
    for x, part in zip(xs, parts, strict=True):
        part.append(x)
    return [bytes(part) for part in parts]


def combine(parts: Sequence[bytes]) -> bytes:
    """Interpolate at 0. A wrong set of parts yields garbage, not an error: the caller's cipher must notice.

    Raises ShamirError for fewer than two parts, unequal lengths, an x of 0 or the same x twice.
    """
    if len(parts) < 2:
        raise ShamirError("less than two parts cannot be used to reconstruct the secret")
    length = len(parts[0])
    if length < 2:
        raise ShamirError("parts must be at least two bytes")
    if any(len(part) != length for part in parts):
        raise ShamirError("all parts must be the same length")
    xs = [part[-1] for part in parts]
    if 0 in xs:
        raise ShamirError("invalid part: its last byte is zero")
    if len(set(xs)) != len(xs):
        raise ShamirError("duplicate part detected")
    weights = []
    for i, x in enumerate(xs):
        weight = 1
        for j, other in enumerate(xs):
            if i != j:
                weight = multiply(weight, divide(other, other ^ x))
        weights.append(weight)
    secret = bytearray()
    for index in range(length - 1):
        value = 0
        for part, weight in zip(parts, weights, strict=True):
            value ^= multiply(part[index], weight)
        secret.append(value)
    return bytes(secret)


def split_key(key: bytes, shares: int, threshold: int) -> list[bytes]:
    """Like `split`, but one share of one is the key itself, as OpenBao does it."""
    return [key] if shares == 1 else split(key, shares, threshold)


def combine_key(parts: Sequence[bytes], threshold: int) -> bytes:
    """The inverse of `split_key`: with a threshold of 1 the single part is the key."""
    return parts[0] if threshold == 1 else combine(parts)
