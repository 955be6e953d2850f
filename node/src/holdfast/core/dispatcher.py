# SPDX-License-Identifier: Apache-2.0
"""From a logical request to its answer: token, policy, route (raft-api.md 0.1, 0.3). Runs on the active node."""

from __future__ import annotations

from holdfast.core.acl import Acl
from holdfast.core.calls import Context
from holdfast.core.errors import denied, wrapped
from holdfast.core.mounts import MountTable
from holdfast.core.policies import PolicyStore
from holdfast.core.system_backend import SystemBackend
from holdfast.core.token_backend import TokenBackend
from holdfast.core.tokens import Client, TokenStore
from holdfast.core.types import ApiError, Operation, Request, Response
from holdfast.engines.types import Call
from holdfast.storage.types import Storage

_LISTS = (Operation.LIST, Operation.SCAN)
_READS = (Operation.READ, Operation.LIST, Operation.SCAN, Operation.HEADER)
_WRITES = (Operation.UPDATE, Operation.PATCH)
_OPEN_PATHS = frozenset({"sys/storage/raft/bootstrap/challenge", "sys/storage/raft/bootstrap/answer"})
_UI_PATH = "sys/internal/ui/mounts"
_SUDO_PATHS = frozenset(
    {"auth/token/revoke-orphan", "auth/token/accessors", "sys/seal", "sys/step-down", "sys/audit", "sys/rotate"}
)
_SUDO_PREFIXES = ("sys/auth/", "sys/audit/", "sys/raw", "sys/rotate/", "sys/config/")
_ROOT_ONLY = ("sys/storage/", "sys/step-down", "sys/seal", "sys/unseal", "sys/init", "sys/health", "sys/raw")


class Dispatcher:
    """Answers requests on one unsealed state."""

    def __init__(
        self,
        storage: Storage,
        tokens: TokenStore,
        policies: PolicyStore,
        mounts: MountTable,
        system: SystemBackend,
    ) -> None:
        self._storage = storage
        self._tokens = tokens
        self._policies = policies
        self._mounts = mounts
        self._system = system
        self._auth = TokenBackend(tokens)

    async def handle(self, request: Request) -> Response | None:
        """None: 204 for a write, 404 for a read. Raises ApiError and errors of storage and engines."""
        path = _normal(request)
        # A secret's write needs no round of its own: its commit fails if this node no longer leads. Where none follows, because
        # the request is refused here, the round comes before the refusal; engines do the same.
        current = request.operation in _READS or path.startswith(("sys/", "auth/")) or self._mounts.match(path) is None
        if current:
            await self._storage.read_barrier()
        if path in _OPEN_PATHS:
            return await self._route(Context(request.operation, path, request.data))
        if path.startswith(_UI_PATH):
            return await self._ui(request, path)
        client, acl = await self._admit(request, path, current=current)
        context = Context(request.operation, path, request.data, client, acl, request.token)
        if not client.spent:
            return await self._route(context)
        try:
            return await self._route(context)
        finally:
            await self._tokens.revoke(client.salted)

    async def authorize(self, request: Request, *, local: bool = False) -> None:
        """Only the checks. `local` judges by what this node has applied (a standby that is asked to seal itself)."""
        path = _normal(request)
        if not local:
            await self._storage.read_barrier()
        client, _ = await self._admit(request, path, count=not local)
        if client.spent:
            await self._tokens.revoke(client.salted)

    async def _admit(
        self, request: Request, path: str, *, count: bool = True, current: bool = True
    ) -> tuple[Client, Acl]:
        """Who asks, and what they may do. `current`: what this node has applied is known to be current."""
        client = await self._tokens.use(request.token, count=count)
        if client is None and not current:
            await self._storage.read_barrier()
            current = True
            client = await self._tokens.use(request.token, count=count)
        if client is None:
            raise denied()
        acl = self._permits(request, path, client)
        if acl is None and not current:
            await self._storage.read_barrier()
            acl = self._permits(request, path, client)
        if acl is None:
            if client.spent:
                await self._tokens.revoke(client.salted)
            raise denied(by_policy=True)
        return client, acl

    def _permits(self, request: Request, path: str, client: Client) -> Acl | None:
        """The caller's rights; None when they do not cover the request."""
        acl = self._policies.acl(client.entry.policies)
        if acl.root:
            return acl
        sudo = path.rstrip("/") in _SUDO_PATHS or path.startswith(_SUDO_PREFIXES)
        allowed = acl.allows(
            request.operation, path, request.data, lambda: self._exists(request, path, client), sudo=sudo
        )
        return acl if allowed else None

    def _exists(self, request: Request, path: str, client: Client) -> bool | None:
        mount = self._mounts.match(path)
        if mount is None or mount.engine is None:
            return None
        call = Call("update", path[len(mount.entry.path) :], request.data, client.entry.cubbyhole_id)
        return mount.engine.exists(call)

    async def _ui(self, request: Request, path: str) -> Response | None:
        """Open to everyone who has a token with any right below the mount, and the bare list to everyone."""
        client = await self._tokens.use(request.token)
        if client is None and (request.token or path.rstrip("/") != _UI_PATH):
            raise denied()
        acl = self._policies.acl(client.entry.policies) if client else None
        try:
            return await self._route(Context(request.operation, path, request.data, client, acl, request.token))
        finally:
            if client is not None and client.spent:
                await self._tokens.revoke(client.salted)

    async def _route(self, context: Context) -> Response | None:
        path = context.path
        if path.startswith("sys/"):
            return await self._system.routes.dispatch(path[4:], context)
        if path.startswith("auth/token/"):
            return await self._auth.routes.dispatch(path[11:], context)
        mount = self._mounts.match(path)
        if mount is None:
            raise ApiError(404, f'no handler for route "{path}". route entry not found.')
        if mount.engine is None:
            raise ApiError(404, wrapped("unsupported path"))
        if context.operation is Operation.HEADER:
            raise ApiError(405, wrapped("unsupported operation"))
        owner = context.client.entry.cubbyhole_id if context.client else ""
        call = Call(context.operation.value, path[len(mount.entry.path) :], context.data, owner)
        answer = await mount.engine.handle(call)
        if answer is None:
            return None
        return Response(
            answer.data, warnings=answer.warnings, lease_duration=answer.lease_duration, status=answer.status
        )


def _normal(request: Request) -> str:
    """The path, checked; listings always end in "/". Raises ApiError 400 or 404 for what can never be served."""
    path = request.path
    if request.namespace.strip("/") not in ("", "root"):
        if path.startswith(_ROOT_ONLY):
            raise ApiError(400, "operation unavailable in namespaces")
        raise ApiError(404, "namespaces are not supported; leave the namespace header out")
    if not path.isprintable():
        raise ApiError(400, "path cannot contain non-printable characters")
    if ".." in path and ".." in path.split("/"):
        raise ApiError(400, "path cannot contain parent references")
    if request.operation in _LISTS:
        return path if path.endswith("/") else path + "/"
    if request.operation in _WRITES and path.endswith("/") and not path.startswith(("sys/", "auth/")):
        raise ApiError(400, "cannot write to a path ending in '/'")
    return path
