# SPDX-License-Identifier: Apache-2.0
"""Every exception a handler may raise, as the answer the client gets."""

from __future__ import annotations

import logging
import traceback

from holdfast.core.types import ApiError
from holdfast.http.body import Disconnected
from holdfast.http.envelope import api_error, errors
from holdfast.http.message import Call, Refused, Reply
from holdfast.storage.types import (
    EntryTooLarge,
    MembershipRefused,
    NoSpace,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
    Unavailable,
)

# OutcomeUnknown is a 5xx that says so (design.md 14); the others have changed nothing.
_STATUS: tuple[tuple[type[StorageError], int], ...] = (
    (OutcomeUnknown, 500),
    (EntryTooLarge, 413),
    (NoSpace, 503),
    (Unavailable, 503),
    (PreconditionFailed, 400),
    (MembershipRefused, 400),
)


def reply_for(error: Exception, call: Call, logger: logging.Logger, limit: float = 0.0) -> Reply:
    """The answer to `error`. What nobody expected is logged with its traceback; the client gets the request id only.

    `limit` is the time limit in seconds that a TimeoutError stands for.
    """
    if isinstance(error, ApiError):
        return api_error(error, call.request_id)
    if isinstance(error, Refused):
        return error.reply
    if isinstance(error, StorageError):
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        text = str(error)
        if isinstance(error, OutcomeUnknown):
            text = f"the outcome of this request is unknown, look before you repeat it: {text}"
        return errors(status, text)
    if isinstance(error, TimeoutError):
        return errors(
            503, f"the request took longer than {limit:g} s (max_request_duration); the outcome of a write is unknown"
        )
    if isinstance(error, Disconnected):
        return errors(400, "the client closed the connection")
    logger.error(
        "unexpected error",
        extra={
            "fields": {
                "request_id": call.request_id,
                "method": call.method,
                "path": call.path,
                "error": type(error).__name__,
                "traceback": "".join(traceback.format_exception(error)),
            }
        },
    )
    return errors(500, f"internal error, request id {call.request_id}")
