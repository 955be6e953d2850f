# SPDX-License-Identifier: Apache-2.0
"""sys/mounts, sys/auth and sys/internal/ui/mounts (raft-api.md 5.7)."""

from __future__ import annotations

from typing import Any

from holdfast.core.acl import Acl
from holdfast.core.calls import Context, Route
from holdfast.core.mounts import MountEntry, MountTable, check_path
from holdfast.core.tokens import MAX_TTL
from holdfast.core.types import ApiError, Operation, Response
from holdfast.engines import fields

_READ, _UPDATE, _DELETE = Operation.READ, Operation.UPDATE, Operation.DELETE
_UNSUPPORTED = ("plugin_name", "plugin_version", "external_entropy_access")


class MountBackend:
    """Routes relative to sys/."""

    def __init__(self, mounts: MountTable) -> None:
        self._mounts = mounts
        self.routes: list[Route] = [
            ("mounts", {_READ: self._list}),
            ("mounts/*path/tune", {_READ: self._read_tune, _UPDATE: self._tune}),
            ("mounts/*path", {_READ: self._read, _UPDATE: self._enable, _DELETE: self._disable}),
            ("auth", {_READ: self._list_auth}),
            ("auth/*path", {_READ: self._read_auth}),
            ("internal/ui/mounts", {_READ: self._ui_list}),
            ("internal/ui/mounts/*path", {_READ: self._ui_read}),
        ]

    async def _list(self, _: Context) -> Response:
        mounts = self._mounts.mounts
        return Response({path: mounts[path].entry.info() for path in sorted(mounts)}, top_level=True)

    async def _read(self, context: Context) -> Response:
        return Response(self._entry(context.params["path"]).info(), top_level=True)

    def _entry(self, path: str) -> MountEntry:
        path = path.rstrip("/") + "/"
        mount = self._mounts.mounts.get(path)
        if mount is None:
            raise ApiError(400, f"No secret engine mount at {path}")
        return mount.entry

    async def _enable(self, context: Context) -> None:
        data, path = context.data, context.params["path"].rstrip("/") + "/"
        check_path(path)
        kind = fields.string(data, "type")
        if not kind:
            raise ApiError(400, "backend type must be specified as a string")
        for name in _UNSUPPORTED:
            if data.get(name):
                raise ApiError(400, f"{name} is not supported; leave it out")
        options = fields.string_mapping(data, "options") or {}
        if kind == "kv-v2":
            kind, options = "kv", {**options, "version": "2"}
        if kind == "kv-v1":
            kind, options = "kv", {**options, "version": "1"}
        if kind in ("cubbyhole", "identity", "system", "token"):
            raise ApiError(400, f'mount type of "{kind}" is not mountable')
        if kind != "kv":
            raise ApiError(400, f'plugin not found in the catalog: {kind}; this server has the engine "kv" only')
        if options.get("version", "1") not in ("1", "2"):
            raise ApiError(400, f'invalid version "{options["version"]}" of the kv engine; it must be 1 or 2')
        entry = MountEntry(
            path,
            kind,
            fields.string(data, "description"),
            options=options,
            config=_config({}, fields.mapping(data, "config") or {}),
            local=fields.boolean(data, "local"),
            seal_wrap=fields.boolean(data, "seal_wrap"),
        )
        await self._mounts.enable(entry)

    async def _disable(self, context: Context) -> None:
        await self._mounts.disable(context.params["path"].rstrip("/") + "/")

    async def _read_tune(self, context: Context) -> Response:
        entry = self._entry(context.params["path"])
        config = {name: value for name, value in entry.config.items() if not name.endswith("lease_ttl")}
        return Response(
            {
                "default_lease_ttl": entry.config.get("default_lease_ttl") or int(MAX_TTL),
                "description": entry.description,
                "force_no_cache": False,
                "max_lease_ttl": entry.config.get("max_lease_ttl") or int(MAX_TTL),
                **({"options": entry.options} if entry.options else {}),
                **config,
            },
            top_level=True,
        )

    async def _tune(self, context: Context) -> None:
        entry, data = self._entry(context.params["path"]), context.data
        options = fields.string_mapping(data, "options")
        version = (entry.options or {}).get("version", "1")
        if options is not None and options.get("version", version) != version:
            raise ApiError(
                400, "the version of a kv mount cannot be changed; enable a new mount and copy the secrets over"
            )
        changed = MountEntry(
            entry.path,
            entry.type,
            fields.string(data, "description", entry.description),
            entry.uuid,
            entry.accessor,
            {**(entry.options or {}), **options} if options is not None else entry.options,
            _config(entry.config, data),
            entry.local,
            entry.seal_wrap,
        )
        await self._mounts.save(changed)

    async def _list_auth(self, _: Context) -> Response:
        return Response({path: entry.info() for path, entry in sorted(self._mounts.auth.items())}, top_level=True)

    async def _read_auth(self, context: Context) -> Response:
        path = context.params["path"].rstrip("/") + "/"
        entry = self._mounts.auth.get(path)
        if entry is None:
            raise ApiError(400, f"No auth engine at {path}")
        return Response(entry.info(), top_level=True)

    async def _ui_list(self, context: Context) -> Response:
        secret = {
            path: mount.entry.info()
            for path, mount in self._mounts.mounts.items()
            if self._visible(mount.entry, path, context.acl)
        }
        auth = {
            path: entry.info()
            for path, entry in self._mounts.auth.items()
            if self._visible(entry, f"auth/{path}", context.acl)
        }
        return Response({"auth": auth, "secret": secret})

    @staticmethod
    def _visible(entry: MountEntry, path: str, acl: Acl | None) -> bool:
        if acl is None:
            return entry.config.get("listing_visibility") == "unauth"
        return acl.touches(path)

    async def _ui_read(self, context: Context) -> Response:
        path = context.params["path"]
        mount = self._mounts.match(path)
        if mount is None or context.acl is None or not context.acl.touches(mount.entry.path):
            shown = path if path.endswith("/") else path + "/"
            raise ApiError(
                403,
                "preflight capability check returned 403, please ensure client's policies grant access to path "
                f'"{shown}"',
            )
        return Response({**mount.entry.info(), "path": mount.entry.path})


def _config(known: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The mount's settings with those in `data` laid over. Raises ApiError 400 before anything changes."""
    config = dict(known)
    for name in ("default_lease_ttl", "max_lease_ttl"):
        if data.get(name) is not None:
            seconds = int(fields.duration(data, name))
            if seconds < 0:
                raise ApiError(400, f"{name} must not be negative")
            config[name] = seconds
    default, limit = config.get("default_lease_ttl", 0), config.get("max_lease_ttl", 0) or int(MAX_TTL)
    if default > limit:
        raise ApiError(
            400, f"default_lease_ttl of {default} seconds must not be above the max_lease_ttl of {limit} seconds"
        )
    visibility = fields.string(data, "listing_visibility", config.get("listing_visibility", ""))
    if visibility not in ("", "hidden", "unauth"):
        raise ApiError(400, f'invalid listing_visibility "{visibility}"; it must be hidden or unauth')
    if visibility:
        config["listing_visibility"] = visibility
    return config
