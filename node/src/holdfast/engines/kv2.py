# SPDX-License-Identifier: Apache-2.0
"""KV version 2: versioned secrets (raft-api.md 5.6).

Storage below the mount: `config`, `metadata/<path>` (one small record a path) and `versions/<path>/<number>`. A write
is one batch; the revision of the metadata record is its precondition, so two writers can never make the same version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from holdfast.engines import fields, stored
from holdfast.engines.kv2_model import (
    Config,
    Found,
    Metadata,
    check_custom_metadata,
    find_version,
    merge_patch,
    strip_values,
    timestamp,
)
from holdfast.engines.types import (
    DELETE,
    LIST,
    PATCH,
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
from holdfast.storage.types import Delete, Op, PreconditionFailed, Put

_ATTEMPTS = 5
_INVALID_PATH = (
    "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. "
    "If using the OpenBao CLI, use 'bao kv {}' for this operation."
)
_COMMANDS = {UPDATE: "put", READ: "get", LIST: "list", SCAN: "list", DELETE: "delete", PATCH: "patch"}

Change = Callable[[Metadata | None], tuple[list[Op], Answer | None] | None]


class Kv2:
    """A `kv` mount with `options.version` "2"."""

    def __init__(self, view: View) -> None:
        self._view = view
        # Writers of one path queue up here, so that a busy path costs no futile rounds through consensus.
        self._queues: dict[str, tuple[asyncio.Lock, list[None]]] = {}  # by path: the lock, an item for each writer

    def exists(self, call: Call) -> bool | None:
        """Whether the path has metadata; only data/ and metadata/ tell create from update."""
        family, _, path = call.path.partition("/")
        return self._view.get("metadata/" + path) is not None if family in ("data", "metadata") else None

    async def handle(self, call: Call) -> Answer | None:
        """Dispatch on the first segment of the path."""
        family, _, path = call.path.partition("/")
        handlers = _FAMILIES.get(family)
        if handlers is None or (family == "config") != (not path and call.operation not in (LIST, SCAN)):
            return self._invalid(call)
        handler = handlers.get(call.operation)
        if handler is None:
            raise unsupported_operation()
        return await handler(self, path, call.data)

    @staticmethod
    def _invalid(call: Call) -> Answer:
        return Answer(status=404, warnings=[_INVALID_PATH.format(_COMMANDS[call.operation])])

    # -- reading

    def _metadata(self, path: str) -> tuple[Metadata | None, int]:
        item = self._view.get("metadata/" + path)
        return (None, 0) if item is None else (Metadata.from_bytes(item.value), item.revision)

    def _config(self) -> Config:
        item = self._view.get("config")
        return Config() if item is None else Config.from_bytes(item.value)

    def _secret(self, path: str, number: int) -> Any:
        item = self._view.get(f"versions/{path}/{number}")
        return None if item is None else stored.decode(item.value)

    def _lookup(self, path: str, data: dict[str, Any]) -> Found | None:
        item = self._view.get("metadata/" + path)
        number = fields.natural(data, "version") if data else 0
        return None if item is None else find_version(item.value, number)

    async def _read(self, path: str, data: dict[str, Any]) -> Answer | None:
        found = self._lookup(path, data)
        if found is None:
            return None
        if found.version.gone():
            return Answer({"data": None, "metadata": found.about()}, status=404)
        return Answer({"data": self._secret(path, found.number), "metadata": found.about()})

    async def _subkeys(self, path: str, data: dict[str, Any]) -> Answer | None:
        found = self._lookup(path, data)
        if found is None:
            return None
        if found.version.gone():
            return Answer({"subkeys": None, "metadata": found.about()}, status=404)
        secret = self._secret(path, found.number) or {}
        return Answer({"subkeys": strip_values(secret, fields.natural(data, "depth")), "metadata": found.about()})

    async def _read_metadata(self, path: str, _: dict[str, Any]) -> Answer | None:
        metadata, _revision = self._metadata(path)
        return None if metadata is None else Answer(metadata.as_dict())

    async def _list(self, path: str, data: dict[str, Any]) -> Answer:
        return page(self._view.list("metadata/" + path), data)

    async def _scan(self, path: str, data: dict[str, Any]) -> Answer:
        start = len("metadata/" + path)
        return page([key[start:] for key in self._view.scan("metadata/" + path)], data)

    async def _read_config(self, _: str, __: dict[str, Any]) -> Answer:
        config = self._config()
        return Answer(
            {
                "cas_required": config.cas_required,
                "delete_version_after": fields.format_duration(config.delete_version_after),
                "max_versions": config.max_versions,
            }
        )

    # -- writing

    async def _change(self, path: str, change: Change) -> Answer | None:
        """Read the metadata, let `change` decide on the batch, commit it on condition that nothing moved meanwhile.

        `change` returns None for "nothing to do"; it is asked again, and so checks a cas again, when we were overtaken. It is
        also asked again before nothing is done, or it refuses: only a commit shows that this node still leads, and a deposed
        leader would judge by what was there before. Raises EngineError 409 when others kept overtaking us.
        """
        key = "metadata/" + path
        queue = self._queues.get(path)
        if queue is None:
            queue = self._queues[path] = asyncio.Lock(), []
        lock, writers = queue
        writers.append(None)
        try:
            async with lock:
                current = False  # whether what is read is surely so
                for _ in range(_ATTEMPTS):
                    metadata, revision = self._metadata(path)
                    try:
                        outcome = change(metadata)
                    except EngineError:
                        if current:
                            raise
                        outcome = None
                    if outcome is None:
                        if current:
                            return None
                        await self._view.read_barrier()
                        current = True
                        continue
                    ops, answer = outcome
                    try:
                        await self._view.commit(ops, {key: revision})
                    except PreconditionFailed:
                        continue
                    return answer
        finally:
            writers.pop()
            if not writers:
                del self._queues[path]
        raise EngineError(409, "the secret kept changing while it was being written; try again")

    def _store(self, path: str, secret: Any, metadata: Metadata, config: Config) -> tuple[list[Op], Answer]:
        number, old = metadata.add_version(config, datetime.now(UTC))
        value = stored.encode(secret)
        ops: list[Op] = [
            Put("metadata/" + path, metadata.to_bytes()),
            Put(f"versions/{path}/{number}", value),
            *(Delete(f"versions/{path}/{gone}") for gone in old),
        ]
        return ops, Answer(metadata.version_dict(number))

    async def _write(self, path: str, data: dict[str, Any]) -> Answer | None:
        secret = fields.mapping(data, "data")
        if secret is None:
            raise EngineError(400, "no data provided")
        cas = _cas(data)

        def change(metadata: Metadata | None) -> tuple[list[Op], Answer]:
            config = self._config()
            metadata = metadata or Metadata.new(datetime.now(UTC))
            metadata.check_cas(config, cas)
            return self._store(path, secret, metadata, config)

        return await self._change(path, change)

    async def _patch(self, path: str, data: dict[str, Any]) -> Answer | None:
        patch = fields.mapping(data, "data")
        if patch is None:
            raise EngineError(400, "no data provided")
        cas = _cas(data)
        gone: list[Answer] = []

        def change(metadata: Metadata | None) -> tuple[list[Op], Answer] | None:
            gone.clear()
            number = metadata.current_version if metadata else 0
            if metadata is None or number not in metadata.versions:
                raise EngineError(404)
            config = self._config()
            metadata.check_cas(config, cas)
            if metadata.versions[number].gone():
                gone.append(Answer({"data": None, "metadata": metadata.version_dict(number)}, status=404))
                return None
            merged = merge_patch(self._secret(path, number), patch)
            return self._store(path, merged, metadata, config)

        answer = await self._change(path, change)
        return gone[0] if gone else answer

    async def _delete_latest(self, path: str, _: dict[str, Any]) -> None:
        await self._mark(path, lambda metadata: [metadata.current_version], deleted=True)

    async def _delete(self, path: str, data: dict[str, Any]) -> None:
        numbers = _versions(data, "No version number provided")
        await self._mark(path, lambda _: numbers, deleted=True)

    async def _undelete(self, path: str, data: dict[str, Any]) -> None:
        numbers = _versions(data, "No version number provided")
        await self._mark(path, lambda _: numbers, deleted=False)

    async def _mark(self, path: str, numbers: Callable[[Metadata], list[int]], *, deleted: bool) -> None:
        now = timestamp(datetime.now(UTC))

        def change(metadata: Metadata | None) -> tuple[list[Op], None] | None:
            if metadata is None:
                return None
            touched = False
            for number in numbers(metadata):
                version = metadata.versions.get(number)
                if version is None or version.destroyed or (deleted and version.deleted):
                    continue
                if deleted or version.deletion_time:
                    if not (deleted and version.gone()):  # else it keeps the time when it deleted itself
                        version.deletion_time = now if deleted else ""
                    version.deleted = deleted
                    touched = True
            return ([Put("metadata/" + path, metadata.to_bytes())], None) if touched else None

        await self._change(path, change)

    async def _destroy(self, path: str, data: dict[str, Any]) -> None:
        numbers = _versions(data, "no version number provided")

        def change(metadata: Metadata | None) -> tuple[list[Op], None] | None:
            known = [number for number in numbers if metadata and number in metadata.versions]
            if metadata is None or not known:
                return None
            for number in known:
                metadata.versions[number].destroyed = True
            ops: list[Op] = [Put("metadata/" + path, metadata.to_bytes())]
            ops += [Delete(f"versions/{path}/{number}") for number in known]
            return ops, None

        await self._change(path, change)

    async def _write_metadata(self, path: str, data: dict[str, Any]) -> None:
        _metadata_fields(data)

        def change(metadata: Metadata | None) -> tuple[list[Op], None]:
            metadata = metadata or Metadata.new(datetime.now(UTC))
            _apply(metadata, data)
            return [Put("metadata/" + path, metadata.to_bytes())], None

        await self._change(path, change)

    async def _patch_metadata(self, path: str, data: dict[str, Any]) -> None:
        custom = data.get("custom_metadata")
        _metadata_fields({**data, "custom_metadata": None})
        if custom is not None and not isinstance(custom, dict):
            raise fields.invalid("custom_metadata", "'custom_metadata' expected a map")

        def change(metadata: Metadata | None) -> tuple[list[Op], None]:
            if metadata is None:
                raise EngineError(404)
            patched = dict(data)
            if "custom_metadata" in data:
                patched["custom_metadata"] = merge_patch(metadata.custom_metadata, custom) if custom else {}
            _apply(metadata, patched)
            return [Put("metadata/" + path, metadata.to_bytes())], None

        await self._change(path, change)

    async def _delete_metadata(self, path: str, _: dict[str, Any]) -> None:
        def change(metadata: Metadata | None) -> tuple[list[Op], None] | None:
            if metadata is None:
                return None
            ops: list[Op] = [Delete("metadata/" + path)]
            ops += [Delete(f"versions/{path}/{number}") for number in metadata.versions]
            return ops, None

        await self._change(path, change)

    async def _write_config(self, _: str, data: dict[str, Any]) -> None:
        config = self._config()
        config.max_versions = fields.natural(data, "max_versions", config.max_versions)
        config.cas_required = fields.boolean(data, "cas_required", config.cas_required)
        config.delete_version_after = fields.duration(data, "delete_version_after", config.delete_version_after)
        await self._view.commit([Put("config", config.to_bytes())])


def _cas(data: dict[str, Any]) -> int | None:
    options = fields.mapping(data, "options")
    if not options or options.get("cas") is None:
        return None
    return fields.integer(options, "cas")


def _versions(data: dict[str, Any], missing: str) -> list[int]:
    value = data.get("versions")
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if value is None or value == []:
        raise EngineError(400, missing)
    if not isinstance(value, list):
        raise fields.invalid("versions", "'versions' expected a list of numbers")
    return [fields.integer({"versions": number}, "versions") for number in value]


def _metadata_fields(data: dict[str, Any]) -> None:
    """Refuse bad fields before anything is read or written."""
    if data.get("metadata_cas") is not None or fields.boolean(data, "metadata_cas_required"):
        raise EngineError(
            400, "check-and-set of metadata is not supported; leave metadata_cas and metadata_cas_required out"
        )
    _apply(Metadata.new(datetime.now(UTC)), data)


def _apply(metadata: Metadata, data: dict[str, Any]) -> None:
    metadata.max_versions = fields.natural(data, "max_versions", metadata.max_versions)
    metadata.cas_required = fields.boolean(data, "cas_required", metadata.cas_required)
    metadata.delete_version_after = fields.duration(data, "delete_version_after", metadata.delete_version_after)
    custom = fields.string_mapping(data, "custom_metadata")
    if custom is not None:
        metadata.custom_metadata = check_custom_metadata(custom) or None
    metadata.updated_time = timestamp(datetime.now(UTC))


Handler = Callable[[Kv2, str, dict[str, Any]], Awaitable[Answer | None]]
_FAMILIES: dict[str, dict[str, Handler]] = {
    "config": {READ: Kv2._read_config, UPDATE: Kv2._write_config},
    "data": {READ: Kv2._read, UPDATE: Kv2._write, PATCH: Kv2._patch, DELETE: Kv2._delete_latest},
    "delete": {UPDATE: Kv2._delete},
    "undelete": {UPDATE: Kv2._undelete},
    "destroy": {UPDATE: Kv2._destroy},
    "subkeys": {READ: Kv2._subkeys},
    "metadata": {
        READ: Kv2._read_metadata,
        UPDATE: Kv2._write_metadata,
        PATCH: Kv2._patch_metadata,
        DELETE: Kv2._delete_metadata,
        LIST: Kv2._list,
        SCAN: Kv2._scan,
    },
}
