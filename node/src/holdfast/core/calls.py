# SPDX-License-Identifier: Apache-2.0
"""A routed call and the table that finds its handler; used by the built-in backends (sys/, auth/token/)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.acl import Acl
from holdfast.core.errors import wrapped
from holdfast.core.tokens import Client
from holdfast.core.types import ApiError, Operation, Response


@dataclass(slots=True)
class Context:
    """What a handler of a built-in backend gets; `client` and `acl` are None on unauthenticated paths only."""

    operation: Operation
    path: str
    data: dict[str, Any] = field(repr=False)
    client: Client | None = None
    acl: Acl | None = None
    token: str = field(default="", repr=False)
    params: dict[str, str] = field(default_factory=dict)

    def caller(self) -> Client:
        """The authenticated caller."""
        if self.client is None:
            raise ApiError(403, "permission denied")
        return self.client

    def rights(self) -> Acl:
        """The caller's permissions."""
        if self.acl is None:
            raise ApiError(403, "permission denied")
        return self.acl


Handler = Callable[[Context], Awaitable[Response | None]]
Route = tuple[str, dict[Operation, Handler]]


class RouteTable:
    """Patterns with `:name` for one segment and `*name` for the rest, tried in order; relative to the mount."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, dict[Operation, Handler]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[Operation, Handler]]] = []
        for pattern, handlers in routes:
            if ":" in pattern or "*" in pattern:
                expression = re.sub(r":(\w+)", r"(?P<\1>[^/]+)", re.sub(r"\*(\w+)", r"(?P<\1>.+?)", pattern))
                self._patterns.append((re.compile(expression + "/?"), handlers))
            else:
                self._exact[pattern] = handlers

    async def dispatch(self, path: str, context: Context) -> Response | None:
        """Run the handler of `path`. Raises ApiError 404 unsupported path, 405 unsupported operation."""
        handlers = self._exact.get(path.rstrip("/"))
        if handlers is None:
            for expression, candidates in self._patterns:
                if match := expression.fullmatch(path):
                    handlers, context.params = candidates, match.groupdict()
                    break
        if handlers is None:
            raise ApiError(404, wrapped("unsupported path"))
        handler = handlers.get(context.operation)
        if handler is None:
            raise ApiError(405, wrapped("unsupported operation"))
        return await handler(context)
