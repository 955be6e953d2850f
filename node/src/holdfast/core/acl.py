# SPDX-License-Identifier: Apache-2.0
"""What a set of policies allows: OpenBao's matching and priority rules, pure (raft-api.md 0.3, 5.7)."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.policy_hcl import PolicySyntaxError, parse
from holdfast.core.types import Operation

CAPABILITIES = frozenset({"create", "read", "update", "patch", "delete", "list", "scan", "sudo", "deny"})
_LEGACY = {
    "deny": ["deny"],
    "read": ["read", "list", "scan"],
    "write": ["create", "read", "update", "patch", "delete", "list", "scan"],
    "sudo": ["create", "read", "update", "patch", "delete", "list", "scan", "sudo"],
}
_ATTRIBUTES = {"capabilities", "policy", "allowed_parameters", "denied_parameters", "required_parameters", "comment"}
_WITH_DATA = (Operation.READ, Operation.UPDATE, Operation.PATCH)

Parameters = dict[str, list[Any]]


@dataclass(slots=True)
class Permission:
    """What one path rule grants; parameter names are lower case."""

    capabilities: frozenset[str]
    allowed: Parameters = field(default_factory=dict)
    denied: Parameters = field(default_factory=dict)
    required: list[str] = field(default_factory=list)

    def merged(self, other: Permission) -> Permission:
        """Two policies that name the same path: capabilities add up, "deny" beats everything."""
        if "deny" in self.capabilities or "deny" in other.capabilities:
            return Permission(frozenset({"deny"}))
        return Permission(
            self.capabilities | other.capabilities,
            _merge(self.allowed, other.allowed),
            _merge(self.denied, other.denied),
            [*self.required, *(name for name in other.required if name not in self.required)],
        )

    def permits_data(self, data: Mapping[str, Any]) -> bool:
        """Whether the parameters of a request pass required_, denied_ and allowed_parameters."""
        lowered = {name.lower(): value for name, value in data.items()}
        if any(name not in lowered for name in self.required):
            return False
        if not lowered:
            return True
        if "*" in self.denied:
            return False
        if any(name in self.denied and _matches(value, self.denied[name]) for name, value in lowered.items()):
            return False
        if not self.allowed:
            return True
        return all(
            _matches(value, self.allowed[name]) if name in self.allowed else "*" in self.allowed
            for name, value in lowered.items()
        )


def _merge(one: Parameters, two: Parameters) -> Parameters:
    merged = dict(one)
    for name, values in two.items():
        known = merged.get(name)
        if known is None:
            merged[name] = values
        else:  # an empty list stands for every value
            merged[name] = [*known, *(v for v in values if v not in known)] if known and values else []
    return merged


def _matches(value: Any, values: list[Any]) -> bool:
    if not values:
        return True
    for candidate in values:
        if isinstance(candidate, str) and isinstance(value, str) and "*" in candidate:
            pattern = candidate.replace("[", "[[]").replace("?", "[?]")
            if fnmatch.fnmatchcase(value, pattern):
                return True
        elif candidate == value and isinstance(candidate, bool) == isinstance(value, bool):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Rule:
    """A path block. `path` has neither a leading slash nor, for prefix rules, the final "*"."""

    path: str
    prefix: bool
    segments: bool
    permission: Permission


def parse_policy(text: str) -> list[Rule]:
    """The rules of a policy text. Raises PolicySyntaxError with a sentence for the author.

    Rules whose path holds an identity template never apply, as for OpenBao's tokens without an entity.
    """
    attributes, blocks = parse(text)
    unknown = set(attributes) - {"name", "comment"}
    if unknown:
        raise PolicySyntaxError(f'invalid key "{min(unknown)}"; a policy holds path blocks only')
    rules = (_rule(path, body) for path, body in blocks)
    return [rule for rule in rules if "{{" not in rule.path]


def _rule(path: str, body: dict[str, Any]) -> Rule:
    where = f'path "{path}"'
    for name in ("min_wrapping_ttl", "max_wrapping_ttl"):
        if name in body:
            raise PolicySyntaxError(
                f"{where}: {name} is not supported because there is no response wrapping; remove it"
            )
    unknown = set(body) - _ATTRIBUTES
    if unknown:
        raise PolicySyntaxError(f'{where}: invalid key "{min(unknown)}"')
    capabilities = body.get("capabilities")
    if "policy" in body:
        if body["policy"] not in _LEGACY:
            raise PolicySyntaxError(f'{where}: invalid policy "{body["policy"]}"')
        capabilities = [*_LEGACY[body["policy"]], *(capabilities or [])]
    if capabilities is None:
        capabilities = []
    if not isinstance(capabilities, list):
        raise PolicySyntaxError(f"{where}: capabilities must be a list")
    for capability in capabilities:
        if capability not in CAPABILITIES:
            raise PolicySyntaxError(f'{where}: invalid capability "{capability}"')
    required = body.get("required_parameters", [])
    if not isinstance(required, list) or any(not isinstance(name, str) for name in required):
        raise PolicySyntaxError(f"{where}: required_parameters must be a list of names")
    permission = Permission(
        frozenset({"deny"}) if "deny" in capabilities else frozenset(capabilities),
        _parameters(where, body, "allowed_parameters"),
        _parameters(where, body, "denied_parameters"),
        [name.lower() for name in required],
    )
    path = path.removeprefix("/")
    if "+*" in path:
        raise PolicySyntaxError(f"{where}: invalid use of wildcards ('+*' is forbidden)")
    prefix = path.endswith("*")
    segments = path.startswith("+/") or "/+" in path or path == "+"
    return Rule(path.removesuffix("*") if prefix else path, prefix, segments, permission)


def _parameters(where: str, body: dict[str, Any], name: str) -> Parameters:
    value = body.get(name) or {}
    if not isinstance(value, dict) or any(not isinstance(values, list) for values in value.values()):
        raise PolicySyntaxError(f"{where}: {name} must map names to lists of values")
    return {key.lower(): values for key, values in value.items()}


class Acl:
    """The compiled rules of all policies of a token. `root` allows everything."""

    def __init__(self, policies: Iterable[list[Rule]], *, root: bool = False) -> None:
        self.root = root
        self._exact: dict[str, Permission] = {}
        self._prefix: dict[str, Permission] = {}
        self._segments: dict[tuple[str, bool], Permission] = {}
        for rules in policies:
            for rule in rules:
                self._add(rule)
        self._lengths = sorted({len(prefix) for prefix in self._prefix}, reverse=True)

    def _add(self, rule: Rule) -> None:
        if rule.segments:
            key = (rule.path, rule.prefix)
            known = self._segments.get(key)
            self._segments[key] = known.merged(rule.permission) if known else rule.permission
            return
        table = self._prefix if rule.prefix else self._exact
        known = table.get(rule.path)
        table[rule.path] = known.merged(rule.permission) if known else rule.permission

    def find(self, path: str, *, listing: bool = False) -> Permission | None:
        """The one rule that decides about `path`; a listing also matches the path without its final slash."""
        found = self._exact.get(path)
        if found is None and listing and path.endswith("/"):
            found = self._exact.get(path[:-1])
        if found is not None:
            return found
        best: tuple[tuple[int, bool, int, int, str], Permission] | None = None
        for length in self._lengths:
            if length <= len(path) and (found := self._prefix.get(path[:length])) is not None:
                best = ((length, False, 0, length, path[:length]), found)
                break
        if self._segments:
            parts = path.split("/")
            for (pattern, prefix), permission in self._segments.items():
                if _segments_match(pattern.split("/"), prefix, parts):
                    # Later first wildcard wins, then no "*", then fewer "+", then longer, then the greater text.
                    first = 0 if pattern.startswith("+") else pattern.index("/+") + 1
                    rank = (first, not prefix, -pattern.split("/").count("+"), len(pattern) + prefix, pattern)
                    if best is None or rank > best[0]:
                        best = (rank, permission)
        return best[1] if best else None

    def allows(
        self,
        operation: Operation,
        path: str,
        data: Mapping[str, Any],
        exists: Callable[[], bool | None] | None = None,
        *,
        sudo: bool = False,
    ) -> bool:
        """Whether the operation may run. `exists` tells create from update, asked only when it matters."""
        if self.root:
            return True
        permission = self.find(path, listing=operation in (Operation.LIST, Operation.SCAN))
        if permission is None or (sudo and "sudo" not in permission.capabilities):
            return False
        granted = permission.capabilities
        if operation is Operation.UPDATE:
            needed = "update"
            if ("create" in granted) != ("update" in granted) and exists is not None and exists() is False:
                needed = "create"
        else:
            needed = operation.value
        if needed not in granted:
            return False
        return operation not in _WITH_DATA or permission.permits_data(data)

    def has_sudo(self, path: str) -> bool:
        """Whether the path's rule carries the sudo capability."""
        if self.root:
            return True
        permission = self.find(path)
        return permission is not None and "sudo" in permission.capabilities

    def capabilities(self, path: str) -> list[str]:
        """The sorted answer of sys/capabilities: ["root"], ["deny"] or what is granted."""
        if self.root:
            return ["root"]
        permission = self.find(path, listing=True)
        return sorted(permission.capabilities) if permission and permission.capabilities else ["deny"]

    def touches(self, mount: str) -> bool:
        """Whether any rule grants something at or below `mount` (which ends in "/")."""
        if self.root:
            return True
        for path, permission in self._exact.items():
            if _grants(permission) and (path.startswith(mount) or path == mount[:-1]):
                return True
        for path, permission in self._prefix.items():
            if _grants(permission) and (path.startswith(mount) or mount.startswith(path)):
                return True
        parts = mount[:-1].split("/")
        return any(
            _grants(permission) and _reaches(pattern.split("/"), prefix, parts)
            for (pattern, prefix), permission in self._segments.items()
        )


def _grants(permission: Permission) -> bool:
    return bool(permission.capabilities - {"deny"})


def _segments_match(pattern: list[str], prefix: bool, parts: list[str]) -> bool:
    if len(parts) < len(pattern) or (not prefix and len(parts) != len(pattern)):
        return False
    last = len(pattern) - 1
    for index, segment in enumerate(pattern):
        if segment == "+" or segment == parts[index]:
            continue
        if not (prefix and index == last and parts[index].startswith(segment)):
            return False
    return True


def _reaches(pattern: list[str], prefix: bool, mount: list[str]) -> bool:
    for index, part in enumerate(mount):
        if index >= len(pattern):
            return prefix
        segment = pattern[index]
        if segment not in ("+", part):
            return prefix and index == len(pattern) - 1 and part.startswith(segment)
    return True
