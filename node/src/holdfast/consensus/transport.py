# SPDX-License-Identifier: Apache-2.0
"""The cluster port: TLS 1.3 with certificates of the cluster's own CA on both sides, length-framed messages, members only.

Every server dials every member it knows; a message goes out on whichever connection to the peer is alive, so a server that lags
in its configuration is still reached by a leader it does not know yet. A peer is who its certificate says (CN = node_id); the first
frame is a hello that must agree. Frames: `u32 length | u8 kind | payload`, big-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from holdfast.consensus import wire
from holdfast.consensus.accept import Acceptor
from holdfast.consensus.refusals import refusals
from holdfast.consensus.types import WIRE_FORMAT, Message

HELLO, RAFT, REQUEST, REPLY = range(4)
_FRAME = struct.Struct(">IB")
_HELLO_TIMEOUT = 5.0
_DIAL_EVERY = 0.2  # seconds between looks at who is not connected
_DIAL_TIMEOUT = 3.0
_BACKLOG = 32 * 1024 * 1024  # bytes that may wait for one peer; Raft messages beyond are dropped (and repeated by Raft)
_REQUEST_TIMEOUT = 90.0

log = logging.getLogger("holdfast.cluster")


class TransportError(Exception):
    """A request to a peer could not be delivered or answered. `sent`: it may have been carried out; `too_large`: never will be."""

    def __init__(self, reason: str, *, sent: bool, too_large: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent
        self.too_large = too_large


@dataclass(frozen=True, slots=True)
class Hello:
    """What a server says of itself."""

    node_id: str
    cluster_id: str
    address: str
    api_addr: str
    version: str

    def pack(self) -> bytes:
        """Payload of a hello frame."""
        packed: bytes = msgpack.packb(
            [WIRE_FORMAT, self.node_id, self.cluster_id, self.address, self.api_addr, self.version]
        )
        return packed

    @staticmethod
    def unpack(payload: bytes) -> Hello:
        """Inverse of `pack`; raises WireError."""
        try:
            fields = msgpack.unpackb(payload)
        except (ValueError, TypeError, msgpack.UnpackException):
            raise wire.WireError("hello is not msgpack") from None
        if not isinstance(fields, list) or len(fields) < 6 or fields[0] != WIRE_FORMAT:
            raise wire.WireError("hello of an unknown format")
        if not all(isinstance(f, str) for f in fields[1:6]):
            raise wire.WireError("hello with a field of the wrong type")
        return Hello(*fields[1:6])


def tls_context(server: bool, ca_pem: str, certificate: Path, key: Path) -> ssl.SSLContext:
    """A TLS 1.3 context that shows our certificate and demands one of the cluster's CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the name in the certificate is the node_id, compared after the handshake
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(certificate, key)
    return context


class Connection(asyncio.Protocol):
    """One TLS connection, either way round."""

    def __init__(self, owner: Transport, dialled: str | None) -> None:
        self._owner = owner
        self._dialled = dialled
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self.transport: Any = None
        self.peer = ""
        self.hello: Hello | None = None

    def connection_made(self, transport: Any) -> None:
        """The handshake is done: the peer has a certificate of our CA."""
        self.transport = transport
        certificate = transport.get_extra_info("peercert") or {}
        names = [value for rdn in certificate.get("subject", ()) for key, value in rdn if key == "commonName"]
        self.peer = names[0] if len(names) == 1 else ""
        if not self.peer or (self._dialled is not None and self.peer != self._dialled):
            self.refuse(f"certificate names {self.peer or 'nobody'}, expected {self._dialled or 'a node_id'}")
            return
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
        self._owner.pending(self)
        self.send(HELLO, self._owner.hello.pack())
        self._timer = asyncio.get_running_loop().call_later(_HELLO_TIMEOUT, self.refuse, "no hello in time")

    def data_received(self, data: bytes) -> None:
        """Cut frames out of the stream."""
        buffer = self._buffer
        buffer += data
        position = 0
        while len(buffer) - position >= _FRAME.size:
            length, kind = _FRAME.unpack_from(buffer, position)
            if length > (wire.MAX_FRAME if self.hello else 65536):
                self.refuse(f"frame of {length} bytes")
                return
            end = position + _FRAME.size + length
            if len(buffer) < end:
                break
            payload = bytes(memoryview(buffer)[position + _FRAME.size : end])
            position = end
            try:
                self._owner.on_frame(self, kind, payload)
            except wire.WireError as error:
                self.refuse(str(error))
                return
            if self.transport.is_closing():
                return
        del buffer[:position]

    def greeted(self, hello: Hello) -> None:
        """The peer's hello was accepted."""
        self.hello = hello
        if self._timer is not None:
            self._timer.cancel()

    def send(self, kind: int, payload: bytes) -> None:
        """Queue a frame."""
        self.transport.write(_FRAME.pack(len(payload), kind) + payload)

    @property
    def backlog(self) -> int:
        """Bytes queued."""
        size: int = self.transport.get_write_buffer_size()
        return size

    def refuse(self, why: str) -> None:
        """Log and close."""
        refusals.note(self.peer, str(self.transport.get_extra_info("peername")), why)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        if self._timer is not None:
            self._timer.cancel()
        self._owner.on_lost(self)


