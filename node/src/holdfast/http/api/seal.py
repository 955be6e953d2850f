# SPDX-License-Identifier: Apache-2.0
"""`sys/init`, `sys/seal-status`, `sys/unseal`, `sys/seal`: bare JSON, local to this node (raft-api.md 5.1)."""

from __future__ import annotations

from holdfast.core.types import Operation, StandbyError
from holdfast.http.api.common import WRITES, only, request_of, root_namespace_only
from holdfast.http.context import Context
from holdfast.http.envelope import bare, errors
from holdfast.http.fields import BOOL, INT, STRING, STRINGS, typed
from holdfast.http.message import Call, Reply

_INIT = {
    "secret_shares": INT,
    "secret_threshold": INT,
    "pgp_keys": STRINGS,
    "root_token_pgp_key": STRING,
    "recovery_shares": INT,
    "recovery_threshold": INT,
    "recovery_pgp_keys": STRINGS,
}
_UNSEAL = {"key": STRING, "reset": BOOL, "migrate": BOOL}


async def init(context: Context, call: Call) -> Reply:
    """GET: whether the server is initialised. PUT/POST: initialise it and return the shares and the root token."""
    root_namespace_only(call)
    only(call, "GET", *WRITES)
    if call.method == "GET":
        return bare({"initialized": context.core.initialized()})
    return bare(await context.core.initialize(typed(call.body, "InitRequest", _INIT)))


async def seal_status(context: Context, call: Call) -> Reply:
    """GET: always 200."""
    root_namespace_only(call)
    only(call, "GET")
    return bare(context.core.seal_status())


async def unseal(context: Context, call: Call) -> Reply:
    """PUT/POST one share, or `reset`; answers the seal status."""
    root_namespace_only(call)
    only(call, *WRITES)
    return bare(await context.core.unseal(typed(call.body, "UnsealRequest", _UNSEAL)))


async def seal(context: Context, call: Call) -> Reply:
    """PUT/POST: seal this node; 204."""
    root_namespace_only(call)
    only(call, *WRITES)
    try:
        await context.core.seal(request_of(call, Operation.UPDATE))
    except StandbyError:
        return errors(500, "vault cannot seal when in standby mode; please restart instead")
    return Reply(204)


ROUTES = {"sys/init": init, "sys/seal-status": seal_status, "sys/unseal": unseal, "sys/seal": seal}
