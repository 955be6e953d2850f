# SPDX-License-Identifier: Apache-2.0
"""What the core and an engine say to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.storage.types import Item, Op

READ, UPDATE, PATCH, DELETE, LIST, SCAN = "read", "update", "patch", "delete", "list", "scan"


class View(Protocol):
    """The plaintext storage of one mount; keys are relative to it. Errors as storage.types.Storage."""

    def get(self, key: str) -> Item | None: ...

    def list(self, prefix: str) -> list[str]: ...

    def scan(self, prefix: str) -> Iterator[str]: ...

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int: ...

    async def read_barrier(self) -> None:
        """What `get` shows afterwards is current. A write that commits nothing has to ask, before it says so or refuses."""


@dataclass(slots=True)
class Call:
    """One request: `operation` is one of the names above, `path` is relative to the mount.

    `owner` identifies the token for engines that keep data per token; it is never the token itself.
    """

    operation: str
    path: str
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    owner: str = ""


@dataclass(slots=True)
class Answer:
    """A successful answer; `status` None means 200."""

    data: dict[str, Any] | None = field(default=None, repr=False)
    warnings: list[str] | None = None
    status: int | None = None
    lease_duration: int = 0


class EngineError(Exception):
    """A refusal: HTTP-like status and the sentences for the user (possibly none)."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__("; ".join(errors) or str(status))
        self.status = status
        self.errors = list(errors)


def unsupported_operation() -> EngineError:
    """405: the path has no such operation."""
    return EngineError(405, "1 error occurred:\n\t* unsupported operation\n\n")


class Engine(Protocol):
    """A secret engine on one mount."""

    async def handle(self, call: Call) -> Answer | None:
        """Answer a call; None is 204 for a write and 404 for a read. Raises EngineError and StorageError."""

    def exists(self, call: Call) -> bool | None:
        """Whether an UPDATE of this path meets something: False makes it a "create" for the ACL.

        None: the engine does not tell them apart, it is always an update.
        """


def page(keys: list[str], data: Mapping[str, Any]) -> Answer:
    """The answer of a LIST: `keys`, cut by the parameters `after` and `limit`. Raises EngineError 404 without keys."""
    after, limit = str(data.get("after") or ""), str(data.get("limit") or "")
    if after:
        keys = [key for key in keys if key > after]
    if limit and limit.lstrip("-").isdigit() and int(limit) > 0:
        keys = keys[: int(limit)]
    if not keys:
        raise EngineError(404)
    return Answer({"keys": keys})
