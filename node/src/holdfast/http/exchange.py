# SPDX-License-Identifier: Apache-2.0
"""One request and its answer, both whole in memory: the way of every API call but snapshots.

uvicorn's ASGI cycle costs a scope, an event, three messages and a timer for each request, a third of a small read. Here
the body is gathered first, the application is asked once, and its answer leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from holdfast.http.envelope import errors
from holdfast.http.message import Call, Reply

Answer = Callable[[Call], Awaitable[Reply]]


class Exchange:
    """`answer` never raises. `done` is called after the answer is written; `limit` is the largest body in bytes.

    `alone`: no earlier request of the connection waits for its answer. `call.path` is the whole path of the URL.
    """

    __slots__ = (
        "_alone",
        "_answer",
        "_body",
        "_default_headers",
        "_done",
        "_flow",
        "_left",
        "_refusal",
        "_transport",
        "call",
        "keep_alive",
        "response_complete",
    )

    def __init__(
        self,
        call: Call,
        answer: Answer,
        transport: Any,
        flow: FlowControl,
        default_headers: Sequence[tuple[bytes, bytes]],
        keep_alive: bool,
        limit: int,
        alone: bool,
        done: Callable[[], None],
    ) -> None:
        self.call = call
        self.keep_alive = keep_alive
        self.response_complete = False
        self._answer = answer
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._done = done
        self._alone = alone
        self._refusal: Reply | None = None
        self._left = limit
        self._body: list[bytes] = []
        length = call.headers.get(b"content-length")
        waits = call.headers.get(b"expect", b"").lower() == b"100-continue"
        if length is not None and int(length) > limit:
            self.keep_alive = keep_alive and not waits  # whether such a client sends its body now is its own choice
            self.refuse(413, "http: request body too large")
        elif waits and alone:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body(self, piece: bytes) -> None:
        """One more piece of the body; too many of them are refused."""
        if self.response_complete or self._refusal is not None:
            return
        self._left -= len(piece)
        if self._left < 0:
            self._body.clear()
            self.refuse(413, "http: request body too large")
            return
        self._body.append(piece)

    async def run(self) -> None:
        """Have the request, which is complete now, answered."""
        if self._refusal is not None:
            self._write(self._refusal)
            return
        body = self._body
        self.call.body = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        try:
            reply = await self._answer(self.call)
            if self._flow.write_paused:
                await self._flow.drain()
        except asyncio.CancelledError:  # the server stops and would not wait longer
            self._transport.close()
            raise
        self._write(reply)

    def refuse(self, status: int, text: str) -> None:
        """Answer before the request is complete, or in its turn when others come before it. Its body is thrown away."""
        if self.response_complete:
            return
        if self._alone:
            self._write(errors(status, text))
        elif self._refusal is None:
            self._refusal = errors(status, text)

    def _write(self, reply: Reply) -> None:
        self.response_complete = True
        if self._transport.is_closing():
            return
        parts = [STATUS_LINE[reply.status]]
        for name, value in self._default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in reply.header_list():
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.call.method != "HEAD":
            parts.append(reply.body)
        self._transport.write(b"".join(parts))
        if not self.keep_alive:
            self._transport.close()
        self._done()
