# SPDX-License-Identifier: Apache-2.0
"""Accepts connections on the cluster port. asyncio's own server says nothing when a TLS handshake fails; here it is a log line.

At most `MAX_HANDSHAKES` connections are between TCP and TLS at a time, each for a limited time: whoever has no certificate can
neither fill the memory nor hold a place.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from holdfast.consensus.refusals import refusals

MAX_HANDSHAKES = 256


def listening(host: str, port: int) -> list[socket.socket]:
    """Non-blocking listening sockets on every address of `host`. Raises OSError when one cannot be had."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            item = socket.socket(family, kind, protocol)
            sockets.append(item)
            item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                item.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            item.bind(address)
            item.listen(128)
            item.setblocking(False)
    except OSError:
        for item in sockets:
            item.close()
        raise
    return sockets


class Acceptor:
    """Hands every connection that has shown a good certificate to a protocol of `factory()`."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext, handshake: float) -> None:
        self._factory = factory
        self._context = context
        self._handshake = handshake  # seconds
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._sockets = await asyncio.to_thread(listening, host, port)
        for item in self._sockets:
            self._spawn(self._accept(item))

    async def stop(self) -> None:
        """Listen no more and drop handshakes under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for item in self._sockets:
            item.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the peer was gone before it was accepted
                refusals.note("", "", f"cannot accept: {error.strerror}")
                await asyncio.sleep(0.1)
                continue
            if self._open >= MAX_HANDSHAKES:
                connection.close()
                refusals.note("", str(address), "too many handshakes under way")
                continue
            self._open += 1
            self._spawn(self._greet(connection, str(address)))

    async def _greet(self, connection: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory, connection, ssl=self._context, ssl_handshake_timeout=self._handshake
            )
        except ssl.SSLError as error:  # its verify_message says what is wrong with a certificate
            refusals.note("", address, getattr(error, "verify_message", "") or (error.reason or str(error)).lower())
        except (OSError, TimeoutError) as error:
            refusals.note("", address, f"no handshake: {error}")
        finally:
            self._open -= 1
