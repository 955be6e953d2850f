# SPDX-License-Identifier: Apache-2.0
"""auth/token/: create, look up, renew and revoke tokens (raft-api.md 5.4)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from holdfast.core.calls import Context, RouteTable
from holdfast.core.tokens import MAX_TTL, TokenEntry, TokenStore, random_text
from holdfast.core.types import ApiError, Operation, Response
from holdfast.engines import fields

_READ, _UPDATE, _LIST = Operation.READ, Operation.UPDATE, Operation.LIST


class TokenBackend:
    """The routes below auth/token/."""

    def __init__(self, tokens: TokenStore) -> None:
        self._tokens = tokens
        self.routes = RouteTable(
            [
                ("create", {_UPDATE: self._create}),
                ("create-orphan", {_UPDATE: self._create_orphan}),
                ("lookup-self", {_READ: self._lookup_self, _UPDATE: self._lookup_self}),
                ("lookup", {_READ: self._lookup, _UPDATE: self._lookup}),
                ("lookup-accessor", {_UPDATE: self._lookup_accessor}),
                ("renew-self", {_UPDATE: self._renew_self}),
                ("renew", {_UPDATE: self._renew}),
                ("renew-accessor", {_UPDATE: self._renew_accessor}),
                ("revoke-self", {_UPDATE: self._revoke_self}),
                ("revoke", {_UPDATE: self._revoke}),
                ("revoke-orphan", {_UPDATE: self._revoke_orphan}),
                ("revoke-accessor", {_UPDATE: self._revoke_accessor}),
                ("accessors", {_LIST: self._accessors}),
            ]
        )

    # -- create

    async def _create(self, context: Context) -> Response:
        return await self._make(context, orphan=False)

    async def _create_orphan(self, context: Context) -> Response:
        return await self._make(context, orphan=True)

    async def _make(self, context: Context, *, orphan: bool) -> Response:
        data, caller = context.data, context.caller()
        sudo = context.rights().has_sudo(context.path)
        if fields.string(data, "type", "service") not in ("service", "default-service", "default"):
            raise ApiError(400, "only tokens of type service are supported")
        if data.get("entity_alias"):
            raise ApiError(400, "entity_alias is not supported because there is no identity store")
        token = fields.string(data, "id")
        if token and not sudo:
            raise ApiError(400, "root or sudo privileges required to specify token id")
        if token and (token.startswith("s.") or not token.isprintable() or "." in token or " " in token):
            raise ApiError(400, "custom token ID cannot have the 's.' prefix and may hold neither dots nor spaces")
        no_parent = fields.boolean(data, "no_parent")
        if no_parent and not sudo:
            raise ApiError(400, "root or sudo privileges required to create orphan token")
        period = _positive(data, "period")
        if period and not sudo:
            raise ApiError(400, "root or sudo privileges required to create periodic token")
        policies = self._policies(data, caller.entry, sudo)
        now = time.time()
        warnings: list[str] = []
        explicit_max = _positive(data, "explicit_max_ttl")
        if explicit_max > MAX_TTL and not period:
            warnings.append(
                "Explicit max TTL specified is greater than the system/mount allowed value of "
                f"{fields.format_duration(MAX_TTL)}; value is being capped"
            )
            explicit_max = MAX_TTL
        ttl = self._ttl(data, policies, period, explicit_max, warnings)
        if "root" in policies and not ttl and caller.entry.expires is not None:
            raise ApiError(400, "expiring root tokens cannot create non-expiring root tokens")
        entry = TokenEntry(
            accessor=random_text(),
            parent="" if orphan or no_parent else caller.salted,
            policies=policies,
            path=context.path,
            display_name=_display_name(fields.string(data, "display_name")),
            creation_time=now,
            ttl=ttl,
            explicit_max_ttl=explicit_max,
            period=period,
            num_uses=fields.natural(data, "num_uses"),
            renewable=fields.boolean(data, "renewable", default=True) and bool(ttl),
            meta=fields.string_mapping(data, "meta") or fields.string_mapping(data, "metadata"),
            expires=now + ttl if ttl else None,
        )
        token = token or "s." + random_text()
        await self._tokens.create(token, entry)
        return Response(auth=_auth(token, entry), warnings=warnings or None)

    @staticmethod
    def _policies(data: dict[str, Any], parent: TokenEntry, sudo: bool) -> list[str]:
        wanted = fields.strings(data, "policies")
        policies = {name.strip().lower() for name in wanted if name.strip()} if wanted else set(parent.policies)
        if not sudo and not policies <= {*parent.policies, "default"}:
            raise ApiError(400, "child policies must be subset of parent")
        if "root" in policies and not parent.root:
            raise ApiError(400, "root tokens may not be created without parent token being root")
        if "root" in policies:
            return ["root"]
        if fields.boolean(data, "no_default_policy"):
            policies.discard("default")
        else:
            policies.add("default")
        return sorted(policies)

    @staticmethod
    def _ttl(
        data: dict[str, Any], policies: list[str], period: float, explicit_max: float, warnings: list[str]
    ) -> float:
        ttl = _positive(data, "ttl") or _positive(data, "lease")
        if period:
            return min(period, explicit_max) if explicit_max else period
        if not ttl and "root" in policies and not explicit_max:
            return 0.0
        limit = explicit_max or MAX_TTL
        if ttl > limit:
            warnings.append(
                f'TTL of "{fields.format_duration(ttl)}" exceeded the effective max_ttl of '
                f'"{fields.format_duration(limit)}"; TTL value is capped accordingly'
            )
        return min(ttl or MAX_TTL, limit)

    # -- lookup

    async def _lookup_self(self, context: Context) -> Response:
        return Response(_about(context.token, context.caller().entry))

    async def _lookup(self, context: Context) -> Response:
        token = fields.string(context.data, "token") or context.token
        entry = self._tokens.find(self._tokens.salted(token))
        if entry is None:
            raise ApiError(403, "bad token")
        return Response(_about(token, entry))

    async def _lookup_accessor(self, context: Context) -> Response:
        _, entry = self._by_accessor(context)
        return Response(_about("", entry))

    def _by_accessor(self, context: Context) -> tuple[str, TokenEntry]:
        accessor = fields.string(context.data, "accessor")
        if not accessor:
            raise ApiError(400, "missing accessor")
        found = self._tokens.by_accessor(accessor)
        if found is None:
            raise ApiError(403, "invalid accessor")
        return found

    async def _accessors(self, _: Context) -> Response:
        return Response({"keys": self._tokens.accessors()})

    # -- renew

    async def _renew_self(self, context: Context) -> Response:
        return await self._extend(context, context.token, context.caller().salted)

    async def _renew(self, context: Context) -> Response:
        token = fields.string(context.data, "token")
        if not token:
            raise ApiError(400, "missing token ID")
        salted = self._tokens.salted(token)
        if self._tokens.find(salted) is None:
            raise ApiError(403, "bad token")
        return await self._extend(context, token, salted)

    async def _renew_accessor(self, context: Context) -> Response:
        salted, _ = self._by_accessor(context)
        return await self._extend(context, "", salted)

    async def _extend(self, context: Context, token: str, salted: str) -> Response:
        increment = _positive(context.data, "increment")
        warnings: list[str] = []

        def change(entry: TokenEntry) -> None:
            if entry.expires is None:
                raise ApiError(400, "invalid lease ID")
            if not entry.renewable:
                raise ApiError(400, "lease is not renewable")
            warnings.clear()
            now = time.time()
            wanted = now + (entry.period or increment or entry.ttl or MAX_TTL)
            if entry.period:
                limit = entry.creation_time + entry.explicit_max_ttl if entry.explicit_max_ttl else wanted
            else:
                limit = entry.creation_time + (entry.explicit_max_ttl or MAX_TTL)
            if wanted > limit:
                warnings.append(
                    f'TTL of "{fields.format_duration(round(wanted - now))}" exceeded the effective max_ttl of '
                    f'"{fields.format_duration(max(0, round(limit - now)))}"; TTL value is capped accordingly'
                )
            entry.expires = min(wanted, limit)
            entry.last_renewal = now

        entry = await self._tokens.update(salted, change)
        return Response(auth=_auth(token, entry), warnings=warnings or None)

    # -- revoke

    async def _revoke_self(self, context: Context) -> None:
        await self._tokens.revoke(context.caller().salted)

    async def _revoke(self, context: Context) -> None:
        await self._tokens.revoke(self._tokens.salted(self._token_field(context)))

    async def _revoke_orphan(self, context: Context) -> None:
        salted = self._tokens.salted(self._token_field(context))
        if self._tokens.find(salted) is None:
            raise ApiError(400, "token to revoke not found")
        await self._tokens.revoke(salted, orphan_children=True)

    async def _revoke_accessor(self, context: Context) -> None:
        salted, _ = self._by_accessor(context)
        await self._tokens.revoke(salted)

    @staticmethod
    def _token_field(context: Context) -> str:
        token = fields.string(context.data, "token")
        if not token:
            raise ApiError(400, "missing token ID")
        return token


def _positive(data: dict[str, Any], name: str) -> float:
    value = fields.duration(data, name)
    if value < 0:
        raise ApiError(400, f"{name} must not be negative")
    return value


def _display_name(text: str) -> str:
    cleaned = "".join(char if char.isalnum() else "-" for char in text).strip("-")
    return f"token-{cleaned}" if cleaned else "token"


def _auth(token: str, entry: TokenEntry) -> dict[str, Any]:
    return {
        "client_token": token,
        "accessor": entry.accessor,
        "policies": entry.policies,
        "token_policies": entry.policies,
        "metadata": entry.meta,
        "lease_duration": entry.remaining(),
        "renewable": entry.renewable,
        "entity_id": "",
        "token_type": "service",
        "orphan": not entry.parent,
        "mfa_requirement": None,
        "num_uses": entry.num_uses,
    }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _about(token: str, entry: TokenEntry) -> dict[str, Any]:
    data: dict[str, Any] = {
        "accessor": entry.accessor,
        "creation_time": int(entry.creation_time),
        "creation_ttl": int(entry.ttl),
        "display_name": entry.display_name,
        "entity_id": "",
        "expire_time": None if entry.expires is None else _rfc3339(entry.expires),
        "explicit_max_ttl": int(entry.explicit_max_ttl),
        "id": token,
        "meta": entry.meta,
        "num_uses": max(0, entry.num_uses),
        "orphan": not entry.parent,
        "path": entry.path,
        "policies": entry.policies,
        "ttl": entry.remaining(),
        "type": "service",
    }
    if entry.expires is not None:
        data["issue_time"] = _rfc3339(entry.creation_time)
        data["renewable"] = entry.renewable
    if entry.last_renewal is not None:
        data["last_renewal"] = _rfc3339(entry.last_renewal)
        data["last_renewal_time"] = int(entry.last_renewal)
    if entry.period:
        data["period"] = int(entry.period)
    return data
