# SPDX-License-Identifier: Apache-2.0
"""uvicorn's httptools protocol, taught the verbs LIST and SCAN, and a time limit for request heads.

llhttp knows a fixed set of methods and answers 400 to LIST and SCAN, which hvac and the Vault clients send. The request
line is therefore rewritten to GET before the parser sees it, and the real method is put into the ASGI scope. Only a
method at the very start of a message is touched: the stream is cut at every place that looks like one, and the parser
itself says (by its callbacks) whether a message had just ended there.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from holdfast.http.app import Application, request_id
from holdfast.http.cycle import ApiCycle
from holdfast.http.exchange import Exchange
from holdfast.http.message import Call

_VERB = re.compile(rb"(LIST|SCAN) ")
_VERBS = (b"LIST ", b"SCAN ")
_STARTS = frozenset(verb[:length] for verb in _VERBS for length in range(1, 5))
_START_ENDS = frozenset(start[-1] for start in _STARTS)
_MAX_HEAD = 65_536  # bytes of request line and headers


class ApiProtocol(HttpToolsProtocol):
    """One client connection. `head_timeout`: seconds for the request line and headers to arrive (0: no limit).

    `application` answers calls whose bodies are whole; what it streams goes through uvicorn's ASGI cycle.
    """

    head_timeout: float = 10.0
    application: Application

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._between = True  # no message has begun: the next byte is the first of a request line
        self._in_head = False
        self._head_bytes = 0
        self._body_left = 0  # bytes of a body with Content-Length that are still to come
        self._held = b""  # the beginning of what may become LIST or SCAN
        self._verb = ""  # the real method of the message that was rewritten
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None  # the one whose body is being gathered
        self._behind: Any = None  # what came before it, to be answered first
        self._idle_since: float | None = None  # loop time; None while a request is under way

    @property
    def arriving(self) -> bool:
        """Whether a request has been announced but its body is not complete."""
        return self._exchange is not None and not self._exchange.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_body_timer()
        self._stop_idle_timer()
        if isinstance(self.cycle, Exchange):
            self.cycle = self._exchange = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, with every LIST and SCAN that begins a message replaced by GET."""
        if self._held:
            data, self._held = self._held + data, b""
        # Nothing can begin inside a body whose length is known: large uploads go straight through.
        if self._body_left >= len(data):
            super().data_received(data)
            return
        was_in_head = self._in_head
        position = 0
        for match in _VERB.finditer(data) if b"LIST " in data or b"SCAN " in data else ():
            start = match.start()
            if start > position:
                self._feed(data[position:start])
                position = start
            if self._between:
                self._verb = match[1].decode("ascii")
                self._feed(b"GET ")
                position = match.end()
            if self.parser is None or self.transport.is_closing():
                return
        self._feed_tail(data[position:])
        if not self._in_head:
            if self._exchange is not None and self._body_timer is None:
                self._start_body_timer()
            return
        if was_in_head:
            self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD:
            self.send_400_response("request head too large")
        elif self._head_timer is None:
            self._start_head_timer()

    def _feed_tail(self, data: bytes) -> None:
        """Feed the last piece, but hold back its end when that may be the beginning of a LIST or SCAN."""
        position = 0
        if not data or data[-1] not in _START_ENDS:  # nearly always
            self._feed(data)
            return
        for length in range(min(4, len(data)), 0, -1):
            if data[-length:] in _STARTS:
                cut = len(data) - length
                if cut > position:
                    self._feed(data[position:cut])
                    position = cut
                if self._between and not self.transport.is_closing():
                    self._held = data[cut:]
                    return
        self._feed(data[position:])

    def _feed(self, data: bytes) -> None:
        if data and self.parser is not None and not self.transport.is_closing():
            super().data_received(data)

    # parser callbacks
    def on_message_begin(self) -> None:
        self._between = False
        self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        method, self._verb = self._verb or self.parser.get_method().decode("ascii"), ""
        path, query = _target(self.url)
        headers = dict(self.headers)
        length = headers.get(b"content-length")
        if length is not None:
            self._body_left = int(length)
        if self.application.streams(path):
            self._begin_stream(method)
            return
        call = Call(method, path, query, headers, b"", self.client[0] if self.client else "", request_id())
        context = self.application.context
        before: Any = self.cycle
        self._behind = None if before is None or before.response_complete else before
        self.cycle = self._exchange = Exchange(  # type: ignore[assignment]
            call,
            self.application.answer,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            context.max_request_size,
            self._behind is None,
            self.on_response_complete,
        )

    def _begin_stream(self, method: str) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, which nothing else needs
        self.url, self.headers[:], self.expect_100_continue = url, headers, expect
        super().on_headers_complete()
        # The task that runs the application has been created but has not started: it sees these changes.
        self.cycle.__class__ = ApiCycle
        self.scope["method"] = method

    def on_body(self, body: bytes) -> None:
        self._body_left = max(0, self._body_left - len(body))
        if self._exchange is not None:
            self._exchange.body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        self._body_left = 0
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
            return
        self._stop_body_timer()
        behind, self._behind = self._behind, None
        if exchange.response_complete:
            return
        if behind is None or behind.response_complete:
            self._start_asgi_task(exchange, self.application)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.application))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, Exchange):
            super()._start_asgi_task(cycle, app)
            return
        task = self.loop.create_task(cycle.run())
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _unsupported_upgrade_warning(self) -> None:
        """An Upgrade header (curl --http2 sends one) is not taken up; uvicorn would advise a websocket library."""

    # time limits
    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        # One timer a connection, not one a request: it looks how long nothing has happened, and waits on.
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_idle(self.timeout_keep_alive)

    def _wait_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0.001:
            self._wait_idle(left)
        elif not self.transport.is_closing():
            self.transport.close()

    def _stop_idle_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def _start_body_timer(self) -> None:
        if (patience := self.application.context.read_timeout) > 0:
            self._body_timer = self.loop.call_later(patience, self._body_timed_out)

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _body_timed_out(self) -> None:
        self._body_timer = None
        if self._exchange is not None:
            self._exchange.keep_alive = False
            self._exchange.refuse(408, "the request body did not arrive in time")

    def _start_head_timer(self) -> None:
        if self.head_timeout > 0:
            self._head_timer = self.loop.call_later(self.head_timeout, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def _target(url: bytes) -> tuple[str, bytes]:
    """Decoded path and raw query of a request target. Raises ValueError for one that is not ASCII."""
    if url[:1] != b"/" or b"#" in url:
        parsed = httptools.parse_url(url)
        raw, query = parsed.path or b"", parsed.query or b""
    else:
        raw, _, query = url.partition(b"?")
    path = raw.decode("ascii")
    return unquote(path) if "%" in path else path, query


def protocol_class(head_timeout: float, application: Application) -> type[ApiProtocol]:
    """An `ApiProtocol` with the listener's `http_read_header_timeout` (seconds)."""
    return type("ListenerProtocol", (ApiProtocol,), {"head_timeout": head_timeout, "application": application})
