# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for the collection's playbooks."""

from __future__ import annotations

import typing as t


def members(hostvars: t.Mapping[str, t.Any], hosts: t.Sequence[str]) -> list[dict[str, t.Any]]:
    """What the playbooks must know of every wanted member, from the inventory alone (no facts, so that --limit is harmless)."""
    result = []
    for host in hosts:
        values = hostvars[host]
        address = values.get("node_api_addr") or f"https://{values.get('ansible_host') or host}:8200"
        non_voter = str(values.get("node_non_voter", False)).strip().lower() in ("1", "true", "yes", "on")
        result.append({"host": host, "node_id": str(values.get("node_id") or host), "url": address.rstrip("/"), "non_voter": non_voter})
    return result


def names(value: t.Any) -> list[str]:
    """A list, or what a survey makes of one (C("n4, n5") or C("")), as a list."""
    items = value.replace(",", " ").split() if isinstance(value, str) else value or []
    return [str(item).strip() for item in items if str(item).strip()]


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"members": members, "names": names}
