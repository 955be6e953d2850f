# SPDX-License-Identifier: Apache-2.0
"""The bare endpoints: init, seal-status, unseal, seal, health, leader, join, bootstrap."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.core.types import ApiError


@pytest.mark.parametrize(
    ("state", "query", "status"),
    [
        ({}, "", 200),
        ({"standby": True}, "", 429),
        ({"standby": True}, "?standbyok=true", 200),
        ({"standby": True}, "?standbyok=true&activecode=250", 250),
        ({"standby": True}, "?standbyok=false", 429),
        ({"standby": True}, "?standbycode=222", 222),
        ({"sealed": True, "standby": True}, "", 503),
        ({"sealed": True, "standby": True}, "?sealedcode=298", 298),
        ({"initialized": False, "sealed": True, "standby": True}, "", 501),
        ({"initialized": False, "sealed": True, "standby": True}, "?uninitcode=299", 299),
        ({"standby": True, "_removed": True}, "", 530),
        ({"standby": True, "_removed": True}, "?removedcode=234", 234),
    ],
)
async def test_health(running: Any, connection: Any, state: dict[str, bool], query: str, status: int) -> None:
    running.core.health_body.update(state)
    answer = await connection.ask("GET", "/v1/sys/health" + query)
    assert answer.status == status
    assert "_removed" not in answer.json()
    head = await connection.ask("HEAD", "/v1/sys/health" + query)
    assert (head.status, head.body) == (status, b"")


@pytest.mark.parametrize("code", ["x", "", "99", "100", "600", "-200", "²"])
async def test_health_bad_codes(connection: Any, code: str) -> None:
    from urllib.parse import quote

    answer = await connection.ask("GET", f"/v1/sys/health?standbycode={quote(code)}")
    assert (answer.status, answer.json()) == (400, {"errors": []})


async def test_init(running: Any, connection: Any) -> None:
    assert (await connection.ask("GET", "/v1/sys/init")).json() == {"initialized": True}
    answer = await connection.ask("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
    assert answer.json()["root_token"] == "t"
    assert running.core.calls == [("initialize", {"secret_shares": 1, "secret_threshold": 1})]
    assert (await connection.ask("DELETE", "/v1/sys/init")).status == 405


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("sys/init", {"secret_shares": "5"}, "string into Go struct field InitRequest.secret_shares of type int"),
        ("sys/unseal", {"key": 5}, "number into Go struct field UnsealRequest.key of type string"),
        ("sys/unseal", {"reset": "yes"}, "string into Go struct field UnsealRequest.reset of type bool"),
        (
            "sys/storage/raft/join",
            {"auto_join_port": -1},
            "number -1 into Go struct field JoinRequest.auto_join_port of type uint",
        ),
        (
            "sys/storage/raft/join",
            {"leader_api_addr": 5},
            "number into Go struct field JoinRequest.leader_api_addr of type string",
        ),
    ],
)
async def test_types(running: Any, connection: Any, path: str, body: Any, text: str) -> None:
    answer = await connection.ask("POST", "/v1/" + path, body)
    assert answer.status == 400
    assert answer.json() == {"errors": [f"failed to decode JSON input: json: cannot unmarshal {text}"]}
    assert running.core.calls == []


async def test_join_and_bootstrap(running: Any, connection: Any) -> None:
    assert (await connection.ask("GET", "/v1/sys/storage/raft/join")).status == 405
    answer = await connection.ask("POST", "/v1/sys/storage/raft/join", {"auto_join_scheme": "ftp"})
    assert answer.json() == {"errors": ['invalid scheme "ftp"; must either be http or https']}
    answer = await connection.ask("PUT", "/v1/sys/storage/raft/join", {"leader_api_addr": "http://a", "retry": None})
    assert answer.json() == {"joined": True}
    answer = await connection.ask("POST", "/v1/sys/storage/raft/bootstrap", {})
    assert (answer.status, answer.body) == (200, b"")
    assert (await connection.ask("GET", "/v1/sys/storage/raft/bootstrap")).status == 400
    assert running.core.calls == [("join", {"leader_api_addr": "http://a"}), ("bootstrap", None)]


async def test_seal_and_status(running: Any, connection: Any) -> None:
    assert (await connection.ask("GET", "/v1/sys/seal-status")).json() == {"sealed": False}
    assert (await connection.ask("PUT", "/v1/sys/seal", X_Vault_Token="root")).status == 204
    assert running.core.calls[0][1].token == "root"
    assert (await connection.ask("GET", "/v1/sys/seal")).status == 405


async def test_errors_of_the_core_come_through(running: Any, connection: Any, monkeypatch: Any) -> None:
    def sealed() -> dict[str, Any]:
        raise ApiError(503, "Vault is sealed")

    monkeypatch.setattr(running.core, "leader_status", sealed)
    answer = await connection.ask("GET", "/v1/sys/leader")
    assert (answer.status, answer.json()) == (503, {"errors": ["Vault is sealed"]})
