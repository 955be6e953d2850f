# SPDX-License-Identifier: Apache-2.0
"""uvicorn inside our own loop: its protocol and connection bookkeeping, our sockets, certificates and graceful stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from email.utils import formatdate

from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from holdfast.config.tree import Listener
from holdfast.http.app import Application
from holdfast.http.protocol import protocol_class
from holdfast.http.tls import reload_certificate, server_context

_BACKLOG = 2048
_POLL = 0.01  # seconds between two looks at what is still running at shutdown
_NO_STORE = (b"cache-control", b"no-store")


class ListenError(Exception):
    """The listener's address cannot be used. The text is one sentence."""


class HttpServer:
    """One listener. `start` binds and accepts; `stop` finishes what is in flight."""

    def __init__(self, app: Application, listener: Listener, logger: logging.Logger | None = None) -> None:
        self.listener = listener
        self._app = app
        self._logger = logger or logging.getLogger("holdfast.http")
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._ssl: ssl.SSLContext | None = None
        self._clock: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port in use (for a configured port 0, the one the system chose)."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Bind and accept. Raises TlsError or ListenError."""
        listener = self.listener
        self._ssl = None if listener.tls_disable else server_context(listener)
        config = UvicornConfig(
            self._app,
            http=protocol_class(listener.http_read_header_timeout, self._app),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(listener.http_idle_timeout) or 86_400,
        )
        config.load()
        loop = asyncio.get_running_loop()
        self._tick()

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(config=config, server_state=self._state, app_state={})  # type: ignore[call-arg]

        sock = _bind(listener.address)
        self._server = await loop.create_server(connection, sock=sock, ssl=self._ssl, backlog=_BACKLOG)

    def reload(self) -> None:
        """Take up new certificate files. Raises TlsError; the old certificate then stays in use."""
        if self._ssl is not None:
            reload_certificate(self._ssl, self.listener)

    async def stop(self, grace: float = 10.0) -> None:
        """Accept nothing more, close idle connections, wait up to `grace` seconds for running requests."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while (late := self._busy()) and loop.time() < deadline:
            await asyncio.sleep(_POLL)
        for task in list(self._state.tasks):
            task.cancel()
        if late:
            self._logger.warning("requests were cut off at shutdown", extra={"fields": {"count": late}})
        for connection in list(self._state.connections):
            connection.transport.close()
        if self._clock is not None:
            self._clock.cancel()
        self._server = None

    def _busy(self) -> int:
        """How many requests are being answered or still arriving."""
        arriving = sum(1 for connection in self._state.connections if getattr(connection, "arriving", False))
        return len(self._state.tasks) + arriving

    def _tick(self) -> None:
        """Refresh the headers that every answer carries (Date has a resolution of one second)."""
        date = formatdate(time.time(), usegmt=True).encode("ascii")
        self._state.default_headers = [(b"date", date), _NO_STORE, *self._app.context.extra_headers]
        self._clock = asyncio.get_running_loop().call_later(1.0, self._tick)


def _bind(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((host, port))
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return sock
