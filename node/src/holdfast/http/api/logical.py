# SPDX-License-Identifier: Apache-2.0
"""Every path without a handler of its own: HTTP to `core.types.Request`, and the envelope back (raft-api.md 0.1)."""

from __future__ import annotations

from typing import Any

from holdfast.core.types import Operation
from holdfast.http.api.common import namespace_of, request_of
from holdfast.http.body import decode_object
from holdfast.http.context import Context
from holdfast.http.envelope import errors, logical
from holdfast.http.message import Call, Refused, Reply

_OPERATIONS = {
    "GET": Operation.READ,
    "PUT": Operation.UPDATE,
    "POST": Operation.UPDATE,
    "PATCH": Operation.PATCH,
    "DELETE": Operation.DELETE,
    "LIST": Operation.LIST,
    "SCAN": Operation.SCAN,
}
_RESERVED = ("list", "scan", "help")
_ROOT_ONLY = "sys/storage/"


async def handle(context: Context, call: Call) -> Reply:
    """Answer a logical call. Raises ApiError, StandbyError, StorageError, or Refused."""
    operation = _OPERATIONS.get(call.method)
    if operation is None:
        raise Refused(errors(405))
    if call.path.startswith(_ROOT_ONLY) and namespace_of(call):
        raise Refused(errors(400, "operation unavailable in namespaces"))
    if operation is Operation.READ and call.query:
        operation = _listing(call)
    if operation in (Operation.UPDATE, Operation.PATCH):
        if operation is Operation.PATCH:
            _check_patch(call)
        if call.path.endswith("/") and operation is Operation.UPDATE:
            raise Refused(errors(400, "cannot write to a path ending in '/'"))
        data = decode_object(call.body)
    else:
        data = _query_data(call)
    response = await context.core.handle(request_of(call, operation, data))
    return logical(response, operation, call.request_id)


def _listing(call: Call) -> Operation:
    """READ, or what `?list=true` and `?scan=true` make of it; a value that is no boolean is refused."""
    query = call.query_values()
    for name, operation in (("list", Operation.LIST), ("scan", Operation.SCAN)):
        if name in query:
            text = query[name][0].lower()
            if text in ("true", "1", "t"):
                return operation
            if text not in ("false", "0", "f", ""):
                raise Refused(errors(400, f"failed to parse {name} query parameter: {text[:20]!r} is not a boolean"))
    return Operation.READ


def _query_data(call: Call) -> dict[str, Any]:
    if not call.query:
        return {}
    return {
        name: values[0] if len(values) == 1 else values
        for name, values in call.query_values().items()
        if name not in _RESERVED
    }


def _check_patch(call: Call) -> None:
    """PATCH wants `application/merge-patch+json`: 400 without a type, 415 for another one (seen on OpenBao)."""
    kind = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if not kind:
        raise Refused(errors(400, "mime: no media type"))
    if kind != b"application/merge-patch+json":
        raise Refused(errors(415, "PATCH requires Content-Type of application/merge-patch+json"))
