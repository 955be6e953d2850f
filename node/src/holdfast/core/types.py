# SPDX-License-Identifier: Apache-2.0
"""The contract between HTTP and the core: requests, responses, errors, and the calls HTTP makes. No HTTP in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


class Operation(Enum):
    """What a request does to its path; POST and PUT are both UPDATE (raft-api.md 0.1)."""

    READ = "read"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    LIST = "list"
    SCAN = "scan"
    HEADER = "header"


@dataclass(slots=True)
class Request:
    """One logical request. `path` has neither "/v1/" nor a leading slash; `data` is the decoded body, or the query of a read.

    `forwarded` is set on the leader for a request that a standby carried over.
    """

    operation: Operation
    path: str
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    token: str = field(default="", repr=False)
    namespace: str = ""
    remote_addr: str = ""
    request_id: str = ""
    forwarded: bool = False


@dataclass(slots=True)
class Response:
    """A logical answer; HTTP wraps it in the envelope. `status` None: 200. `top_level`: repeat `data` beside it (0.1)."""

    data: dict[str, Any] | None = field(default=None, repr=False)
    auth: dict[str, Any] | None = field(default=None, repr=False)
    warnings: list[str] | None = None
    lease_id: str = ""
    renewable: bool = False
    lease_duration: int = 0
    status: int | None = None
    top_level: bool = False


class ApiError(Exception):
    """An answer that is not a success: HTTP status and the texts of `errors`. Texts are fit for users, without secrets."""

    def __init__(
        self, status: int, *errors: str, data: dict[str, Any] | None = None, warnings: list[str] | None = None
    ):
        super().__init__("; ".join(errors) or str(status))
        self.status = status
        self.errors = list(errors)
        self.data = data
        self.warnings = warnings


class StandbyError(Exception):
    """This node is unsealed but not the leader: forward the request to the leader, or redirect the client."""


class Core(Protocol):
    """What HTTP calls. `handle` does seal check, token, policy and routing for every logical path."""

    async def handle(self, request: Request) -> Response | None:
        """None: 204 for a write, 404 for a read. Raises ApiError, or StandbyError on an unsealed standby."""

    async def authorize(self, request: Request) -> None:
        """Only the seal, standby, token and policy checks of `handle` (for streamed endpoints). Raises the same errors."""

    def initialized(self) -> bool: ...

    def sealed(self) -> bool: ...

    def joining(self) -> bool:
        """True between a Shamir `join` and its last share."""

    async def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sys/init`: the bare answer body with keys, keys_base64 and root_token (raft-api.md 5.1)."""

    def seal_status(self) -> dict[str, Any]: ...

    async def unseal(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sys/unseal`: the seal-status body."""

    async def seal(self, request: Request) -> None: ...

    def health(self) -> dict[str, Any]:
        """Body of sys/health; plus "removed": bool under the key `_removed`, which HTTP takes out to choose the status."""

    def leader_status(self) -> dict[str, Any]:
        """Body of sys/leader. Raises ApiError(503, "Vault is sealed") on a sealed node."""

    async def join(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sys/storage/raft/join`: `{"joined": bool}` (raft-api.md 1.2 and 2)."""

    async def bootstrap(self) -> None:
        """`sys/storage/raft/bootstrap` (raft-api.md 1.7)."""

    async def shutdown(self) -> None:
        """Seal in memory (keys are dropped), without any token check; the process is ending."""
