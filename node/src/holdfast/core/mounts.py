# SPDX-License-Identifier: Apache-2.0
"""The mount table: one barrier entry per mount, as OpenBao keeps it (raft-api.md 5.7, 6.2)."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from holdfast.barrier.barrier import Barrier
from holdfast.core.tokens import batches
from holdfast.core.types import ApiError
from holdfast.engines.cubbyhole import Cubbyhole
from holdfast.engines.kv1 import Kv1
from holdfast.engines.kv2 import Kv2
from holdfast.engines.types import Engine, View
from holdfast.storage.types import Delete, Put

MOUNT_PREFIX = "core/mounts/"
LOCAL_PREFIX = "core/local-mounts/"
AUTH_PREFIX = "core/auth/"
DATA_PREFIX = "logical/"
PROTECTED = ("audit/", "auth/", "sys/", "cubbyhole/", "identity/")
_PATH = re.compile(r"[^\s/][^/\x00-\x1f\x7f]*(?:/[^/\x00-\x1f\x7f]+)*/")
_VERSION = "v0+builtin.holdfast"


@dataclass(slots=True)
class MountEntry:
    """A mount. `path` ends in "/"; `config` holds ttls in whole seconds and texts as the API shows them."""

    path: str
    type: str
    description: str = ""
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    accessor: str = ""
    options: dict[str, str] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    local: bool = False
    seal_wrap: bool = False
    table: str = "mounts"

    def __post_init__(self) -> None:
        self.accessor = self.accessor or f"{'auth_' if self.table == 'auth' else ''}{self.type}_{secrets.token_hex(4)}"

    @property
    def key(self) -> str:
        """Where the entry is stored."""
        if self.table == "auth":
            return AUTH_PREFIX + self.uuid
        return (LOCAL_PREFIX if self.local and self.path == "cubbyhole/" else MOUNT_PREFIX) + self.uuid

    def to_bytes(self) -> bytes:
        """The stored form; field names are OpenBao's, its durations nanoseconds."""
        config = dict(self.config)
        for name in ("default_lease_ttl", "max_lease_ttl"):
            if config.get(name):
                config[name] = int(config[name]) * 10**9
        return json.dumps(
            {
                "table": self.table,
                "path": self.path,
                "type": self.type,
                "description": self.description,
                "uuid": self.uuid,
                "accessor": self.accessor,
                "config": config,
                "options": self.options,
                "local": self.local,
                "seal_wrap": self.seal_wrap,
                "namespace_id": "root",
            }
        ).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> MountEntry:
        """The inverse of `to_bytes`. Raises ApiError 500 for a form that we do not know."""
        try:
            stored = json.loads(value)
            config = dict(stored.get("config") or {})
            for name in ("default_lease_ttl", "max_lease_ttl"):
                if config.get(name):
                    config[name] = int(config[name]) // 10**9
            return cls(
                stored["path"],
                stored["type"],
                stored.get("description", ""),
                stored["uuid"],
                stored.get("accessor", ""),
                stored.get("options"),
                config,
                stored.get("local", False),
                stored.get("seal_wrap", False),
                stored.get("table", "mounts"),
            )
        except (ValueError, LookupError, TypeError):
            raise ApiError(500, "a mount table entry has an unknown form") from None

    def info(self) -> dict[str, Any]:
        """The entry as sys/mounts shows it."""
        config = {"default_lease_ttl": 0, "force_no_cache": False, "max_lease_ttl": 0, **self.config}
        return {
            "accessor": self.accessor,
            "config": config,
            **({"deprecation_status": "supported"} if self.type == "kv" else {}),
            "description": self.description,
            "external_entropy_access": False,
            "local": self.local,
            "options": self.options,
            "plugin_version": "",
            "running_plugin_version": _VERSION,
            "running_sha256": "",
            "seal_wrap": self.seal_wrap,
            "type": self.type,
            "uuid": self.uuid,
        }


def built_in(*, dev: bool = False) -> list[MountEntry]:
    """The mounts of a new cluster; `secret/` (kv 2) only for development servers."""
    entries = [
        MountEntry("cubbyhole/", "cubbyhole", "per-token private secret storage", local=True),
        MountEntry(
            "identity/", "identity", "identity store", config={"passthrough_request_headers": ["Authorization"]}
        ),
        MountEntry(
            "sys/",
            "system",
            "system endpoints used for control, policy and debugging",
            config={"passthrough_request_headers": ["Accept"]},
            seal_wrap=True,
        ),
        MountEntry(
            "token/", "token", "token based credentials", config={"token_type": "default-service"}, table="auth"
        ),
    ]
    if dev:
        entries.append(MountEntry("secret/", "kv", "key/value secret storage", options={"version": "2"}))
    return entries


