# SPDX-License-Identifier: Apache-2.0
"""`sys/storage/raft/join` and `/bootstrap`: bare, without token, for the asked node (raft-api.md 1.2, 1.7)."""

from __future__ import annotations

from holdfast.core.types import ApiError
from holdfast.http.api.common import WRITES, only, root_namespace_only
from holdfast.http.context import Context
from holdfast.http.envelope import bare, errors
from holdfast.http.fields import BOOL, STRING, UINT, typed
from holdfast.http.message import Call, Reply

_JOIN = {
    "leader_api_addr": STRING,
    "auto_join": STRING,
    "auto_join_scheme": STRING,
    "auto_join_port": UINT,
    "leader_ca_cert": STRING,
    "leader_client_cert": STRING,
    "leader_client_key": STRING,
    "leader_tls_servername": STRING,
    "retry": BOOL,
    "non_voter": BOOL,
}


async def join(context: Context, call: Call) -> Reply:
    """PUT/POST: begin to join a cluster; `{"joined": bool}`."""
    root_namespace_only(call)
    only(call, *WRITES)
    params = typed(call.body, "JoinRequest", _JOIN)
    scheme = params.get("auto_join_scheme", "")
    if scheme not in ("", "http", "https"):
        raise ApiError(400, f'invalid scheme "{scheme}"; must either be http or https')
    return bare(await context.core.join(params))


async def bootstrap(context: Context, call: Call) -> Reply:
    """PUT/POST: 200 with an empty body."""
    root_namespace_only(call)
    if call.method not in WRITES:
        return errors(400)
    await context.core.bootstrap()
    return Reply(200)


ROUTES = {"sys/storage/raft/join": join, "sys/storage/raft/bootstrap": bootstrap}
