# SPDX-License-Identifier: Apache-2.0
"""The routed paths below sys/: policies, capabilities, key status; mounts and Raft come from their own modules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from holdfast.barrier.barrier import Barrier
from holdfast.core.acl import Acl
from holdfast.core.calls import Context, Route, RouteTable
from holdfast.core.policies import PolicyStore
from holdfast.core.tokens import TokenStore
from holdfast.core.types import ApiError, Operation, Response
from holdfast.engines import fields

_READ, _UPDATE, _DELETE, _LIST = Operation.READ, Operation.UPDATE, Operation.DELETE, Operation.LIST


class SystemBackend:
    """The route table of sys/. `step_down` and `ha_status` are the core's; `further` are other modules' routes."""

    def __init__(
        self,
        barrier: Barrier,
        policies: PolicyStore,
        tokens: TokenStore,
        step_down: Callable[[], Awaitable[None]],
        ha_status: Callable[[], dict[str, Any]],
        further: Iterable[Route],
    ) -> None:
        self._barrier = barrier
        self._policies = policies
        self._tokens = tokens
        self._hand_over = step_down
        self._members = ha_status
        self.routes = RouteTable(
            [
                ("policies/acl", {_LIST: self._list_policies, _READ: self._list_policies}),
                (
                    "policies/acl/:name",
                    {_READ: self._read_policy, _UPDATE: self._write_policy, _DELETE: self._delete_policy},
                ),
                ("policy", {_READ: self._list_legacy, _LIST: self._list_legacy}),
                ("policy/:name", {_READ: self._read_legacy, _UPDATE: self._write_policy, _DELETE: self._delete_policy}),
                ("capabilities", {_UPDATE: self._capabilities}),
                ("capabilities-self", {_UPDATE: self._capabilities_self}),
                ("capabilities-accessor", {_UPDATE: self._capabilities_accessor}),
                ("key-status", {_READ: self._key_status}),
                ("ha-status", {_READ: self._ha_status}),
                ("step-down", {_UPDATE: self._step_down}),
                *further,
            ]
        )

    # -- policies

    async def _list_policies(self, _: Context) -> Response:
        return Response({"keys": self._policies.names()})

    async def _read_policy(self, context: Context) -> Response | None:
        policy = self._policies.get(context.params["name"])
        if policy is None:
            return None
        data: dict[str, Any] = {"name": policy.name, "policy": policy.text}
        if policy.name != "root":
            data |= {
                "allow_slashes_in_identity_templates": False,
                "allow_wildcards_in_identity_templates": False,
                "cas_required": policy.cas_required,
                "modified": policy.modified,
                "version": policy.version,
            }
        return Response(data)

    async def _write_policy(self, context: Context) -> None:
        data = context.data
        text = fields.string(data, "policy") or fields.string(data, "rules")
        for name in ("ttl", "expiration"):
            if data.get(name):
                raise ApiError(400, f"{name} of a policy is not supported; leave it out")
        cas = fields.integer(data, "cas") if data.get("cas") is not None else None
        required = fields.boolean(data, "cas_required") if data.get("cas_required") is not None else None
        await self._policies.put(context.params["name"], text, cas, required)

    async def _delete_policy(self, context: Context) -> None:
        await self._policies.delete(context.params["name"])

    async def _list_legacy(self, _: Context) -> Response:
        names = self._policies.names()
        return Response({"keys": names, "policies": names}, top_level=True)

    async def _read_legacy(self, context: Context) -> Response | None:
        policy = self._policies.get(context.params["name"])
        return None if policy is None else Response({"name": policy.name, "rules": policy.text}, top_level=True)

    # -- capabilities

    async def _capabilities_self(self, context: Context) -> Response:
        return _capabilities(context.rights(), context.data)

    async def _capabilities(self, context: Context) -> Response:
        entry = self._tokens.find(self._tokens.salted(fields.string(context.data, "token")))
        if entry is None:
            raise ApiError(400, "invalid token")
        return _capabilities(self._policies.acl(entry.policies), context.data)

    async def _capabilities_accessor(self, context: Context) -> Response:
        found = self._tokens.by_accessor(fields.string(context.data, "accessor"))
        if found is None:
            raise ApiError(400, "invalid accessor")
        return _capabilities(self._policies.acl(found[1].policies), context.data)

    # -- state of the node

    async def _key_status(self, _: Context) -> Response:
        active = self._barrier.keyring.active
        return Response(
            {"encryptions": self._barrier.encryptions, "install_time": active.installed, "term": active.term},
            top_level=True,
        )

    async def _ha_status(self, _: Context) -> Response:
        return Response(self._members(), top_level=True)

    async def _step_down(self, _: Context) -> None:
        await self._hand_over()


def _capabilities(acl: Acl, data: dict[str, Any]) -> Response:
    paths = fields.strings(data, "paths") or fields.strings(data, "path")
    if not paths:
        raise ApiError(400, "paths must be supplied")
    answer: dict[str, Any] = {path: acl.capabilities(path.removeprefix("/")) for path in paths}
    if len(paths) == 1:
        answer["capabilities"] = answer[paths[0]]
    return Response(answer, top_level=True)
