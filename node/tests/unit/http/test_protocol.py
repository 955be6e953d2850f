# SPDX-License-Identifier: Apache-2.0
"""LIST and SCAN on the wire: every way of cutting the stream gives the same requests, and bodies are never touched."""

from __future__ import annotations

import random
from typing import Any

import pytest

from holdfast.core.types import Operation

_LIST = b"LIST /v1/secret/metadata HTTP/1.1\r\nHost: t\r\n\r\n"
_SCAN = b"SCAN /v1/secret/metadata HTTP/1.1\r\nHost: t\r\n\r\n"
_GET = b"GET /v1/secret/data/a HTTP/1.1\r\nHost: t\r\n\r\n"


def post(body: bytes, chunked: bool = False) -> bytes:
    head = b"POST /v1/secret/data/a HTTP/1.1\r\nHost: t\r\n"
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:]) if part)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize(("raw", "operation"), [(_LIST, Operation.LIST), (_SCAN, Operation.SCAN)])
async def test_list_and_scan(running: Any, connection: Any, raw: bytes, operation: Operation) -> None:
    await connection.send(raw)
    assert (await connection.answer()).status == 200
    assert running.core.requests[0].operation is operation


@pytest.mark.parametrize("cut", range(1, 8))
async def test_method_split_over_packets(running: Any, connection: Any, cut: int) -> None:
    for raw, operation in ((_LIST, Operation.LIST), (_SCAN, Operation.SCAN), (_GET, Operation.READ)):
        await connection.send(raw[:cut], raw[cut:])
        assert (await connection.answer()).status == 200
        assert running.core.requests[-1].operation is operation


async def test_byte_by_byte(running: Any, connection: Any) -> None:
    for byte in _LIST + post(b'{"a":"LIST /x"}') + _SCAN:
        connection.writer.write(bytes([byte]))
        await connection.writer.drain()
    answers = [await connection.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [request.operation for request in running.core.requests] == [
        Operation.LIST,
        Operation.UPDATE,
        Operation.SCAN,
    ]
    assert running.core.requests[1].data == {"a": "LIST /x"}


async def test_pipelined_in_one_packet(running: Any, connection: Any) -> None:
    body = b'{"a":"LIST /v1/x HTTP/1.1","b":"SCAN "}'
    await connection.send(_LIST + _GET + post(body) + _SCAN + post(body, chunked=True) + _LIST)
    answers = [await connection.answer() for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 6
    assert [request.operation.value for request in running.core.requests] == [
        "list", "read", "update", "scan", "update", "list",
    ]  # fmt: skip
    assert (
        running.core.requests[2].data
        == running.core.requests[4].data
        == {
            "a": "LIST /v1/x HTTP/1.1",
            "b": "SCAN ",
        }
    )


@pytest.mark.parametrize("seed", range(12))
async def test_random_cuts(running: Any, connection: Any, seed: int) -> None:
    source = random.Random(seed)
    bodies = [b'{"k":"LIST "}', b'{"k":"\\r\\nSCAN /v1/a HTTP/1.1"}', b'{"k":"L"}', b'{"k":"xLIS"}']
    parts = [source.choice([_LIST, _SCAN, _GET, post(source.choice(bodies), source.random() < 0.5)]) for _ in range(8)]
    stream, pieces = b"".join(parts), []
    while stream:
        size = source.randint(1, 60)
        pieces.append(stream[:size])
        stream = stream[size:]
    await connection.send(*pieces)
    for part in parts:
        assert (await connection.answer()).status == 200
        kind = {b"LIST": "list", b"SCAN": "scan", b"GET ": "read", b"POST": "update"}[part[:4]]
        request = running.core.requests.pop(0)
        assert request.operation.value == kind
        if kind == "update":
            assert request.data["k"]


async def test_body_that_ends_in_a_prefix_of_the_verb(running: Any, connection: Any) -> None:
    raw = b"POST /v1/a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    await connection.send(raw + b'9\r\n{"a":"LIS', b'\r\n3\r\nT"}\r\n0\r\n\r\n')
    assert (await connection.answer()).status == 200
    assert running.core.requests[0].data == {"a": "LIST"}


async def test_unknown_verb_is_refused(connection: Any) -> None:
    await connection.send(b"LISTEN /v1/a HTTP/1.1\r\nHost: t\r\n\r\n")
    assert (await connection.answer()).status == 400


async def test_large_head_is_refused(connection: Any) -> None:
    await connection.send(b"GET /v1/a HTTP/1.1\r\nX-A: ", *[b"a" * 50_000] * 3)
    assert (await connection.answer()).status == 400
