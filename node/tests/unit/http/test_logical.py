# SPDX-License-Identifier: Apache-2.0
"""Envelope, statuses and texts of logical requests (raft-api.md 0.1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.core.types import ApiError, Operation, Response
from holdfast.storage.types import EntryTooLarge, MembershipRefused, NoSpace, OutcomeUnknown, PreconditionFailed


async def test_envelope(running: Any, connection: Any) -> None:
    running.core.answer = lambda request: Response(data={"keys": ["a"]}, warnings=["w"], lease_duration=5)
    answer = await connection.ask("GET", "/v1/secret/a")
    body = answer.json()
    assert answer.status == 200
    assert body.pop("request_id") == running.core.requests[0].request_id
    assert body == {
        "lease_id": "", "renewable": False, "lease_duration": 5, "data": {"keys": ["a"]},
        "wrap_info": None, "warnings": ["w"], "auth": None,
    }  # fmt: skip
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert "server" not in answer.headers
    assert "date" in answer.headers


async def test_top_level_repeats_data(running: Any, connection: Any) -> None:
    running.core.answer = lambda request: Response(data={"secret/": {"type": "kv"}}, top_level=True)
    body = (await connection.ask("GET", "/v1/sys/mounts")).json()
    assert body["secret/"] == body["data"]["secret/"] == {"type": "kv"}


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [("GET", 404, b'{"errors":[]}\n'), ("LIST", 404, b'{"errors":[]}\n'), ("POST", 204, b""), ("DELETE", 204, b"")],
)
async def test_none(running: Any, connection: Any, method: str, status: int, body: bytes) -> None:
    running.core.answer = lambda request: None
    answer = await connection.ask(method, "/v1/secret/a", {} if method == "POST" else None)
    assert (answer.status, answer.body) == (status, body)


async def test_operations_and_data(running: Any, connection: Any) -> None:
    await connection.ask("GET", "/v1/secret/data/a?version=2&x=1&x=2")
    await connection.ask("GET", "/v1/secret/metadata?list=true")
    await connection.ask("GET", "/v1/secret/metadata?scan=true&after=q")
    await connection.ask("PUT", "/v1/secret/a", {"k": 1})
    await connection.ask("PATCH", "/v1/secret/a", {"k": 2}, Content_Type="application/merge-patch+json")
    await connection.ask("GET", "/v1/a%20b/c%2Fd")
    seen = [(request.operation, request.path, request.data) for request in running.core.requests]
    assert seen == [
        (Operation.READ, "secret/data/a", {"version": "2", "x": ["1", "2"]}),
        (Operation.LIST, "secret/metadata", {}),
        (Operation.SCAN, "secret/metadata", {"after": "q"}),
        (Operation.UPDATE, "secret/a", {"k": 1}),
        (Operation.PATCH, "secret/a", {"k": 2}),
        (Operation.READ, "a b/c/d", {}),
    ]


async def test_tokens_and_namespace(running: Any, connection: Any) -> None:
    await connection.ask("GET", "/v1/a", X_Vault_Token="one")
    await connection.ask("GET", "/v1/a", Authorization="bearer two")
    await connection.ask("GET", "/v1/a", X_Vault_Token="one", Authorization="Bearer two", X_Vault_Namespace="ns1/")
    await connection.ask("GET", "/v1/a", Authorization="Basic eA==")
    assert [(request.token, request.namespace) for request in running.core.requests] == [
        ("one", ""), ("two", ""), ("one", "ns1"), ("", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "texts"),
    [
        (ApiError(403, "permission denied"), 403, ["permission denied"]),
        (ApiError(404), 404, []),
        (EntryTooLarge("too big"), 413, ["too big"]),
        (NoSpace("disk full"), 503, ["disk full"]),
        (MembershipRefused("last voter"), 400, ["last voter"]),
        (PreconditionFailed("k"), 400, ["the value at k has changed meanwhile"]),
        (
            OutcomeUnknown("leadership was lost"),
            500,
            ["the outcome of this request is unknown, look before you repeat it: leadership was lost"],
        ),
    ],
)
async def test_errors(running: Any, connection: Any, error: Exception, status: int, texts: list[str]) -> None:
    running.core.answer = lambda request: error
    answer = await connection.ask("POST", "/v1/secret/a", {"k": 1})
    assert answer.status == status
    assert answer.json() == {"errors": texts}


async def test_not_found_with_data_keeps_the_envelope(running: Any, connection: Any) -> None:
    running.core.answer = lambda request: ApiError(404, data={"data": None})
    answer = await connection.ask("GET", "/v1/secret/data/a")
    assert answer.status == 404
    assert answer.json()["data"] == {"data": None}
    running.core.answer = lambda request: ApiError(404, warnings=["use data/"])
    answer = await connection.ask("GET", "/v1/secret/a")
    assert (answer.status, answer.json()["warnings"], answer.json()["data"]) == (404, ["use data/"], None)


async def test_unexpected_error_hides_everything(running: Any, connection: Any, caplog: Any) -> None:
    running.core.answer = lambda request: RuntimeError("the token is s.abcdefghijklmnopqrstuvwx")
    answer = await connection.ask("GET", "/v1/secret/a")
    request_id = running.core.requests[0].request_id
    assert (answer.status, answer.json()) == (500, {"errors": [f"internal error, request id {request_id}"]})
    record = next(record for record in caplog.records if record.message == "unexpected error")
    assert record.fields["request_id"] == request_id
    assert "RuntimeError" in record.fields["traceback"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "failed to decode JSON input: unexpected EOF"),
        (b'{"a":1', "failed to decode JSON input: unexpected EOF"),
        (b'{"a":"x', "failed to decode JSON input: unexpected EOF"),
        (b"{]", "failed to decode JSON input: invalid character ']' at offset 1"),
        (
            b"[1]",
            "failed to decode JSON input: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (b'{"a":NaN}', "failed to decode JSON input: invalid character 'N' looking for beginning of value"),
        (b"\xff\xfe\xff", "failed to decode JSON input: the document is not UTF-8"),
        (b"[" * 100_000, "failed to decode JSON input: the document is nested too deeply"),
    ],
)
async def test_bad_json(running: Any, connection: Any, body: bytes, text: str) -> None:
    answer = await connection.ask("POST", "/v1/secret/a", body)
    assert (answer.status, answer.json()) == (400, {"errors": [text]})
    assert running.core.requests == []


async def test_patch_wants_its_content_type(running: Any, connection: Any) -> None:
    answer = await connection.ask("PATCH", "/v1/secret/a", {})
    assert (answer.status, answer.json()) == (400, {"errors": ["mime: no media type"]})
    assert (await connection.ask("PATCH", "/v1/secret/a", {}, Content_Type="application/json")).status == 415
    assert running.core.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ui/", 404),
        ("GET", "/", 404),
        ("HEAD", "/v1/secret/a", 405),
        ("OPTIONS", "/v1/secret/a", 405),
        ("POST", "/v1/secret/a/", 400),
        ("GET", "/v1/a%00b", 400),
        ("GET", "/v1/a%ffb", 400),
        ("GET", "/v1/a?list=maybe", 400),
    ],
)
async def test_refused_before_the_core(running: Any, connection: Any, method: str, path: str, status: int) -> None:
    answer = await connection.ask(method, path, {} if method == "POST" else None)
    assert answer.status == status
    assert running.core.requests == []


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/v1/secret/../sys/mounts?x=1", "/v1/sys/mounts?x=1"),
        ("/v1/secret/%2e%2e/a", "/v1/a"),
        ("/v1/a//b", "/v1/a/b"),
        ("/v1/a/./b/", "/v1/a/b/"),
    ],
)
async def test_unclean_paths_are_redirected(running: Any, connection: Any, path: str, location: str) -> None:
    answer = await connection.ask("GET", path)
    assert (answer.status, answer.headers["location"]) == (307, location)
    assert running.core.requests == []


async def test_dots_inside_names_are_names(running: Any, connection: Any) -> None:
    assert (await connection.ask("GET", "/v1/secret/.hidden/a..b")).status == 200
    assert running.core.requests[0].path == "secret/.hidden/a..b"


async def test_body_limit(serve: Any) -> None:
    async with serve(max_request_size=100) as running:
        connection = await running.connect()
        for _ in range(2):  # the connection stays usable
            answer = await connection.ask("POST", "/v1/a", b'{"a":"' + b"x" * 200 + b'"}')
            assert (answer.status, answer.json()) == (413, {"errors": ["http: request body too large"]})
        await connection.send(b"POST /v1/a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        await connection.send(*[b"40\r\n" + b"x" * 64 + b"\r\n"] * 2)
        assert (await connection.answer()).status == 413
        assert running.core.requests == []


async def test_request_duration(serve: Any) -> None:
    async with serve(max_request_duration=0.05) as running:
        running.core.answer = lambda request: asyncio.sleep(30)
        answer = await (await running.connect()).ask("GET", "/v1/a")
        assert answer.status == 503
        assert "max_request_duration" in answer.json()["errors"][0]


async def test_body_that_never_comes(serve: Any) -> None:
    async with serve(read_timeout=0.05) as running:
        connection = await running.connect()
        await connection.send(b'POST /v1/a HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{"a"')
        assert (await connection.answer()).status == 408
        assert running.core.requests == []


async def test_extra_headers(serve: Any) -> None:
    async with serve(extra_headers=((b"x-vault-raft-node-id", b"n1"),)) as running:
        answer = await (await running.connect()).ask("GET", "/v1/a")
        assert answer.headers["x-vault-raft-node-id"] == "n1"


async def test_storage_paths_are_for_the_root_namespace(running: Any, connection: Any) -> None:
    answer = await connection.ask("GET", "/v1/sys/storage/raft/configuration", X_Vault_Namespace="ns")
    assert (answer.status, answer.json()) == (400, {"errors": ["operation unavailable in namespaces"]})
