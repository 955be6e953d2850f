# SPDX-License-Identifier: Apache-2.0
"""A real core on the inmem storage behind a real listener, in this process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast.config.tree import Listener
from holdfast.core.core import HoldfastCore
from holdfast.http.app import Application
from holdfast.http.context import Context
from holdfast.http.server import HttpServer
from holdfast.storage.inmem import InmemStorage


@dataclass
class Answer:
    """Status, lower-case headers, and the body: decoded JSON, or "" when empty."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Api:
    """The server under test."""

    core: HoldfastCore
    port: int

    async def call(self, method: str, path: str, body: Any = None, token: str = "", **headers: str) -> Answer:
        """One request on a connection of its own; `body` is bytes or JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} /v1/{path} HTTP/1.1", "Host: test", "Connection: close"]
        if token:
            lines.append(f"X-Vault-Token: {token}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(data)}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        raw = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *others = head.decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        return Answer(int(first.split()[1]), found, json.loads(rest) if rest.strip() else "")


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An uninitialised server."""
    core = HoldfastCore(
        InmemStorage(),
        None,
        version="0.0.0-test",
        cluster_name="",
        api_addr="http://127.0.0.1:1",
        logger=logging.getLogger("holdfast.core"),
    )
    server = HttpServer(Application(Context(core=core)), Listener(address=("127.0.0.1", 0), tls_disable=True))
    await server.start()
    try:
        yield Api(core, server.port)
    finally:
        await server.stop(1)
        await core.shutdown()
