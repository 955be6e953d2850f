# SPDX-License-Identifier: Apache-2.0
"""Connections: order of answers, refusals before a body is complete, 100-continue, keep-alive, streams in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from holdfast.config.tree import Listener
from holdfast.core.types import Request, Response

_GET = b"GET /v1/secret/a HTTP/1.1\r\nHost: t\r\n\r\n"


def post(size: int, *headers: bytes) -> bytes:
    lines = [b"POST /v1/a HTTP/1.1", b"Host: t", b"Content-Length: %d" % size, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def closed(connection: Any) -> bool:
    return await asyncio.wait_for(connection.reader.read(), 5) == b""


async def test_answers_keep_the_order_of_requests(serve: Any) -> None:
    async with serve(max_request_size=20) as running:
        release = asyncio.Event()

        async def answer(request: Request) -> Response:
            if request.path == "secret/a":
                await release.wait()
            return Response(data={"path": request.path})

        running.core.answer = answer
        connection = await running.connect()
        # A refusal needs nothing from the core, but must wait for the answers before it.
        await connection.send(_GET + post(60) + b"x" * 60 + _GET.replace(b"secret/a", b"secret/b"))
        release.set()
        answers = [await connection.answer() for _ in range(3)]
        assert [found.status for found in answers] == [200, 413, 200]
        assert [found.json()["data"]["path"] for found in answers[::2]] == ["secret/a", "secret/b"]


async def test_a_body_too_large_in_chunks_is_refused_in_its_turn(serve: Any) -> None:
    async with serve(max_request_size=20) as running:
        connection = await running.connect()
        head = b"POST /v1/a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(_GET + head + b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n" + _GET)
        assert [(await connection.answer()).status for _ in range(3)] == [200, 413, 200]
        assert len(running.core.requests) == 2


async def test_continue_is_sent_before_the_body(running: Any, connection: Any) -> None:
    await connection.send(post(7, b"Expect: 100-continue"))
    assert (await connection.answer()).status == 100
    await connection.send(b'{"a":1}')
    assert (await connection.answer()).status == 200
    assert running.core.requests[0].data == {"a": 1}


async def test_no_continue_for_what_is_too_large(serve: Any) -> None:
    async with serve(max_request_size=20) as running:
        connection = await running.connect()
        await connection.send(post(21, b"Expect: 100-continue"))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await closed(connection)


async def test_a_late_body_ends_the_connection(serve: Any) -> None:
    async with serve(read_timeout=0.05) as running:
        connection = await running.connect()
        await connection.send(post(100) + b"{")
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await closed(connection)


async def test_the_time_limit_of_a_body_ends_with_the_body(serve: Any) -> None:
    async with serve(read_timeout=0.05) as running:
        connection = await running.connect()
        await connection.send(post(7) + b'{"a"', b":1}")
        assert (await connection.answer()).status == 200
        running.core.answer = lambda request: asyncio.sleep(0.1, Response(data={}))
        assert (await connection.ask("POST", "/v1/a", {"a": 1})).status == 200


@pytest.mark.parametrize(("version", "header"), [(b"1.0", b"Host: t"), (b"1.1", b"Connection: close")])
async def test_connections_that_end(connection: Any, version: bytes, header: bytes) -> None:
    await connection.send(b"GET /v1/a HTTP/" + version + b"\r\n" + header + b"\r\n\r\n")
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await closed(connection)


async def test_idle_connections_are_closed_and_busy_ones_are_not(serve: Any) -> None:
    listener = replace(Listener(address=("127.0.0.1", 0), tls_disable=True), http_idle_timeout=1.0)
    async with serve(listener) as running:
        connection = await running.connect()
        assert (await connection.ask("GET", "/v1/a")).status == 200
        # A request that is under way when the timer fires keeps the connection; its answer comes.
        running.core.answer = lambda request: asyncio.sleep(1.2, Response(data={}))
        assert (await connection.ask("GET", "/v1/a")).status == 200
        running.core.answer = lambda request: Response(data={})
        assert (await connection.ask("GET", "/v1/a")).status == 200
        assert await closed(connection)


async def test_a_client_that_leaves_does_no_harm(running: Any) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Response:
        started.set()
        await release.wait()
        return Response(data={})

    running.core.answer = answer
    leaving = await running.connect()
    await leaving.send(_GET)
    await started.wait()
    leaving.writer.transport.abort()
    release.set()
    staying = await running.connect()
    assert (await staying.ask("GET", "/v1/a")).status == 200


async def test_stopping_waits_for_a_request_that_is_still_arriving(running: Any, connection: Any) -> None:
    await connection.send(post(7) + b'{"a"')
    while not any(found.arriving for found in running.server._state.connections):
        await asyncio.sleep(0.005)
    stopping = asyncio.ensure_future(running.server.stop(5))
    await asyncio.sleep(0)
    await connection.send(b":1}")
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await stopping
    assert await closed(connection)
