# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Exceptions of the collection. Private to holdfast.raft.

Every message is one sentence for the person who runs the play; no token, share or key is ever part of one.
Modules turn them into C(fail_json) in one place (``_module.run``).
"""

from __future__ import annotations

import typing as t


class RaftError(Exception):
    """Base of all. C(details) are added to the result of the failed task."""

    def __init__(self, message: str, **details: t.Any) -> None:
        super().__init__(message)
        self.details = details


class MissingLibrary(RaftError):
    """A Python library is not installed where the module runs. C(library) names it, C(trace) says why the import failed."""

    def __init__(self, library: str, trace: str) -> None:
        super().__init__(f"the Python library {library} is missing")
        self.library = library
        self.trace = trace


class Unreachable(RaftError):
    """No answer: refused, timed out, name not found, or TLS did not come about."""


class OutcomeUnknown(Unreachable):
    """The request went out, the answer did not come in: it may or may not have taken effect."""


class ApiError(RaftError):
    """The server answered with an error status. C(status), C(url) and C(errors) are what it said."""

    def __init__(self, message: str, status: int, url: str, errors: t.Sequence[str] = ()) -> None:
        super().__init__(message, status=status, url=url, errors=list(errors))
        self.status = status
        self.url = url
        self.errors = tuple(errors)

    def says(self, text: str) -> bool:
        """Whether one of the server's error texts contains C(text), in any case."""
        return any(text.lower() in error.lower() for error in self.errors)


class Sealed(ApiError):
    """503: the server is sealed or not initialised."""


class Forbidden(ApiError):
    """403: no token, a bad one, or a policy that does not allow it."""


class NotFound(ApiError):
    """404: no such path on this server, or nothing there yet."""


class TimedOut(RaftError):
    """A wait ended before what it waited for came about."""


class Refused(RaftError):
    """The step would endanger the cluster, or belongs to another cluster; nothing was changed by it."""


class CustodyError(RaftError):
    """Unseal shares could not be kept or read."""


class ArchiveError(RaftError):
    """A file is not a complete and intact snapshot."""
