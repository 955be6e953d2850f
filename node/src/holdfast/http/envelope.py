# SPDX-License-Identifier: Apache-2.0
"""Bodies of answers: the envelope of logical responses, bare JSON, and errors (raft-api.md 0.1)."""

from __future__ import annotations

from json import JSONEncoder
from typing import Any

from holdfast.core.types import ApiError, Operation, Response
from holdfast.http.message import Reply

_encode = JSONEncoder(separators=(",", ":"), check_circular=False).encode
_READS = (Operation.READ, Operation.LIST, Operation.SCAN, Operation.HEADER)


def bare(body: Any, status: int = 200) -> Reply:
    """JSON as it is, with the trailing newline that Go's encoder writes."""
    return Reply(status, (_encode(body) + "\n").encode("ascii"))


def errors(status: int, *texts: str) -> Reply:
    """`{"errors": […]}`."""
    return bare({"errors": list(texts)}, status)


def logical(response: Response | None, operation: Operation, request_id: str) -> Reply:
    """The answer to a logical request: 204 and 404 for None, else the envelope."""
    if response is None:
        return errors(404) if operation in _READS else Reply(204)
    if response.data is None and response.auth is None and not response.warnings and response.status == 204:
        return Reply(204)
    body: dict[str, Any] = {}
    if response.top_level and response.data:
        body.update(response.data)
    body |= {
        "request_id": request_id,
        "lease_id": response.lease_id,
        "renewable": response.renewable,
        "lease_duration": response.lease_duration,
        "data": response.data,
        "wrap_info": None,
        "warnings": response.warnings,
        "auth": response.auth,
    }
    return bare(body, response.status or 200)


def api_error(error: ApiError, request_id: str) -> Reply:
    """The answer to an ApiError; with data or warnings but no text it keeps the envelope."""
    if error.errors or (error.data is None and not error.warnings):
        return errors(error.status, *error.errors)
    response = Response(data=error.data, warnings=error.warnings, status=error.status)
    return logical(response, Operation.READ, request_id)
