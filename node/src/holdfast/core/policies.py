# SPDX-License-Identifier: Apache-2.0
"""The policy store: sys/policy/<name> in the barrier, compiled once and kept until a change (raft-api.md 5.7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.barrier.barrier import Barrier
from holdfast.core.acl import Acl, Rule, parse_policy
from holdfast.core.policy_hcl import PolicySyntaxError, decode
from holdfast.core.types import ApiError
from holdfast.storage.types import Delete, Put

PREFIX = "sys/policy/"
DEFAULT_POLICY = """
# Allow tokens to look up their own properties
path "auth/token/lookup-self" {
    capabilities = ["read"]
}

# Allow tokens to renew themselves
path "auth/token/renew-self" {
    capabilities = ["update"]
}

# Allow tokens to revoke themselves
path "auth/token/revoke-self" {
    capabilities = ["update"]
}

# Allow a token to look up its own capabilities on a path
path "sys/capabilities-self" {
    capabilities = ["update"]
}

# Allow a token to manage its own cubbyhole
path "cubbyhole/*" {
    capabilities = ["create", "read", "update", "delete", "list", "scan"]
}
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """A stored policy; `modified` is RFC 3339."""

    name: str
    text: str
    version: int
    modified: str
    cas_required: bool = False

    def to_bytes(self) -> bytes:
        """OpenBao's stored form."""
        fields = {
            "DataVersion": self.version,
            "CASRequired": self.cas_required,
            "Raw": self.text,
            "Type": 0,
            "Templated": False,
            "Modified": self.modified,
        }
        return json.dumps(fields).encode()

    @classmethod
    def from_bytes(cls, name: str, value: bytes) -> Policy:
        """The inverse of `to_bytes`."""
        fields = json.loads(value)
        return cls(
            name,
            fields["Raw"],
            fields.get("DataVersion", 1),
            fields.get("Modified", ""),
            fields.get("CASRequired", False),
        )


_ROOT = Acl((), root=True)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def built_in() -> list[Put]:
    """What init stores: the default policy (root needs no text)."""
    return [Put(PREFIX + "default", Policy("default", DEFAULT_POLICY, 1, _now()).to_bytes())]


class PolicyStore:
    """Policies by lower-case name. Writes go through the leader's barrier.

    What is compiled counts only while the stored policies have the revisions it was made from, so no change can be
    missed, not even one whose commit was cut off and took effect later.
    """

    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier
        self._rules: dict[str, tuple[int, list[Rule]]] = {}
        self._acls: dict[tuple[str, ...], tuple[list[int], Acl]] = {}

    def forget(self) -> None:
        """Drop everything compiled: the state below has changed."""
        self._rules.clear()
        self._acls.clear()

    def names(self) -> list[str]:
        """Every policy, "root" included, sorted."""
        return sorted({*self._barrier.list(PREFIX), "root"})

    def get(self, name: str) -> Policy | None:
        """A policy, or None; "root" has an empty text."""
        name = name.lower()
        if name == "root":
            return Policy("root", "", 1, "")
        item = self._barrier.get(PREFIX + name)
        return None if item is None else Policy.from_bytes(name, item.value)

    async def put(self, name: str, text: str, cas: int | None = None, cas_required: bool | None = None) -> None:
        """Store a policy. Raises ApiError 400 on bad text, on "root" and on a wrong `cas` (-1: must not exist)."""
        name = name.lower()
        if name == "root":
            raise ApiError(400, 'cannot update "root" policy')
        if not text:
            raise ApiError(400, "'policy' parameter not supplied or empty")
        text = decode(text)
        try:
            rules = await asyncio.to_thread(parse_policy, text)  # a long text takes the parser seconds
        except PolicySyntaxError as error:
            raise ApiError(400, f"failed to parse policy: {error}") from None
        item = self._barrier.get(PREFIX + name)
        known = None if item is None else Policy.from_bytes(name, item.value)
        if cas is None and known is not None and known.cas_required:
            raise ApiError(400, "check-and-set parameter required for this call")
        if cas is not None and cas != (known.version if known else -1):
            raise ApiError(400, "check-and-set parameter did not match the current version")
        required = known.cas_required if cas_required is None and known else bool(cas_required)
        policy = Policy(name, text, known.version + 1 if known else 1, _now(), required)
        revision = await self._barrier.commit(
            [Put(PREFIX + name, policy.to_bytes())], {PREFIX + name: item.revision if item else 0}
        )
        self._rules[name] = revision, rules

    async def delete(self, name: str) -> None:
        """Remove a policy; absent is fine. Raises ApiError 400 on the built-in ones."""
        name = name.lower()
        if name in ("root", "default"):
            raise ApiError(400, f'cannot delete "{name}" policy')
        if self._barrier.get(PREFIX + name) is not None:
            await self._barrier.commit([Delete(PREFIX + name)])

    def acl(self, names: Iterable[str]) -> Acl:
        """The compiled permissions of a token with these policies; unknown names grant nothing."""
        key = tuple(names)
        if "root" in key:
            return _ROOT
        revisions = [self._barrier.revision(PREFIX + name) for name in key]
        known = self._acls.get(key)
        if known is not None and known[0] == revisions:
            return known[1]
        if len(self._acls) > 10_000:
            self._acls.clear()
        acl = Acl(self._compiled(name, revision) for name, revision in zip(key, revisions, strict=True))
        self._acls[key] = revisions, acl
        return acl

    def _compiled(self, name: str, revision: int) -> list[Rule]:
        known = self._rules.get(name)
        if known is not None and known[0] == revision:
            return known[1]
        policy = self.get(name)
        try:
            rules = parse_policy(policy.text) if policy else []
        except PolicySyntaxError:
            # Written by other software (a restored OpenBao state): what we cannot read must not grant anything.
            rules = []
        self._rules[name] = revision, rules
        return rules
