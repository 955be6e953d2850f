# SPDX-License-Identifier: Apache-2.0
"""The core's recurring refusals, and what storage's and engines' errors mean to a client (raft-api.md 0.1)."""

from __future__ import annotations

from holdfast.core.types import ApiError, StandbyError
from holdfast.engines.types import EngineError
from holdfast.storage.types import (
    EntryTooLarge,
    MembershipRefused,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    PreconditionFailed,
    StorageError,
    Unavailable,
)


def wrapped(text: str) -> str:
    """The form that OpenBao gives to errors which come out of its request handling."""
    return f"1 error occurred:\n\t* {text}\n\n"


def sealed() -> ApiError:
    """503: the node holds no keys (or is not initialised)."""
    return ApiError(503, "Vault is sealed")


def denied(*, by_policy: bool = False) -> ApiError:
    """403; OpenBao wraps the text when it is the policies that deny."""
    return ApiError(403, wrapped("permission denied") if by_policy else "permission denied")


def removed() -> ApiError:
    """503: this server is no member any more."""
    return ApiError(
        503, "this server has been removed from its cluster; stop it, wipe its data directory, start it and join again"
    )


def translate(error: Exception) -> Exception:
    """The client's view of an error of the layers below; anything unknown comes back unchanged."""
    if isinstance(error, EngineError):
        return ApiError(error.status, *error.errors)
    if isinstance(error, NotLeader):
        return StandbyError()
    if isinstance(error, OutcomeUnknown):
        return ApiError(500, f"the outcome of this write is unknown: {error}; read it back before trying again")
    if isinstance(error, PreconditionFailed):
        return ApiError(409, f"{error}; try again")
    if isinstance(error, EntryTooLarge):
        return ApiError(413, str(error))
    if isinstance(error, NoSpace):
        return ApiError(507, str(error))
    if isinstance(error, Unavailable):
        return ApiError(503, str(error))
    if isinstance(error, MembershipRefused):
        return ApiError(400, str(error))
    if isinstance(error, StorageError):
        return ApiError(500, str(error))
    return error