class Transport:
    """All connections of one server. `receive(peer, message)` gets Raft messages, `lost(peer)` is told of breaks."""

    def __init__(
        self,
        hello: Hello,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        receive: Callable[[str, Message], None],
        connected: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        self.hello = hello
        self._server_context, self._client_context = contexts
        self._receive = receive
        self._connected = connected
        self._lost = lost
        self.addresses: dict[str, str] = {}
        self.peers: dict[str, Hello] = {}
        self._connections: dict[str, list[Connection]] = {}
        self._pending: set[Connection] = set()
        self._acceptor: Acceptor | None = None
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._dialler: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._asked: dict[int, Connection] = {}  # which connection a request went out on: its answer comes on the same
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_request: Callable[[str, bytes], Awaitable[bytes]] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen and keep dialling. Raises OSError when the port is taken."""
        self._acceptor = Acceptor(lambda: Connection(self, None), self._server_context, _HELLO_TIMEOUT)
        await self._acceptor.start(host, port)
        self._dialler = asyncio.create_task(self._keep_dialling())

    async def stop(self) -> None:
        """Close everything."""
        tasks = [t for t in (self._dialler, *self._dialling.values(), *self._tasks) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._acceptor is not None:
            await self._acceptor.stop()
        for connection in [c for many in self._connections.values() for c in many] + list(self._pending):
            connection.transport.abort()
        self._connections.clear()

    # --- connections ---

    async def _keep_dialling(self) -> None:
        while True:
            for peer, address in list(self.addresses.items()):
                if peer != self.hello.node_id and peer not in self._connections and peer not in self._dialling:
                    task = asyncio.create_task(self._dial(peer, address))
                    self._dialling[peer] = task
                    task.add_done_callback(lambda _task, peer=peer: self._dialling.pop(peer, None))  # type: ignore[misc]
            await asyncio.sleep(_DIAL_EVERY)

    async def _dial(self, peer: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT):
                await loop.create_connection(
                    lambda: Connection(self, peer),
                    host.strip("[]"),
                    int(port),
                    ssl=self._client_context,
                    server_hostname="holdfast",
                    ssl_handshake_timeout=_DIAL_TIMEOUT,
                )
        except (OSError, ssl.SSLError, TimeoutError, ValueError) as error:
            log.debug("dial failed", extra={"fields": {"peer": peer, "address": address, "error": str(error)}})
            await asyncio.sleep(_DIAL_EVERY * 2)

    def pending(self, connection: Connection) -> None:
        """A connection waits for its hello."""
        self._pending.add(connection)

    def on_frame(self, connection: Connection, kind: int, payload: bytes) -> None:
        """A frame came. Raises WireError when it is not acceptable: the connection is closed."""
        if connection.hello is None:
            if kind != HELLO:
                raise wire.WireError("the first frame is not a hello")
            self._on_hello(connection, Hello.unpack(payload))
        elif kind == RAFT:
            self._receive(connection.peer, wire.decode(payload))
        elif kind == REQUEST:
            task = asyncio.create_task(self._serve(connection, payload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind == REPLY:
            number, body = _unpack_pair(payload)
            if self._asked.get(number) is connection and not self._answers[number].done():
                self._answers[number].set_result(body)
        else:
            raise wire.WireError(f"unknown frame kind {kind}")

    def _on_hello(self, connection: Connection, hello: Hello) -> None:
        if hello.node_id != connection.peer:
            raise wire.WireError(f"hello of {hello.node_id} with the certificate of {connection.peer}")
        if hello.cluster_id != self.hello.cluster_id:
            raise wire.WireError("hello of another cluster")
        connection.greeted(hello)
        self._pending.discard(connection)
        self.peers[connection.peer] = hello
        self._connections.setdefault(connection.peer, []).append(connection)
        self._connected(connection.peer)

    def on_lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._pending.discard(connection)
        many = self._connections.get(connection.peer)
        if many is None or connection not in many:
            return
        many.remove(connection)
        for number in [n for n, asked in self._asked.items() if asked is connection]:
            if not self._answers[number].done():
                broke = TransportError(f"the connection to {connection.peer} broke", sent=True)
                self._answers[number].set_exception(broke)
        if not many:
            del self._connections[connection.peer]
            self._lost(connection.peer)

    def connected(self, peer: str) -> bool:
        """True while there is a connection."""
        return peer in self._connections

    def drop(self, peer: str) -> None:
        """Break every connection to `peer`; nothing that is still under way on them is taken any more."""
        for connection in list(self._connections.get(peer, ())):
            connection.transport.abort()

    # --- messages ---

    def send(self, peer: str, message: Message) -> None:
        """Best effort."""
        connections = self._connections.get(peer)
        if connections and connections[0].backlog < _BACKLOG:
            connections[0].send(RAFT, wire.encode(message))

    async def request(self, peer: str, body: bytes) -> bytes:
        """Ask a peer and return its answer. Raises TransportError."""
        connections = self._connections.get(peer)
        if not connections:
            raise TransportError(f"there is no connection to {peer}", sent=False)
        if len(body) > wire.MAX_FRAME - 1024:
            raise TransportError("the request is too large to be forwarded", sent=False, too_large=True)
        self._next += 1
        number = self._next
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[number], self._asked[number] = future, connections[0]
        connections[0].send(REQUEST, msgpack.packb([number, body]))
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                return await future
        except TimeoutError:
            raise TransportError(f"{peer} did not answer in {_REQUEST_TIMEOUT:.0f} s", sent=True) from None
        finally:
            self._answers.pop(number, None)
            self._asked.pop(number, None)

    async def _serve(self, connection: Connection, payload: bytes) -> None:
        try:
            number, body = _unpack_pair(payload)
        except wire.WireError as error:
            connection.refuse(str(error))
            return
        if self.on_request is None:
            return
        answer = await self.on_request(connection.peer, body)
        if not connection.transport.is_closing():
            connection.send(REPLY, msgpack.packb([number, answer]))


def _unpack_pair(payload: bytes) -> tuple[int, bytes]:
    try:
        number, body = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException):
        raise wire.WireError("malformed request frame") from None
    if type(number) is not int or type(body) is not bytes:
        raise wire.WireError("malformed request frame")
    return number, body
