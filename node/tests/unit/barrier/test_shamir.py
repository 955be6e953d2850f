# SPDX-License-Identifier: Apache-2.0
"""Shamir sharing: field laws, every sufficient subset, and the refusals."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.barrier import shamir

elements = st.integers(0, 255)


def _slow_multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11B
        b >>= 1
    return product


@given(elements, elements, elements)
def test_multiplication_is_that_of_the_field(a: int, b: int, c: int) -> None:
    assert shamir.multiply(a, b) == _slow_multiply(a, b) == shamir.multiply(b, a)
    assert shamir.multiply(a, b ^ c) == shamir.multiply(a, b) ^ shamir.multiply(a, c)
    if b:
        assert shamir.multiply(shamir.divide(a, b), b) == a


@settings(max_examples=60, deadline=None)
@given(st.data(), st.binary(min_size=1, max_size=40))
def test_any_threshold_of_parts_restores_the_secret(data: st.DataObject, secret: bytes) -> None:
    shares = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, shares))
    parts = shamir.split(secret, shares, threshold)
    chosen = data.draw(st.permutations(parts))[:threshold]
    assert shamir.combine(chosen) == secret
    assert shamir.combine(parts) == secret
    assert all(len(part) == len(secret) + 1 for part in parts)
    assert len({part[-1] for part in parts}) == shares


def test_every_subset_of_three_of_five() -> None:
    secret = random.randbytes(32)
    parts = shamir.split(secret, 5, 3)
    assert all(shamir.combine(chosen) == secret for chosen in itertools.combinations(parts, 3))
    assert all(shamir.combine(chosen) != secret for chosen in itertools.combinations(parts, 2))


def test_the_largest_number_of_shares() -> None:
    secret = random.randbytes(32)
    parts = shamir.split(secret, 255, 255)
    assert shamir.combine(parts) == secret


def test_one_share_is_the_key_itself() -> None:
    assert shamir.split_key(b"k" * 32, 1, 1) == [b"k" * 32]
    assert shamir.combine_key([b"k" * 32], 1) == b"k" * 32


@pytest.mark.parametrize(("shares", "threshold"), [(1, 1), (3, 4), (256, 2), (3, 1), (0, 0)])
def test_impossible_parameters(shares: int, threshold: int) -> None:
    with pytest.raises(shamir.ShamirError):
        shamir.split(b"secret", shares, threshold)


@pytest.mark.parametrize(
    "parts",
    [[], [b"ab"], [b"abc", b"ab"], [b"a\x01", b"b\x01"], [b"a\x00", b"b\x01"], [b"a", b"b"]],
)
def test_unusable_parts(parts: list[bytes]) -> None:
    with pytest.raises(shamir.ShamirError):
        shamir.combine(parts)


def test_empty_secret_and_division_by_zero() -> None:
    with pytest.raises(shamir.ShamirError):
        shamir.split(b"", 3, 2)
    with pytest.raises(shamir.ShamirError):
        shamir.divide(1, 0)
