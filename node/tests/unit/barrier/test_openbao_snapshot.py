# SPDX-License-Identifier: Apache-2.0
"""A snapshot of a real OpenBao 2.6.2 opens with its shares: our formats are its formats."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest

from holdfast.barrier import seal, shamir
from holdfast.barrier.barrier import Barrier
from holdfast.barrier.keyring import Keyring
from holdfast.storage.inmem import InmemStorage
from holdfast.storage.types import Put


def test_any_three_shares_verify_the_archive(archive: dict[str, bytes], facts: dict[str, Any]) -> None:
    shares = [bytes.fromhex(key) for key in facts["keys"]]
    for chosen in itertools.combinations(shares, facts["threshold"]):
        kek = shamir.combine_key(chosen, facts["threshold"])
        assert seal.decrypt(kek, archive["SHA256SUMS.sealed"]) == archive["SHA256SUMS"]
    with pytest.raises(seal.SealError):
        seal.decrypt(shamir.combine(shares[:2]), archive["SHA256SUMS.sealed"])


async def test_the_whole_chain_down_to_a_secret(entries: dict[str, bytes], facts: dict[str, Any]) -> None:
    storage = InmemStorage()
    await storage.commit([Put(key, value) for key, value in entries.items()])
    config = seal.SealConfig.from_bytes(entries[seal.SEAL_CONFIG_KEY])
    assert (config.shares, config.threshold) == (5, 3)
    kek = shamir.combine([bytes.fromhex(key) for key in facts["keys"][2:]])
    root_key = seal.open_root_key(kek, entries[seal.UNSEAL_KEYS_KEY])
    barrier = Barrier(storage)
    barrier.open(Keyring.open(root_key, entries["core/keyring"]))
    mounts = [json.loads(barrier.get(key).value) for key in barrier.scan("core/mounts/")]  # type: ignore[union-attr]
    kv1 = next(mount for mount in mounts if mount["path"] == "kv1/")
    for name, secret in facts["kv_v1"]["secrets"].items():
        item = barrier.get(f"logical/{kv1['uuid']}/{name}")
        assert item is not None
        assert json.loads(item.value) == secret
    kek_item = barrier.get("core/shamir-kek")
    assert kek_item is not None
    assert kek_item.value == kek
    root_item = barrier.get("core/root-key")
    assert root_item is not None
    assert base64.b64decode(json.loads(root_item.value)["Value"]) == root_key
