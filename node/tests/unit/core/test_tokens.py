# SPDX-License-Identifier: Apache-2.0
"""Tokens: shapes, limits, descent, use counts and expiry."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from holdfast.core import tokens
from holdfast.storage.types import Put

DENIED = (403, {"errors": ["permission denied"]})


async def create(node: Any, body: dict[str, Any] | None = None, token: str | None = None) -> dict[str, Any]:
    status, answer = await node.call(
        "POST", "auth/token/create", {"policies": ["default"]} if body is None else body, token
    )
    assert status == 200, answer
    return {**answer["auth"], "warnings": answer["warnings"]}


async def alive(node: Any, token: str) -> bool:
    return (await node.call("GET", "auth/token/lookup-self", token=token))[0] == 200


async def test_root_as_recorded(dev: Any) -> None:
    _, body = await dev.call("GET", "auth/token/lookup-self")
    assert set(body["data"]) == {
        "accessor", "creation_time", "creation_ttl", "display_name", "entity_id", "expire_time", "explicit_max_ttl",
        "id", "meta", "num_uses", "orphan", "path", "policies", "ttl", "type",
    }  # fmt: skip
    assert body["data"]["id"] == dev.token
    assert body["data"]["policies"] == ["root"]
    assert body["data"]["expire_time"] is None
    assert await dev.call("POST", "auth/token/renew-self") == (400, {"errors": ["invalid lease ID"]})


async def test_create_as_recorded(dev: Any) -> None:
    auth = await create(dev, {"policies": ["ops"], "ttl": "1h", "meta": {"a": "b"}, "display_name": "ci job"})
    token, accessor = auth.pop("client_token"), auth.pop("accessor")
    assert auth == {
        "policies": ["default", "ops"],
        "token_policies": ["default", "ops"],
        "metadata": {"a": "b"},
        "lease_duration": 3600,
        "renewable": True,
        "entity_id": "",
        "token_type": "service",
        "orphan": False,
        "mfa_requirement": None,
        "num_uses": 0,
        "warnings": None,
    }
    _, body = await dev.call("POST", "auth/token/lookup", {"token": token})
    data = body["data"]
    assert (data["display_name"], data["path"], data["creation_ttl"]) == ("token-ci-job", "auth/token/create", 3600)
    assert data["expire_time"].endswith("Z")
    assert 3590 <= data["ttl"] <= 3600
    assert data["renewable"] is True
    _, body = await dev.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})
    assert (body["data"]["id"], body["data"]["accessor"]) == ("", accessor)
    assert accessor in (await dev.call("LIST", "auth/token/accessors"))[1]["data"]["keys"]


async def test_unknown_ones(dev: Any) -> None:
    assert await dev.call("POST", "auth/token/lookup", {"token": "s.no"}) == (403, {"errors": ["bad token"]})
    assert (await dev.call("POST", "auth/token/lookup-accessor", {"accessor": "no"}))[0] == 403
    assert (await dev.call("POST", "auth/token/revoke", {"token": "s.no"}))[0] == 204
    assert await dev.call("GET", "auth/token/lookup-self", token="s.no") == DENIED
    assert await dev.call("GET", "auth/token/lookup-self", token="") == DENIED
    assert (await dev.call("POST", "auth/token/lookup"))[1]["data"]["policies"] == ["root"]


async def test_children_die_with_the_parent_but_orphans_do_not(dev: Any) -> None:
    policy = 'path "auth/token/*" { capabilities = ["create", "update", "sudo"] }'
    await dev.call("PUT", "sys/policies/acl/maker", {"policy": policy})
    parent = (await create(dev, {"policies": ["maker"]}))["client_token"]
    child = (await create(dev, {}, parent))["client_token"]
    grandchild = (await create(dev, {}, child))["client_token"]
    orphan = (await create(dev, {"no_parent": True}, parent))["client_token"]
    _, body = await dev.call("POST", "auth/token/create-orphan", {"policies": ["default"]}, parent)
    second = body["auth"]
    assert second["orphan"] is True
    assert (await dev.call("PUT", "cubbyhole/x", {"a": "b"}, grandchild))[0] == 204
    assert (await dev.call("POST", "auth/token/revoke", {"token": parent}))[0] == 204
    for token in (parent, child, grandchild):
        assert not await alive(dev, token)
    for token in (orphan, second["client_token"]):
        assert await alive(dev, token)
    barrier = dev.core._opened.barrier
    assert len(list(barrier.scan(tokens.ID_PREFIX))) == 3
    assert len(list(barrier.scan(tokens.ACCESSOR_PREFIX))) == 3
    assert list(barrier.scan(tokens.PARENT_PREFIX)) == []
    assert barrier.list("logical/") == []


async def test_revoke_orphan_spares_the_children(dev: Any) -> None:
    policy = 'path "auth/token/*" { capabilities = ["create", "update"] }'
    await dev.call("PUT", "sys/policies/acl/maker", {"policy": policy})
    parent = (await create(dev, {"policies": ["maker"]}))["client_token"]
    child = (await create(dev, {}, parent))["client_token"]
    assert (await dev.call("POST", "auth/token/revoke-orphan", {"token": child}, parent))[0] == 403
    assert (await dev.call("POST", "auth/token/revoke-orphan", {"token": parent}))[0] == 204
    assert not await alive(dev, parent)
    _, body = await dev.call("GET", "auth/token/lookup-self", token=child)
    assert body["data"]["orphan"] is True


async def test_a_family_larger_than_one_batch(dev: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_BATCH", 400)
    policy = 'path "auth/token/*" { capabilities = ["create", "update"] }'
    await dev.call("PUT", "sys/policies/acl/maker", {"policy": policy})
    parent = (await create(dev, {"policies": ["maker"]}))["client_token"]
    for _ in range(5):
        await create(dev, {}, parent)
    assert (await dev.call("POST", "auth/token/revoke", {"token": parent}))[0] == 204
    barrier = dev.core._opened.barrier
    assert len(list(barrier.scan(tokens.ID_PREFIX))) == 1
    assert len(list(barrier.scan(tokens.ACCESSOR_PREFIX))) == 1
    assert list(barrier.scan(tokens.PARENT_PREFIX)) == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"policies": ["root"]}, "child policies must be subset of parent"),
        ({"policies": ["other"]}, "child policies must be subset of parent"),
        ({"no_parent": True}, "root or sudo privileges required to create orphan token"),
        ({"id": "mine"}, "root or sudo privileges required to specify token id"),
        ({"period": "1h"}, "root or sudo privileges required to create periodic token"),
        ({"ttl": "rubbish"}, "Field validation failed"),
        ({"ttl": "-1h"}, "ttl must not be negative"),
        ({"num_uses": -1}, "num_uses must not be negative"),
        ({"type": "batch"}, "only tokens of type service"),
    ],
)
async def test_limits_of_the_unprivileged(dev: Any, body: dict[str, Any], text: str) -> None:
    policy = 'path "auth/token/create" { capabilities = ["update"] }'
    await dev.call("PUT", "sys/policies/acl/maker", {"policy": policy})
    parent = (await create(dev, {"policies": ["maker"]}))["client_token"]
    status, answer = await dev.call("POST", "auth/token/create", body, parent)
    assert status == 400
    assert text in answer["errors"][0]


async def test_times(dev: Any) -> None:
    capped = await create(dev, {"policies": ["default"], "ttl": "1000h"})
    assert capped["lease_duration"] == 2764800
    assert "capped" in capped["warnings"][0]
    limited = await create(dev, {"policies": ["default"], "ttl": "2h", "explicit_max_ttl": "1h"})
    assert limited["lease_duration"] == 3600
    _, body = await dev.call("POST", "auth/token/renew", {"token": limited["client_token"], "increment": "5h"})
    assert 3595 <= body["auth"]["lease_duration"] <= 3600
    assert body["warnings"]
    periodic = await create(dev, {"policies": ["default"], "period": "30m"})
    assert periodic["lease_duration"] == 1800
    _, body = await dev.call("POST", "auth/token/renew-self", {"increment": "5h"}, periodic["client_token"])
    assert 1795 <= body["auth"]["lease_duration"] <= 1800
    fixed = await create(dev, {"policies": ["default"], "renewable": False})
    status, body = await dev.call("POST", "auth/token/renew-self", token=fixed["client_token"])
    assert (status, body["errors"]) == (400, ["lease is not renewable"])
    named = await create(dev, {"id": "my-own", "policies": ["default"]})
    assert named["client_token"] == "my-own"
    assert (await dev.call("POST", "auth/token/create", {"id": "my-own"}))[0] == 400


async def test_use_counts(dev: Any) -> None:
    token = (await create(dev, {"policies": ["default"], "num_uses": 2}))["client_token"]
    _, body = await dev.call("GET", "auth/token/lookup-self", token=token)
    assert body["data"]["num_uses"] == 1
    assert await alive(dev, token)
    assert not await alive(dev, token)
    assert len(list(dev.core._opened.barrier.scan(tokens.ID_PREFIX))) == 1


async def test_the_last_use_cannot_be_had_twice(dev: Any) -> None:
    token = (await create(dev, {"policies": ["default"], "num_uses": 3}))["client_token"]
    answers = await asyncio.gather(*(alive(dev, token) for _ in range(8)))
    assert sum(answers) == 3


async def test_expiry_on_use_and_by_the_sweep(dev: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = await create(dev, {"policies": ["default"], "ttl": "1h"})
    token, store = auth["client_token"], dev.core._opened.tokens
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    assert not await alive(dev, token)
    assert store.by_accessor(auth["accessor"]) is None
    store._due.set()  # what a push of a new expiry does; the hour itself has been skipped
    async with asyncio.timeout(5):
        while len(list(dev.core._opened.barrier.scan(tokens.ID_PREFIX))) > 1:
            await asyncio.sleep(0.01)
    assert await alive(dev, dev.token)


async def test_tokens_are_stored_salted_only(dev: Any) -> None:
    token = (await create(dev))["client_token"]
    barrier = dev.core._opened.barrier
    values = [barrier.get(key).value for key in barrier.scan("sys/token/")]
    assert not any(token.encode() in value for value in values)
    assert not any(token in key for key in barrier.scan(""))


async def test_foreign_entries_are_not_honoured(dev: Any) -> None:
    opened = dev.core._opened
    salted = opened.tokens.salted("s.foreign")
    await opened.barrier.commit([Put(tokens.ID_PREFIX + salted, b'{"id":"s.foreign","policies":["root"]}')])
    assert not await alive(dev, "s.foreign")
