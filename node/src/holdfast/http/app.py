# SPDX-License-Identifier: Apache-2.0
"""The application: routes, limits, forwarding, answers. No framework: this is the path every request takes.

`answer` serves whole requests (http/exchange.py); as an ASGI application it serves what is streamed, and the rest too.
"""

from __future__ import annotations

from os import urandom
from posixpath import normpath
from urllib.parse import quote

from holdfast.core.types import StandbyError
from holdfast.http import forwarding
from holdfast.http.api import logical, snapshot
from holdfast.http.asgi import Receive, Scope, Send
from holdfast.http.body import Disconnected, read_body
from holdfast.http.context import Context
from holdfast.http.envelope import errors
from holdfast.http.failures import reply_for
from holdfast.http.message import Call, Refused, Reply
from holdfast.http.routes import ROUTES
from holdfast.http.time_limit import TimeLimit
from holdfast.storage.types import ForwardReply, ForwardRequest, NotLeader

_PREFIX = "/v1/"


class Application:
    """An ASGI 3 application over one `Context`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._limit = TimeLimit(context.max_request_duration)

    def streams(self, path: str) -> bool:
        """Whether bodies of requests for `path` (with "/v1/") go through ASGI, piece by piece."""
        return (
            path[len(_PREFIX) :] in snapshot.PATHS and path.startswith(_PREFIX) and self.context.snapshots is not None
        )

    async def answer(self, call: Call) -> Reply:
        """The answer to a request whose body is complete; `call.path` is the whole path of the URL. Never raises."""
        path = call.path
        call.path = path[len(_PREFIX) :]
        try:
            _check_path(path, call)
            return await self._answer(call)
        except Exception as error:
            return reply_for(error, call, self.context.logger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        call = _call_of(scope)
        try:
            _check_path(scope["path"], call)
            if call.path in snapshot.PATHS and self.context.snapshots is not None:
                reply = await snapshot.serve(self.context, call, receive, send)
                if reply is None:  # streamed already
                    return
            else:
                context = self.context
                call.body = await read_body(receive, call.headers, context.max_request_size, context.read_timeout)
                reply = await self._answer(call)
        except Disconnected:
            return
        except snapshot.Aborted:
            raise  # uvicorn closes the connection: a broken stream must not look complete
        except Exception as error:
            reply = reply_for(error, call, self.context.logger)
        await self._send(reply, call, send)

    async def forwarded(self, request: ForwardRequest) -> ForwardReply:
        """Handler for `Cluster.on_forward`: run a request that a standby has carried over."""
        return await forwarding.serve_forwarded(self.context, request, self._local)

    async def _answer(self, call: Call) -> Reply:
        handler = ROUTES.get(call.path)
        if handler is not None:  # never forwarded, never cut short (an interrupted init would lose its keys)
            return await handler(self.context, call)
        try:
            return await self._local(self.context, call)
        except (StandbyError, NotLeader):
            return await forwarding.send_to_leader(self.context, call, self._local)

    async def _local(self, context: Context, call: Call) -> Reply:
        """Run a logical request here. Raises StandbyError or NotLeader when another node has to do it."""
        try:
            return await self._limit.run(logical.handle(context, call))
        except (StandbyError, NotLeader):
            raise
        except Exception as error:
            return reply_for(error, call, context.logger, self._limit.limit)

    async def _send(self, reply: Reply, call: Call, send: Send) -> None:
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.header_list()})
        await send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else reply.body})


def _call_of(scope: Scope) -> Call:
    client = scope.get("client")
    return Call(
        method=scope["method"],
        path=scope["path"][len(_PREFIX) :],
        query=scope["query_string"],
        headers=dict(scope["headers"]),
        remote_addr=client[0] if client else "",
        request_id=request_id(),
    )


def request_id() -> str:
    """A random UUID (version 4); a third of the cost of uuid.uuid4(), on the path of every request."""
    text = urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _check_path(path: str, call: Call) -> None:
    """Refuse what is no API path, and redirect unclean paths to their clean form, as Go's server does."""
    if not path.startswith(_PREFIX):
        raise Refused(errors(404))
    if not path.isprintable() or "\ufffd" in path:
        raise Refused(errors(400, "path cannot contain non-printable characters"))
    if "/." in path or "//" in path:
        clean = normpath(path) + ("/" if path.endswith("/") else "")
        if clean != path:
            query = call.query.decode("latin-1")
            target = quote(clean) + (f"?{query}" if query else "")
            raise Refused(Reply(307, headers=((b"location", target.encode("ascii")),)))
