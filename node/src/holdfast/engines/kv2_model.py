# SPDX-License-Identifier: Apache-2.0
"""KV version 2's records and rules: pure, no storage (raft-api.md 5.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.engines import stored
from holdfast.engines.fields import format_duration
from holdfast.engines.types import EngineError

DEFAULT_MAX_VERSIONS = 10
_DESTROYED, _DELETED = 1, 2  # marks in a version's record
_MAX_CUSTOM_KEYS, _MAX_CUSTOM_KEY, _MAX_CUSTOM_VALUE = 64, 128, 512


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with "Z"."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Config:
    """A mount's settings; `delete_version_after` in seconds, 0 for never, negative for never despite the key's own."""

    max_versions: int = 0
    cas_required: bool = False
    delete_version_after: float = 0.0

    def to_bytes(self) -> bytes:
        """The stored form."""
        return stored.encode(
            {
                "max_versions": self.max_versions,
                "cas_required": self.cas_required,
                "delete_version_after": self.delete_version_after,
            }
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> Config:
        """The inverse of `to_bytes`."""
        return cls(**stored.decode(value))


@dataclass(slots=True)
class Version:
    """One version's record; times are RFC 3339, `deletion_time` "" for not deleted (it may lie in the future).

    `deleted`: by a request. It holds whatever the time is: a later leader's clock may be behind that of the one who took it.
    """

    created_time: str
    deletion_time: str = ""
    destroyed: bool = False
    deleted: bool = False

    def gone(self) -> bool:
        """Deleted or destroyed as of now."""
        if self.destroyed or self.deleted:
            return True
        return bool(self.deletion_time) and datetime.fromisoformat(self.deletion_time) <= datetime.now(UTC)

    def record(self) -> tuple[str, str, int]:
        """The stored form."""
        return self.created_time, self.deletion_time, self.destroyed * _DESTROYED | self.deleted * _DELETED

    @classmethod
    def from_record(cls, created_time: str, deletion_time: str, marks: int) -> Version:
        """The inverse of `record`."""
        return cls(created_time, deletion_time, bool(marks & _DESTROYED), bool(marks & _DELETED))

    def as_dict(self) -> dict[str, Any]:
        """The three fields of the API."""
        return {"created_time": self.created_time, "deletion_time": self.deletion_time, "destroyed": self.destroyed}


@dataclass(slots=True)
class Metadata:
    """Everything about one path but the secrets themselves."""

    created_time: str
    updated_time: str
    current_version: int = 0
    oldest_version: int = 0
    max_versions: int = 0
    cas_required: bool = False
    delete_version_after: float = 0.0
    custom_metadata: dict[str, str] | None = None
    versions: dict[int, Version] = field(default_factory=dict)

    @classmethod
    def new(cls, now: datetime) -> Metadata:
        """Of a path that has no version yet."""
        return cls(timestamp(now), timestamp(now))

    def to_bytes(self) -> bytes:
        """The stored form: compact JSON."""
        return stored.encode(
            {
                "created_time": self.created_time,
                "updated_time": self.updated_time,
                "current_version": self.current_version,
                "oldest_version": self.oldest_version,
                "max_versions": self.max_versions,
                "cas_required": self.cas_required,
                "delete_version_after": self.delete_version_after,
                "custom_metadata": self.custom_metadata,
                "versions": {number: version.record() for number, version in self.versions.items()},
            }
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> Metadata:
        """The inverse of `to_bytes`."""
        fields = stored.decode(value)
        fields["versions"] = {
            int(number): Version.from_record(*record) for number, record in fields["versions"].items()
        }
        return cls(**fields)

    def version_dict(self, number: int) -> dict[str, Any]:
        """The `metadata` object of a version."""
        return _about(number, self.versions[number], self.custom_metadata)

    def as_dict(self) -> dict[str, Any]:
        """The `data` of `GET metadata/:path`."""
        return {
            "cas_required": self.cas_required,
            "created_time": self.created_time,
            "current_metadata_version": 0,
            "current_version": self.current_version,
            "custom_metadata": self.custom_metadata,
            "delete_version_after": format_duration(self.delete_version_after),
            "max_versions": self.max_versions,
            "metadata_cas_required": False,
            "oldest_version": self.oldest_version,
            "updated_time": self.updated_time,
            "versions": {str(number): version.as_dict() for number, version in sorted(self.versions.items())},
        }

    def check_cas(self, config: Config, cas: int | None) -> None:
        """Raise EngineError 400 when the check-and-set parameter is missing or wrong."""
        if cas is None:
            if config.cas_required or self.cas_required:
                raise EngineError(400, "check-and-set parameter required for this call")
        elif cas != self.current_version:
            raise EngineError(400, "check-and-set parameter did not match the current version")

    def add_version(self, config: Config, now: datetime) -> tuple[int, list[int]]:
        """Record a new version; returns its number and the numbers that are now too old and must go."""
        number = self.current_version + 1
        seconds = deletion_delay(config, self)
        deletion = timestamp(now + timedelta(seconds=seconds)) if seconds else ""
        self.updated_time = timestamp(now)
        self.versions[number] = Version(self.updated_time, deletion)
        self.current_version = number
        keep = max(config.max_versions, self.max_versions) or DEFAULT_MAX_VERSIONS
        old = [version for version in self.versions if version <= number - keep]
        for version in old:
            del self.versions[version]
        if old:
            self.oldest_version = min(self.versions)
        return number, old


@dataclass(frozen=True, slots=True)
class Found:
    """One version out of a stored record: its number, its own record, and the custom metadata of the path."""

    number: int
    version: Version
    custom_metadata: dict[str, str] | None

    def about(self) -> dict[str, Any]:
        """The `metadata` object of the version."""
        return _about(self.number, self.version, self.custom_metadata)


def find_version(value: bytes, number: int) -> Found | None:
    """Version `number` (0: the current one) of a record that `Metadata.to_bytes` made, without building the others."""
    fields = stored.decode(value)
    number = number or fields["current_version"]
    record = fields["versions"].get(str(number))
    if record is None:
        return None
    return Found(number, Version.from_record(*record), fields["custom_metadata"])


def _about(number: int, version: Version, custom: dict[str, str] | None) -> dict[str, Any]:
    return {**version.as_dict(), "custom_metadata": custom, "version": number}


def deletion_delay(config: Config, metadata: Metadata) -> float:
    """Seconds after which a new version deletes itself, 0 for never: the smaller of mount's and key's settings."""
    mount, own = config.delete_version_after, metadata.delete_version_after
    if mount < 0 or own < 0:
        return 0.0
    return min(mount, own) if mount and own else mount or own


def check_custom_metadata(custom: dict[str, str]) -> dict[str, str]:
    """The same, if it is within OpenBao's limits (64 keys, 128 and 512 bytes). Raises EngineError 400."""
    if len(custom) > _MAX_CUSTOM_KEYS:
        raise EngineError(400, f"custom_metadata may hold at most {_MAX_CUSTOM_KEYS} keys, got {len(custom)}")
    for key, value in custom.items():
        if not 1 <= len(key.encode()) <= _MAX_CUSTOM_KEY or not 1 <= len(value.encode()) <= _MAX_CUSTOM_VALUE:
            raise EngineError(
                400, f"custom_metadata keys may have 1 to {_MAX_CUSTOM_KEY} bytes, values 1 to {_MAX_CUSTOM_VALUE}"
            )
    return custom


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: `patch` laid over `target`; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strip_values(data: dict[str, Any], depth: int) -> dict[str, Any]:
    """The same keys with every leaf None; `depth` 0 is unlimited, else deeper objects become None too."""
    return {
        key: strip_values(value, depth - 1 if depth else 0)
        if isinstance(value, dict) and value and depth != 1
        else None
        for key, value in data.items()
    }