def built_in_ops(*, dev: bool = False) -> list[Put]:
    """What init stores."""
    return [Put(entry.key, entry.to_bytes()) for entry in built_in(dev=dev)]


@dataclass(slots=True)
class Mount:
    """An entry and its running engine (None for the built-in backends and for types that we do not have)."""

    entry: MountEntry
    engine: Engine | None


class MountTable:
    """All mounts by path. Load it before use; writes go through the leader's barrier."""

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier
        self._lock = asyncio.Lock()
        self.mounts: dict[str, Mount] = {}
        self.auth: dict[str, MountEntry] = {}

    def load(self) -> None:
        """Read everything afresh."""
        self.mounts = {entry.path: self._run(entry) for entry in self._entries((MOUNT_PREFIX, LOCAL_PREFIX))}
        self.auth = {entry.path: entry for entry in self._entries((AUTH_PREFIX,))}

    def _entries(self, prefixes: Iterable[str]) -> Iterable[MountEntry]:
        for prefix in prefixes:
            for key in self._barrier.scan(prefix):
                item = self._barrier.get(key)
                if item is not None:
                    yield MountEntry.from_bytes(item.value)

    def _run(self, entry: MountEntry) -> Mount:
        view: View = self._barrier.view(f"{DATA_PREFIX}{entry.uuid}/")
        engine: Engine | None = None
        if entry.type == "cubbyhole":
            engine = Cubbyhole(view)
        elif entry.type == "kv":
            engine = Kv2(view) if (entry.options or {}).get("version") == "2" else Kv1(view)
        return Mount(entry, engine)

    def match(self, path: str) -> Mount | None:
        """The mount that `path` lies in. Mounts never nest, so the first that fits is the only one."""
        position = path.find("/")
        while position >= 0:
            mount = self.mounts.get(path[: position + 1])
            if mount is not None:
                return mount
            position = path.find("/", position + 1)
        return self.mounts.get(path + "/")

    def cubbyhole_keys(self, owner: str) -> list[str]:
        """Full keys of everything in a token's cubbyhole."""
        mount = self.mounts.get("cubbyhole/")
        if mount is None or not isinstance(mount.engine, Cubbyhole):
            return []
        return [f"{DATA_PREFIX}{mount.entry.uuid}/{key}" for key in mount.engine.keys_of(owner)]

    async def enable(self, entry: MountEntry) -> None:
        """Add a mount. Raises ApiError 400 when the path is not possible or taken."""
        check_path(entry.path)
        async with self._lock:
            for path in self.mounts:
                if path.startswith(entry.path) or entry.path.startswith(path):
                    raise ApiError(400, f"path is already in use at {path}")
            await self._barrier.commit([Put(entry.key, entry.to_bytes())])
            self.mounts[entry.path] = self._run(entry)

    async def save(self, entry: MountEntry) -> None:
        """Store a changed entry of a mount that exists."""
        await self._barrier.commit([Put(entry.key, entry.to_bytes())])
        self.mounts[entry.path].entry = entry

    async def disable(self, path: str) -> None:
        """Remove a mount and then its data; absent is fine. Raises ApiError 400 for the built-in ones."""
        if path in PROTECTED:
            raise ApiError(400, f'cannot unmount "{path}"')
        async with self._lock:
            mount = self.mounts.get(path)
            if mount is None:
                return
            await self._barrier.commit([Delete(mount.entry.key)])
            self.mounts.pop(path, None)
        await self.purge(mount.entry.uuid)

    async def purge(self, mount_uuid: str) -> None:
        """Delete the data of a mount that is gone."""
        for batch in batches(Delete(key) for key in self._barrier.scan(f"{DATA_PREFIX}{mount_uuid}/")):
            await self._barrier.commit(batch)

    async def purge_orphans(self) -> None:
        """Finish what a crash interrupted: delete data that belongs to no mount."""
        known = {mount.entry.uuid for mount in self.mounts.values()}
        for child in self._barrier.list(DATA_PREFIX):
            if child.rstrip("/") not in known:
                await self.purge(child.rstrip("/"))


def check_path(path: str) -> str:
    """The same mount path when it is possible. Raises ApiError 400."""
    if any(path == name or path.startswith(name) for name in PROTECTED):
        raise ApiError(400, f'cannot mount "{path}"')
    if not _PATH.fullmatch(path) or "*" in path or "+" in path or "//" in path or path.startswith("."):
        raise ApiError(400, f'"{path}" cannot be the path of a mount')
    return path
