# SPDX-License-Identifier: Apache-2.0
"""The barrier on the in-memory storage."""

from __future__ import annotations

import pytest

from holdfast.barrier.barrier import Barrier, BarrierSealed
from holdfast.barrier.keyring import BarrierError, Keyring
from holdfast.storage.inmem import InmemStorage
from holdfast.storage.types import Delete, PreconditionFailed, Put


@pytest.fixture
def storage() -> InmemStorage:
    return InmemStorage()


@pytest.fixture
def barrier(storage: InmemStorage) -> Barrier:
    barrier = Barrier(storage)
    barrier.open(Keyring.generate())
    return barrier


async def test_storage_sees_ciphertext_only(barrier: Barrier, storage: InmemStorage) -> None:
    revision = await barrier.commit([Put("a/b", b"plaintext")])
    stored = storage.get("a/b")
    assert stored is not None
    assert b"plaintext" not in stored.value
    item = barrier.get("a/b")
    assert item is not None
    assert (item.value, item.revision) == (b"plaintext", revision)
    assert barrier.encryptions == 1


async def test_a_value_moved_to_another_key_does_not_open(barrier: Barrier, storage: InmemStorage) -> None:
    await barrier.commit([Put("a", b"1")])
    stored = storage.get("a")
    assert stored is not None
    await storage.commit([Put("b", stored.value)])
    with pytest.raises(BarrierError, match="authentication"):
        barrier.get("b")


@pytest.mark.parametrize(
    "value", [b"", b"\x00" * 33, b"\x00\x00\x00\x09\x02" + bytes(40), b"\x00\x00\x00\x01\x02" + bytes(40)]
)
async def test_damaged_values(barrier: Barrier, storage: InmemStorage, value: bytes) -> None:
    await storage.commit([Put("a", value)])
    with pytest.raises(BarrierError):
        barrier.get("a")


async def test_preconditions_hold_for_the_whole_batch(barrier: Barrier) -> None:
    revision = await barrier.commit([Put("a", b"1")], {"a": 0})
    with pytest.raises(PreconditionFailed):
        await barrier.commit([Put("b", b"2"), Delete("a")], {"a": revision + 1})
    assert barrier.get("b") is None
    await barrier.commit([Put("b", b"2"), Delete("a")], {"a": revision})
    assert barrier.get("a") is None


async def test_view_is_relative(barrier: Barrier) -> None:
    view = barrier.view("logical/x/")
    revision = await view.commit([Put("k", b"1"), Put("d/e", b"2")], {"k": 0})
    assert view.list("") == ["d/", "k"]
    assert list(view.scan("")) == ["d/e", "k"]
    assert barrier.get("logical/x/k") == view.get("k")
    with pytest.raises(PreconditionFailed):
        await view.commit([Delete("k")], {"k": revision + 7})
    await view.commit([Delete("k")], {"k": revision})
    assert view.get("k") is None


async def test_closed(barrier: Barrier) -> None:
    await barrier.commit([Put("a", b"1")])
    barrier.close()
    assert not barrier.is_open()
    with pytest.raises(BarrierSealed, match="Vault is sealed"):
        barrier.get("a")
    with pytest.raises(BarrierSealed):
        await barrier.commit([Put("a", b"1")])
