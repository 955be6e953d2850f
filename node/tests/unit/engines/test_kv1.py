# SPDX-License-Identifier: Apache-2.0
"""KV version 1 and cubbyhole."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.engines.cubbyhole import Cubbyhole
from holdfast.engines.kv1 import Kv1
from holdfast.engines.types import Call, EngineError
from holdfast.storage.inmem import InmemStorage


async def test_as_recorded(kv1: Any) -> None:
    assert await kv1("update", "a", v="one") == (204, None)
    assert await kv1("read", "a") == (200, {"v": "one"})
    assert await kv1("read", "none") == (404, None)
    assert await kv1("list", "") == (200, {"keys": ["a"]})
    assert await kv1("list", "none/") == (404, [])
    assert await kv1("update", "a") == (400, ["missing data fields"])
    assert await kv1("delete", "a") == (204, None)
    assert await kv1("delete", "a") == (204, None)
    assert await kv1("read", "a") == (404, None)
    assert (await kv1("read", ""))[0] == 405
    assert (await kv1("patch", "a", v=1))[0] == 405


async def test_listing_and_paging(kv1: Any) -> None:
    for path in ("a", "b/c", "b/d/e", "z"):
        await kv1("update", path, v=1)
    assert await kv1("list", "") == (200, {"keys": ["a", "b/", "z"]})
    assert await kv1("list", "b/") == (200, {"keys": ["c", "d/"]})
    assert await kv1("scan", "b/") == (200, {"keys": ["c", "d/e"]})
    assert await kv1("list", "", after="a", limit="1") == (200, {"keys": ["b/"]})


@pytest.mark.parametrize(
    ("data", "lease"),
    [
        ({"v": 1}, 2764800),
        ({"ttl": "1h"}, 3600),
        ({"lease": 30}, 30),
        ({"ttl": "x"}, 2764800),
        ({"ttl": None}, 2764800),
    ],
)
async def test_lease(storage: InmemStorage, data: dict[str, Any], lease: int) -> None:
    engine = Kv1(storage)
    await engine.handle(Call("update", "a", data))
    answer = await engine.handle(Call("read", "a"))
    assert answer is not None
    assert answer.lease_duration == lease


async def test_cubbyholes_are_private(storage: InmemStorage) -> None:
    engine = Cubbyhole(storage)
    await engine.handle(Call("update", "x/y", {"v": 1}, "alice"))
    answer = await engine.handle(Call("read", "x/y", {}, "alice"))
    assert answer is not None
    assert (answer.data, answer.lease_duration) == ({"v": 1}, 0)
    assert await engine.handle(Call("read", "x/y", {}, "bob")) is None
    assert engine.exists(Call("update", "x/y", {}, "alice"))
    assert not engine.exists(Call("update", "x/y", {}, "bob"))
    with pytest.raises(EngineError):
        await engine.handle(Call("list", "", {}, "bob"))
    assert engine.keys_of("alice") == ["alice/x/y"]
    await engine.handle(Call("delete", "x/y", {}, "alice"))
    assert engine.keys_of("alice") == []
