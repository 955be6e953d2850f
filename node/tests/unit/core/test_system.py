# SPDX-License-Identifier: Apache-2.0
"""Mounts, policies, capabilities and routing as recorded from OpenBao 2.6.2."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from holdfast.core.types import ApiError, Operation, Request
from holdfast.storage.types import EntryTooLarge, NoSpace, NotLeader, OutcomeUnknown, PreconditionFailed

WRAPPED = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}


async def limited(node: Any, policy: str, name: str = "ops") -> str:
    assert (await node.call("PUT", f"sys/policies/acl/{name}", {"policy": policy}))[0] == 204
    _, body = await node.call("POST", "auth/token/create", {"policies": [name]})
    token: str = body["auth"]["client_token"]
    return token


async def test_mounts_as_recorded(leader: Any) -> None:
    _, body = await leader.call("GET", "sys/mounts")
    assert set(body["data"]) == {"cubbyhole/", "identity/", "sys/"}
    assert body["sys/"] == body["data"]["sys/"]
    assert (await leader.call("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}))[0] == 204
    status, body = await leader.call("POST", "sys/mounts/secret", {"type": "kv"})
    assert (status, body) == (400, {"errors": ["path is already in use at secret/"]})
    assert (await leader.call("POST", "sys/mounts/kv1", {"type": "kv", "description": "old"}))[0] == 204
    assert (await leader.call("POST", "sys/mounts/alias", {"type": "kv-v2"}))[0] == 204
    _, body = await leader.call("GET", "sys/mounts/secret")
    info = body["data"]
    assert set(info) == {
        "accessor", "config", "deprecation_status", "description", "external_entropy_access", "local", "options",
        "plugin_version", "running_plugin_version", "running_sha256", "seal_wrap", "type", "uuid",
    }  # fmt: skip
    assert info["options"] == {"version": "2"}
    assert info["config"] == {"default_lease_ttl": 0, "force_no_cache": False, "max_lease_ttl": 0}
    _, body = await leader.call("GET", "sys/internal/ui/mounts/secret")
    assert body["data"] == {**info, "path": "secret/"}
    _, body = await leader.call("GET", "sys/internal/ui/mounts/alias/data/x")
    assert (body["data"]["path"], body["data"]["options"]) == ("alias/", {"version": "2"})
    assert (await leader.call("GET", "sys/mounts/none"))[1] == {"errors": ["No secret engine mount at none/"]}


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("x", {}, "backend type must be specified"),
        ("x", {"type": "pki"}, "plugin not found in the catalog: pki"),
        ("x", {"type": "kv", "options": {"version": "3"}}, "invalid version"),
        ("x", {"type": "system"}, "is not mountable"),
        ("sys", {"type": "kv"}, 'cannot mount "sys/"'),
        ("auth/x", {"type": "kv"}, 'cannot mount "auth/x/"'),
        ("secret/below", {"type": "kv"}, "path is already in use at secret/"),
        ("a*", {"type": "kv"}, "cannot be the path of a mount"),
        ("x", {"type": "kv", "config": {"default_lease_ttl": "2h", "max_lease_ttl": "1h"}}, "must not be above"),
    ],
)
async def test_refused_mounts(dev: Any, path: str, body: dict[str, Any], text: str) -> None:
    before = (await dev.call("GET", "sys/mounts"))[1]["data"]
    status, answer = await dev.call("POST", f"sys/mounts/{path}", body)
    assert status == 400
    assert text in answer["errors"][0]
    assert (await dev.call("GET", "sys/mounts"))[1]["data"] == before


async def test_disable_deletes_the_data(dev: Any) -> None:
    await dev.call("POST", "secret/data/a", {"data": {"x": 1}})
    assert (await dev.call("DELETE", "sys/mounts/secret"))[0] == 204
    assert (await dev.call("DELETE", "sys/mounts/secret"))[0] == 204
    assert (await dev.call("GET", "secret/data/a"))[0] == 404
    assert dev.core._opened.barrier.list("logical/") == []
    assert (await dev.call("DELETE", "sys/mounts/sys"))[0] == 400
    assert (await dev.call("POST", "sys/mounts/secret", {"type": "kv-v2"}))[0] == 204
    assert (await dev.call("GET", "secret/data/a"))[0] == 404


async def test_tune(dev: Any) -> None:
    path = "sys/mounts/secret/tune"
    _, body = await dev.call("GET", path)
    assert body["data"]["default_lease_ttl"] == 2764800
    assert (await dev.call("POST", path, {"default_lease_ttl": "1h", "max_lease_ttl": "2h", "description": "d"}))[
        0
    ] == 204
    _, body = await dev.call("GET", path)
    assert (body["default_lease_ttl"], body["max_lease_ttl"], body["description"]) == (3600, 7200, "d")
    assert (await dev.call("POST", path, {"default_lease_ttl": "3h"}))[0] == 400
    status, body = await dev.call("POST", path, {"options": {"version": "1"}})
    assert status == 400
    assert "cannot be changed" in body["errors"][0]


async def test_policies_as_recorded(dev: Any) -> None:
    text = 'path "sys/storage/raft/configuration" { capabilities = ["read"] }'
    assert (await dev.call("PUT", "sys/policies/acl/Ops", {"policy": text}))[0] == 204
    _, body = await dev.call("GET", "sys/policies/acl/ops")
    modified = body["data"].pop("modified")
    assert modified.endswith("Z")
    assert body["data"] == {
        "allow_slashes_in_identity_templates": False,
        "allow_wildcards_in_identity_templates": False,
        "cas_required": False,
        "name": "ops",
        "policy": text,
        "version": 1,
    }
    assert (await dev.call("LIST", "sys/policies/acl"))[1]["data"] == {"keys": ["default", "ops", "root"]}
    status, body = await dev.call("PUT", "sys/policies/acl/bad", {"policy": "path {"})
    assert status == 400
    assert body["errors"][0].startswith("failed to parse policy: At 1:")
    assert (await dev.call("GET", "sys/policies/acl/bad"))[0] == 404
    _, body = await dev.call("GET", "sys/policy")
    assert body["keys"] == body["policies"] == body["data"]["policies"] == ["default", "ops", "root"]
    _, body = await dev.call("GET", "sys/policy/ops")
    assert (body["name"], body["rules"]) == ("ops", text)
    for method, name in (("PUT", "root"), ("DELETE", "root"), ("DELETE", "default")):
        assert (await dev.call(method, f"sys/policies/acl/{name}", {"policy": text}))[0] == 400
    assert (await dev.call("PUT", "sys/policies/acl/empty", {}))[0] == 400
    encoded = base64.b64encode(text.encode()).decode()
    assert (await dev.call("PUT", "sys/policy/b", {"policy": encoded}))[0] == 204
    assert (await dev.call("GET", "sys/policy/b"))[1]["rules"] == text
    status, _ = await dev.call("PUT", "sys/policies/acl/ops", {"policy": text, "cas": 7})
    assert status == 400
    assert (await dev.call("PUT", "sys/policies/acl/ops", {"policy": text, "cas": 1}))[0] == 204
    assert (await dev.call("DELETE", "sys/policies/acl/ops"))[0] == 204
    assert (await dev.call("GET", "sys/policies/acl/ops"))[0] == 404


async def test_a_token_limited_to_one_raft_path(leader: Any) -> None:
    token = await limited(leader, 'path "sys/storage/raft/configuration" { capabilities = ["read"] }')
    assert (await leader.call("GET", "sys/storage/raft/configuration", token=token))[0] == 200
    for path in ("secret/data/a", "sys/storage/raft/autopilot/state", "nowhere/x", "sys/nothing"):
        assert await leader.call("GET", path, token=token) == (403, WRAPPED)
    with pytest.raises(ApiError) as refused:
        await leader.core.authorize(Request(Operation.READ, "sys/storage/raft/snapshot", {}, token))
    assert refused.value.status == 403
    await leader.core.authorize(Request(Operation.READ, "sys/storage/raft/snapshot", {}, leader.token))


async def test_a_changed_policy_takes_effect_at_once(dev: Any) -> None:
    token = await limited(dev, 'path "secret/data/a" { capabilities = ["read", "create"] }')
    assert (await dev.call("POST", "secret/data/a", {"data": {"x": 1}}, token))[0] == 200
    assert (await dev.call("POST", "secret/data/a", {"data": {"x": 2}}, token))[0] == 403  # that is an update
    assert (await dev.call("GET", "secret/data/a", token=token))[0] == 200
    await dev.call("PUT", "sys/policies/acl/ops", {"policy": 'path "secret/data/a" { capabilities = ["deny"] }'})
    assert (await dev.call("GET", "secret/data/a", token=token))[0] == 403


async def test_capabilities(dev: Any) -> None:
    _, body = await dev.call("POST", "sys/capabilities-self", {"paths": ["secret/data/a"]})
    assert body["data"] == {"capabilities": ["root"], "secret/data/a": ["root"]}
    assert body["secret/data/a"] == ["root"]
    token = await limited(dev, 'path "secret/*" { capabilities = ["read", "list"] }')
    _, body = await dev.call("POST", "sys/capabilities", {"token": token, "paths": ["secret/x", "other"]})
    assert body["data"] == {"secret/x": ["list", "read"], "other": ["deny"]}
    assert (await dev.call("POST", "sys/capabilities", {"token": "s.no", "path": "x"}))[0] == 400
    assert (await dev.call("POST", "sys/capabilities-self", {}))[0] == 400


async def test_ui_mounts_and_rights(dev: Any) -> None:
    token = await limited(dev, 'path "secret/data/team/*" { capabilities = ["read"] }')
    assert (await dev.call("GET", "sys/internal/ui/mounts/secret/data/x", token=token))[0] == 200
    stranger = await limited(dev, 'path "other/*" { capabilities = ["read"] }', "other")
    status, body = await dev.call("GET", "sys/internal/ui/mounts/secret", token=stranger)
    assert status == 403
    assert body["errors"] == [
        'preflight capability check returned 403, please ensure client\'s policies grant access to path "secret/"'
    ]
    assert (await dev.call("GET", "sys/internal/ui/mounts/none"))[0] == 403
    assert (await dev.call("GET", "sys/internal/ui/mounts/secret", token=""))[0] == 403
    _, body = await dev.call("GET", "sys/internal/ui/mounts", token="")
    assert body["data"] == {"auth": {}, "secret": {}}
    _, body = await dev.call("GET", "sys/internal/ui/mounts", token=token)
    assert set(body["data"]["secret"]) == {"secret/", "cubbyhole/", "sys/"}  # two of them by the default policy


async def test_routing_texts(dev: Any) -> None:
    status, body = await dev.call("GET", "nowhere/x")
    assert (status, body) == (404, {"errors": ['no handler for route "nowhere/x". route entry not found.']})
    assert (await dev.call("GET", "sys/nothing"))[1] == {"errors": ["1 error occurred:\n\t* unsupported path\n\n"]}
    status, body = await dev.call("GET", "sys/seal-wrap")
    assert status == 404
    status, body = await dev.call("DELETE", "sys/key-status")
    assert (status, body) == (405, {"errors": ["1 error occurred:\n\t* unsupported operation\n\n"]})
    assert (await dev.call("POST", "secret/data/a/", {"data": {}}))[0] == 400
    assert (await dev.call("GET", "secret/../x"))[0] == 400
    assert (await dev.call("GET", "secret/\x07"))[0] == 400
    for path, status in (("sys/storage/raft/configuration", 400), ("secret/data/a", 404)):
        with pytest.raises(ApiError) as refused:
            await dev.core.handle(Request(Operation.READ, path, {}, dev.token, namespace="team/"))
        assert refused.value.status == status


async def test_key_status_and_auth(dev: Any) -> None:
    _, body = await dev.call("GET", "sys/key-status")
    assert body["term"] == 1
    assert body["encryptions"] >= 0
    _, body = await dev.call("GET", "sys/auth")
    assert body["token/"]["type"] == "token"
    assert body["token/"]["config"]["token_type"] == "default-service"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotLeader("x"), 307),
        (OutcomeUnknown("leadership was lost"), 500),
        (PreconditionFailed("k"), 409),
        (EntryTooLarge("put failed due to value being too large"), 413),
        (NoSpace("no space left"), 507),
    ],
)
async def test_what_storage_errors_mean(
    dev: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    await dev.call("POST", "sys/mounts/kv1", {"type": "kv"})

    async def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(dev.storage, "commit", fail)
    assert (await dev.call("POST", "kv1/a", {"v": 1}))[0] == status
