# SPDX-License-Identifier: Apache-2.0
"""`sys/storage/raft/snapshot` (GET, POST), `/snapshot-force` (POST) and our own `/snapshot-status` (GET); 1.6.

Bodies are streamed both ways, standbys always answer 307, and there is no size limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from holdfast.core.types import ApiError, Operation, Response, StandbyError
from holdfast.http.api.common import WRITES, only, request_of, root_namespace_only
from holdfast.http.asgi import Receive, Send
from holdfast.http.body import Disconnected
from holdfast.http.context import Context
from holdfast.http.envelope import errors, logical
from holdfast.http.forwarding import redirect_to_leader
from holdfast.http.message import Call, Refused, Reply
from holdfast.snapshot.archive import SnapshotError
from holdfast.snapshot.restore import Restorer
from holdfast.snapshot.save import archive_stream
from holdfast.storage.types import NotLeader

SNAPSHOT = "sys/storage/raft/snapshot"
FORCE = "sys/storage/raft/snapshot-force"
STATUS = "sys/storage/raft/snapshot-status"
_HEADERS = ((b"content-type", b"application/gzip"), (b"content-disposition", b"attachment"))
PATHS = frozenset((SNAPSHOT, FORCE, STATUS))


class Aborted(Exception):
    """A download failed after its first byte: the connection has to break, so that nobody takes the file for whole."""


async def serve(context: Context, call: Call, receive: Receive, send: Send) -> Reply | None:
    """Answer a call to one of `PATHS`; None when the answer has been streamed."""
    root_namespace_only(call)
    if call.path == STATUS:
        return await _status(context, call)
    if call.path == FORCE:
        only(call, *WRITES)
    else:
        only(call, "GET", *WRITES)
    operation = Operation.READ if call.method == "GET" else Operation.UPDATE
    try:
        await context.core.authorize(request_of(call, operation))
        if operation is Operation.READ:
            await _save(context, call, send)
            return None
        return await _restore(context, call, receive)
    except (StandbyError, NotLeader):
        return redirect_to_leader(context, call)


async def _status(context: Context, call: Call) -> Reply:
    """Where the last restore on this node stands; read on the leader, needs `read` on the path."""
    only(call, "GET")
    try:
        await context.core.authorize(request_of(call, Operation.READ))
    except StandbyError:
        return redirect_to_leader(context, call)
    return logical(Response(data=_restorer(context).status.body()), Operation.READ, call.request_id)


async def _save(context: Context, call: Call, send: Send) -> None:
    cluster, restorer = context.cluster, _restorer(context)
    assert cluster is not None
    source = await cluster.open_snapshot()
    started = False
    try:
        stream = archive_stream(source, restorer.sealer)
        try:
            async for piece in stream:
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                    started = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            await stream.aclose()
    except BaseException as error:
        if not started:
            raise
        context.logger.error("snapshot download failed", extra={"fields": {"error": type(error).__name__}})
        if isinstance(error, asyncio.CancelledError):
            raise
        raise Aborted from error
    finally:
        source.close()
    await send({"type": "http.response.body", "body": b""})


async def _restore(context: Context, call: Call, receive: Receive) -> Reply:
    try:
        await _restorer(context).restore(_chunks(receive, context.read_timeout), call.path == FORCE)
    except SnapshotError as error:
        raise ApiError(400, str(error)) from None
    return Reply(204)


async def _chunks(receive: Receive, patience: float) -> AsyncIterator[bytes]:
    """The body, piece by piece; a client that sends nothing for `patience` seconds is given up."""
    more = True
    while more:
        try:
            async with asyncio.timeout(patience or None):
                message = await receive()
        except TimeoutError:
            raise Refused(errors(408, "the snapshot did not arrive in time")) from None
        if message["type"] == "http.disconnect":
            raise Disconnected
        more = message.get("more_body", False)
        if body := message.get("body"):
            yield body


def _restorer(context: Context) -> Restorer:
    assert context.snapshots is not None
    return context.snapshots
