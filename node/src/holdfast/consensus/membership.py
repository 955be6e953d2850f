# SPDX-License-Identifier: Apache-2.0
"""Configurations over time (dissertation §4.1-4.2): repairs fault B5. Pure.

Invariants: a configuration is in force from the moment it is appended, not when it commits; cutting the log brings the
previous one back; at most one uncommitted configuration exists; two successive ones differ in one voter.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast.consensus.types import Configuration, Member, RefusedError, Role


class History:
    """The configurations of a log, newest last; the oldest is the snapshot's (or the bootstrap's)."""

    def __init__(self, index: int, configuration: Configuration) -> None:
        self._items: list[tuple[int, Configuration]] = [(index, configuration)]

    @property
    def latest(self) -> Configuration:
        """The configuration in force."""
        return self._items[-1][1]

    @property
    def latest_index(self) -> int:
        """The log index of the configuration in force."""
        return self._items[-1][0]

    def append(self, index: int, configuration: Configuration) -> None:
        """A configuration entry was appended at `index`."""
        if index > self._items[-1][0]:
            self._items.append((index, configuration))

    def cut(self, index: int) -> bool:
        """Entries from `index` on were cut. True when the configuration in force changed."""
        kept = [item for item in self._items if item[0] < index] or self._items[:1]
        changed = len(kept) != len(self._items)
        self._items = kept
        return changed

    def at(self, index: int) -> tuple[int, Configuration]:
        """(index, configuration) in force as of log `index`."""
        return max((item for item in self._items if item[0] <= index), key=lambda item: item[0], default=self._items[0])

    def compact(self, index: int) -> None:
        """Forget what a snapshot at `index` covers."""
        base = self.at(index)
        self._items = [base, *(item for item in self._items if item[0] > base[0])]


def change_error(old: Configuration, new: Configuration, leader: str) -> str | None:
    """Why `new` must not follow `old` under `leader`, or None when it may."""
    if not new.voters:
        return "the last voter cannot be removed: a cluster needs at least one voter"
    if len(old.voters ^ new.voters) > 1:
        return "only one voter can change at a time"
    if leader in old.voters and leader not in new.voters:
        return "the leader cannot remove or demote itself: leadership must move first"
    if old.cluster_id != new.cluster_id:
        return "the configuration belongs to another cluster"
    if lowest_format(new) < lowest_format(old):
        late = min(new.members, key=lambda m: m.format)
        return (
            f"server {late.node_id} reads log format {late.format}, but the log may hold entries of format "
            f"{lowest_format(old)} already: install a newer version on it"
        )
    return None


def lowest_format(configuration: Configuration) -> int:
    """The log format that every member reads; entries of a later one must not be proposed (design.md 16)."""
    return min((m.format for m in configuration.members), default=0)


def add(old: Configuration, member: Member) -> Configuration:
    """`old` with a new learner or non-voter. The same id at a new address replaces the entry and starts as a learner.

    Raises RefusedError when another server uses the address.
    """
    taken = next((m for m in old.members if m.address == member.address and m.node_id != member.node_id), None)
    if taken is not None:
        raise RefusedError(
            f"the address {member.address} belongs to server {taken.node_id}: remove that server first, or use another"
        )
    members = (*(m for m in old.members if m.node_id != member.node_id), member)
    return replace(old, members=members, removed=tuple(r for r in old.removed if r != member.node_id))


def remove(old: Configuration, node_id: str) -> Configuration:
    """`old` without `node_id`, which from now on counts as removed."""
    removed = (*(r for r in old.removed if r != node_id), node_id)
    return replace(old, members=tuple(m for m in old.members if m.node_id != node_id), removed=removed[-256:])


def with_role(old: Configuration, node_id: str, role: Role) -> Configuration:
    """`old` with another suffrage for `node_id`. Raises RefusedError for an unknown id."""
    if old.member(node_id) is None:
        raise RefusedError(f"server {node_id} is not in the Raft configuration")
    return replace(old, members=tuple(replace(m, role=role) if m.node_id == node_id else m for m in old.members))
