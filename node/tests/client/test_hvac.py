# SPDX-License-Identifier: Apache-2.0
"""hvac, as it is, against a real server process."""

from __future__ import annotations

from typing import Any

import hvac
import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultDown

POLICY = 'path "secret/data/app/*" { capabilities = ["read"] }'


@pytest.fixture
def client(server: Any) -> Any:
    """A client of an initialised, unsealed server with its root token and kv version 2 at secret/."""
    found = hvac.Client(url=server.address)
    assert found.sys.is_initialized() is False
    keys = found.sys.initialize(secret_shares=3, secret_threshold=2)
    assert found.sys.is_sealed()
    found.sys.submit_unseal_keys(keys["keys"][:2])
    found.token = keys["root_token"]
    found.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    return found


def test_init_unseal_seal(client: Any) -> None:
    assert client.sys.is_initialized()
    assert client.is_authenticated()
    assert client.sys.read_health_status(method="GET")["sealed"] is False
    assert client.sys.read_health_status().status_code == 200
    assert client.seal_status["n"] == 3
    client.sys.seal()
    assert client.sys.is_sealed()
    assert client.sys.read_health_status().status_code == 503
    with pytest.raises(VaultDown):
        client.secrets.kv.v2.list_secrets(path="")


def test_kv2(client: Any) -> None:
    kv = client.secrets.kv.v2
    kv.create_or_update_secret("app/one", {"user": "a", "emoji": "🔐"})
    kv.create_or_update_secret("app/two", {"user": "b"}, cas=0)
    assert kv.list_secrets(path="")["data"]["keys"] == ["app/"]
    assert kv.list_secrets(path="app")["data"]["keys"] == ["one", "two"]
    assert kv.read_secret_version("app/one")["data"]["data"] == {"user": "a", "emoji": "🔐"}
    with pytest.raises(InvalidRequest, match="check-and-set"):
        kv.create_or_update_secret("app/one", {"user": "x"}, cas=0)
    kv.patch("app/one", {"user": "c"})
    assert kv.read_secret_version("app/one")["data"]["data"] == {"user": "c", "emoji": "🔐"}
    assert kv.read_secret_metadata("app/one")["data"]["current_version"] == 2
    kv.delete_latest_version_of_secret("app/one")
    with pytest.raises(InvalidPath):
        kv.read_secret_version("app/one", raise_on_deleted_version=True)
    kv.undelete_secret_versions("app/one", [2])
    assert kv.read_secret_version("app/one", version=2)["data"]["metadata"]["version"] == 2
    kv.destroy_secret_versions("app/one", [1])
    kv.delete_metadata_and_all_versions("app/one")
    assert kv.list_secrets(path="app")["data"]["keys"] == ["two"]
    with pytest.raises(InvalidPath):
        kv.list_secrets(path="nothing")


def test_list_verb_and_query_are_alike(client: Any) -> None:
    client.secrets.kv.v2.create_or_update_secret("a", {"x": 1})
    by_verb = client.adapter.list("/v1/secret/metadata")
    by_query = client.adapter.get("/v1/secret/metadata", params={"list": "true"})
    by_scan = client.adapter.request("SCAN", "/v1/secret/metadata")
    assert by_verb["data"] == by_query["data"] == {"keys": ["a"]}
    assert by_scan["data"]["keys"] == ["a"]


def test_policies_and_tokens(client: Any, server: Any) -> None:
    client.secrets.kv.v2.create_or_update_secret("app/one", {"user": "a"})
    client.secrets.kv.v2.create_or_update_secret("other", {"user": "a"})
    client.sys.create_or_update_acl_policy("app", POLICY)
    assert "app" in client.sys.list_acl_policies()["data"]["keys"]
    created = client.auth.token.create(policies=["app"], ttl="1h")["auth"]
    limited = hvac.Client(url=server.address, token=created["client_token"])
    assert limited.auth.token.lookup_self()["data"]["policies"] == ["app", "default"]
    assert limited.secrets.kv.v2.read_secret_version("app/one")["data"]["data"] == {"user": "a"}
    for refused in (
        lambda: limited.secrets.kv.v2.read_secret_version("other"),
        lambda: limited.secrets.kv.v2.create_or_update_secret("app/one", {"x": 1}),
        lambda: limited.sys.list_mounted_secrets_engines(),
    ):
        with pytest.raises(Forbidden):
            refused()
    client.auth.token.revoke(created["client_token"])
    assert limited.is_authenticated() is False


def test_mounts(client: Any) -> None:
    assert client.sys.list_mounted_secrets_engines()["data"]["secret/"]["options"] == {"version": "2"}
    client.sys.disable_secrets_engine("secret")
    with pytest.raises(InvalidPath):
        client.secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)


def test_large_secret_and_too_large_body(client: Any) -> None:
    kv = client.secrets.kv.v2
    kv.create_or_update_secret("big", {"v": "x" * 400_000})
    assert len(kv.read_secret_version("big")["data"]["data"]["v"]) == 400_000
    with pytest.raises(hvac.exceptions.UnexpectedError, match="too large"):
        kv.create_or_update_secret("huge", {"v": "x" * 34_000_000})
