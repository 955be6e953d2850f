# SPDX-License-Identifier: Apache-2.0
"""KV version 1: one JSON object per path (raft-api.md 5.6)."""

from __future__ import annotations

from typing import Any

from holdfast.engines import stored
from holdfast.engines.fields import parse_duration
from holdfast.engines.types import (
    DELETE,
    LIST,
    READ,
    SCAN,
    UPDATE,
    Answer,
    Call,
    EngineError,
    View,
    page,
    unsupported_operation,
)
from holdfast.storage.types import Delete, Put

DEFAULT_LEASE = 2_764_800  # 768 h, seconds


class Kv1:
    """A `kv` mount without versions. Keys are stored under their own path."""

    def __init__(self, view: View) -> None:
        self._view = view

    def exists(self, call: Call) -> bool | None:
        """Whether there is a value at the path."""
        return self._view.get(call.path) is not None

    async def handle(self, call: Call) -> Answer | None:
        """Read, write, delete, list and scan."""
        operation, path = call.operation, call.path
        if operation == LIST:
            return page(self._view.list(path), call.data)
        if operation == SCAN:
            return page([key[len(path) :] for key in self._view.scan(path)], call.data)
        if not path or operation not in (READ, UPDATE, DELETE):
            raise unsupported_operation()
        if operation == READ:
            return self._read(path)
        if operation == UPDATE and not call.data:
            raise EngineError(400, "missing data fields")
        await self._view.commit([Put(path, stored.encode(call.data)) if operation == UPDATE else Delete(path)])
        return None

    def _read(self, path: str) -> Answer | None:
        item = self._view.get(path)
        if item is None:
            return None
        data: dict[str, Any] = stored.decode(item.value)
        return Answer(data, lease_duration=_lease(data))


def _lease(data: dict[str, Any]) -> int:
    """A `ttl` or `lease` in the data, in whole seconds, is repeated as the lease duration."""
    for name in ("ttl", "lease"):
        value = data.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            try:
                return int(parse_duration(value))
            except ValueError:
                continue
    return DEFAULT_LEASE
