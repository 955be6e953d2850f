# SPDX-License-Identifier: Apache-2.0
"""Seal blobs, seal configuration and keyring."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.barrier import blob, seal
from holdfast.barrier.keyring import BarrierError, Keyring


@given(st.binary(max_size=500))
def test_blob_round_trip(ciphertext: bytes) -> None:
    assert blob.decode(blob.encode(ciphertext)) == ciphertext


@given(st.binary(max_size=60))
def test_rubbish_is_refused_or_read_but_never_crashes(rubbish: bytes) -> None:
    try:
        assert isinstance(blob.decode(rubbish), bytes)
    except blob.BlobError:
        return


def test_other_fields_are_skipped() -> None:
    key_info = b"\x2a\x04\x1a\x02id"
    wrapped = b"\x20\x01"
    fixed = b"\x31" + bytes(8) + b"\x3d" + bytes(4)
    assert blob.decode(key_info + wrapped + fixed + blob.encode(b"abc")) == b"abc"
    with pytest.raises(blob.BlobError):
        blob.decode(key_info)


def test_seal_round_trip_and_wrong_key() -> None:
    kek, other = random.randbytes(32), random.randbytes(32)
    sealed = seal.encrypt(kek, b"plain")
    assert seal.decrypt(kek, sealed) == b"plain"
    with pytest.raises(seal.SealError, match="message authentication failed"):
        seal.decrypt(other, sealed)
    with pytest.raises(seal.SealError, match="invalid key size 33"):
        seal.decrypt(other + b"x", sealed)
    with pytest.raises(seal.SealError):
        seal.decrypt(kek, blob.encode(b"short"))


def test_root_key_travels_sealed() -> None:
    kek, root = random.randbytes(32), random.randbytes(32)
    assert seal.open_root_key(kek, seal.seal_root_key(kek, root)) == root
    for rubbish in (b"{}", b"[]", b"[5]", b'["!"]', b"no json", b'["YWJj"]'):
        with pytest.raises(seal.SealError):
            seal.open_root_key(kek, seal.encrypt(kek, rubbish))


def test_seal_config_round_trip() -> None:
    config = seal.SealConfig(5, 3)
    assert seal.SealConfig.from_bytes(config.to_bytes()) == config
    assert json.loads(config.to_bytes())["type"] == "shamir"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"type":"shamir","secret_shares":1,"secret_threshold":2}',
        b'{"type":"shamir","secret_shares":true,"secret_threshold":1}',
        b'{"type":1,"secret_shares":1,"secret_threshold":1}',
    ],
)
def test_bad_seal_config(value: bytes) -> None:
    with pytest.raises(seal.SealError):
        seal.SealConfig.from_bytes(value)


def test_keyring_round_trip() -> None:
    keyring = Keyring.generate()
    opened = Keyring.open(keyring.root_key, keyring.seal())
    assert opened.keys == keyring.keys
    assert opened.root_key == keyring.root_key
    assert opened.active_term == 1
    assert keyring.seal()[:5] == b"\x00\x00\x00\x01\x02"


def test_keyring_under_another_root_key() -> None:
    with pytest.raises(BarrierError):
        Keyring.open(random.randbytes(32), Keyring.generate().seal())
    with pytest.raises(BarrierError):
        Keyring.open(random.randbytes(32), b"short")
