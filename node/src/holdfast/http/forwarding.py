# SPDX-License-Identifier: Apache-2.0
"""What a standby does with a request that only the leader can serve: forward it, or send the client there (0.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from holdfast.core.types import StandbyError
from holdfast.http.context import Context
from holdfast.http.envelope import errors
from holdfast.http.message import Call, Reply
from holdfast.storage.types import ForwardReply, ForwardRequest, NotLeader, OutcomeUnknown

NO_ACTIVE_NODE = "local node not active but active cluster node not found"
_NO_REDIRECT_TARGET = "no active Vault instance found"
_NOT_LEADER_MARK = ("x-holdfast-not-leader", "1")  # the answer of a node that lost leadership before it did anything
_POLL = 0.02  # seconds between two looks for a leader during an election
# Headers that mean something to the leader; hop-by-hop headers and lengths are not carried.
_CARRIED = (
    b"x-vault-token",
    b"authorization",
    b"x-vault-namespace",
    b"x-vault-wrap-ttl",
    b"x-vault-request",
    b"content-type",
)
_READS = ("GET", "HEAD", "LIST", "SCAN")  # may be asked again when the answer was lost

Local = Callable[[Context, Call], Awaitable[Reply]]


async def send_to_leader(context: Context, call: Call, local: Local) -> Reply:
    """Have the leader answer `call`; `local` runs it here when this node has become the leader meanwhile.

    Waits up to `context.election_wait` seconds for a leader; only a request that nobody has begun is tried again.
    """
    cluster = context.cluster
    if cluster is None:
        return errors(503, "node is not active")
    if b"x-vault-no-request-forwarding" in call.headers:
        return redirect_to_leader(context, call)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + context.election_wait
    request = _to_forward(call)
    while True:
        try:
            if cluster.is_leader():
                return await local(context, call)
            if cluster.leader() is not None:
                reply = await cluster.forward(request)
                if _NOT_LEADER_MARK not in reply.headers:
                    return _from_forward(reply)
        except (NotLeader, StandbyError):
            pass
        except OutcomeUnknown:
            if call.method not in _READS:
                raise
        if loop.time() >= deadline:
            return errors(500, NO_ACTIVE_NODE)
        await asyncio.sleep(_POLL)


def redirect_to_leader(context: Context, call: Call) -> Reply:
    """307 to the leader's advertised API address; 503 when there is no leader to go to."""
    leader = context.cluster.leader() if context.cluster else None
    if leader is None or not leader.api_addr or (context.cluster and leader.node_id == context.cluster.node_id):
        return errors(503, _NO_REDIRECT_TARGET)
    location = leader.api_addr.rstrip("/") + call.target()
    return Reply(307, headers=((b"location", location.encode("latin-1")),))


async def serve_forwarded(context: Context, request: ForwardRequest, local: Local) -> ForwardReply:
    """The leader's side: run a carried request. Never forwards again; says so when this node does not lead."""
    path, _, query = request.target.partition("?")
    call = Call(
        method=request.method,
        path=unquote(path.removeprefix("/v1/")),
        query=query.encode("latin-1"),
        headers={name.encode("latin-1"): value.encode("latin-1") for name, value in request.headers},
        body=request.body,
        remote_addr=request.remote_addr,
        request_id=next((value for name, value in request.headers if name == "x-request-id"), ""),
        forwarded=True,
    )
    try:
        reply = await local(context, call)
    except (StandbyError, NotLeader):
        return ForwardReply(503, (_NOT_LEADER_MARK,), b"")
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers)
    return ForwardReply(reply.status, (("content-type", reply.content_type.decode("latin-1")), *headers), reply.body)


def _to_forward(call: Call) -> ForwardRequest:
    headers = [
        (name.decode("latin-1"), call.headers[name].decode("latin-1")) for name in _CARRIED if name in call.headers
    ]
    headers.append(("x-request-id", call.request_id))
    return ForwardRequest(call.method, call.target(), tuple(headers), call.body, call.remote_addr)


def _from_forward(reply: ForwardReply) -> Reply:
    content_type = b"application/json"
    headers: list[tuple[bytes, bytes]] = []
    for name, value in reply.headers:
        if name == "content-type":
            content_type = value.encode("latin-1")
        else:
            headers.append((name.encode("latin-1"), value.encode("latin-1")))
    return Reply(reply.status, reply.body, content_type, tuple(headers))
