# SPDX-License-Identifier: Apache-2.0
"""A core that records what it is asked, and a server over it on a free loopback port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from holdfast.config.tree import Listener
from holdfast.core.types import Request, Response
from holdfast.http.app import Application
from holdfast.http.context import Context
from holdfast.http.server import HttpServer


@dataclass
class FakeCore:
    """Answers with what a test has put into `answer`; keeps every request."""

    answer: Callable[[Request], Any] = lambda request: Response(data={"echo": request.data})
    requests: list[Request] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    is_initialized: bool = True
    health_body: dict[str, Any] = field(
        default_factory=lambda: {"initialized": True, "sealed": False, "standby": False, "_removed": False}
    )

    async def handle(self, request: Request) -> Any:
        self.requests.append(request)
        answer = self.answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def authorize(self, request: Request) -> None:
        await self.handle(request)

    def initialized(self) -> bool:
        return self.is_initialized

    def sealed(self) -> bool:
        return False

    def joining(self) -> bool:
        return False

    async def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(("initialize", params))
        return {"keys": [], "keys_base64": [], "root_token": "t"}

    def seal_status(self) -> dict[str, Any]:
        return {"sealed": False}

    async def unseal(self, params: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(("unseal", params))
        return {"sealed": False}

    async def seal(self, request: Request) -> None:
        self.calls.append(("seal", request))

    def health(self) -> dict[str, Any]:
        return self.health_body

    def leader_status(self) -> dict[str, Any]:
        return {"ha_enabled": False}

    async def join(self, params: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(("join", params))
        return {"joined": True}

    async def bootstrap(self) -> None:
        self.calls.append(("bootstrap", None))

    async def shutdown(self) -> None:
        return None


@dataclass
class Answer:
    """One parsed HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A raw connection: bytes out, responses in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        """Write each piece in a packet of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.002)

    async def answer(self, head_only: bool = False) -> Answer:
        """Read the next response."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (item.partition(": ") for item in rest if item)}
        body = b""
        if "content-length" in headers and not head_only:
            body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 5)
        elif headers.get("transfer-encoding") == "chunked":
            while size := int((await asyncio.wait_for(self.reader.readline(), 5)).strip(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        return Answer(int(line.split()[1]), headers, body)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request and its response; `body` is bytes or something for JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(data)}")
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return await self.answer(head_only=method == "HEAD")


@dataclass
class Running:
    """A server with its fake core."""

    core: FakeCore
    context: Context
    server: HttpServer
    app: Application

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.server.port))


@asynccontextmanager
async def run_server(listener: Listener | None = None, **settings: Any) -> AsyncIterator[Running]:
    core = settings.pop("core", None) or FakeCore()
    context = Context(core=core, **settings)
    app = Application(context)
    server = HttpServer(app, listener or Listener(address=("127.0.0.1", 0), tls_disable=True))
    await server.start()
    try:
        yield Running(core, context, server, app)
    finally:
        await server.stop(1)


@pytest.fixture
def serve() -> Callable[..., Any]:
    """`async with serve(**context settings) as running`."""
    return run_server


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A server with default settings."""
    async with run_server() as found:
        yield found


@pytest.fixture
async def connection(running: Running) -> AsyncIterator[Connection]:
    """A connection to it."""
    found = await running.connect()
    yield found
    found.writer.close()
