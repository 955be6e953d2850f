# SPDX-License-Identifier: Apache-2.0
"""`sys/health`: the node's state as an HTTP status, for load balancers (raft-api.md 5.1)."""

from __future__ import annotations

from holdfast.http.api.common import only, root_namespace_only
from holdfast.http.context import Context
from holdfast.http.envelope import bare, errors
from holdfast.http.message import Call, Refused, Reply

_DEFAULTS = {
    "activecode": 200,
    "standbycode": 429,
    "sealedcode": 503,
    "uninitcode": 501,
    "removedcode": 530,
}


async def health(context: Context, call: Call) -> Reply:
    """GET or HEAD; needs no token. Query codes replace the statuses, `standbyok` makes a standby count as active."""
    root_namespace_only(call)
    only(call, "GET", "HEAD")
    query = call.query_values()
    codes = {name: _code(query[name][0]) if name in query else default for name, default in _DEFAULTS.items()}
    if query.get("standbyok", ["false"])[0].lower() not in ("false", "0"):
        codes["standbycode"] = codes["activecode"]
    body = dict(context.core.health())
    removed = bool(body.pop("_removed", False))
    return bare(body, codes[_state(body, removed)])


def _state(body: dict[str, object], removed: bool) -> str:
    if not body["initialized"]:
        return "uninitcode"
    if removed:
        return "removedcode"
    if body["sealed"]:
        return "sealedcode"
    return "standbycode" if body["standby"] else "activecode"


def _code(text: str) -> int:
    """An HTTP status of the query; informational ones would break the connection and are refused like text."""
    if not text.isascii() or not text.isdigit() or not 200 <= int(text) <= 599:
        raise Refused(errors(400))
    return int(text)


ROUTES = {"sys/health": health}
