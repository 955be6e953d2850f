# SPDX-License-Identifier: Apache-2.0
"""Autopilot (raft-api.md 9.3): what to change next in a configuration, given what the leader knows. Pure.

One change per call. Promotion first; then, when switched on, cleanup of dead servers: failed non-voters before failed voters, never
half of the voters or more, never below `min_quorum`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.consensus.types import Configuration, Role


@dataclass(frozen=True, slots=True)
class Health:
    """One server as the leader sees it; times are the leader's monotonic seconds."""

    contact_age: float  # seconds since its last answer; 0 for the leader itself
    answered: bool  # it has answered in this term at all
    last_index: int
    last_term: int
    match: int
    stable_since: float | None
    writable: bool = True  # its disk takes entries
    behind: float = 0.0  # seconds that its log or its state lags (replication.Progress.behind)


@dataclass(frozen=True, slots=True)
class Settings:
    """See storage.types.AutopilotConfig; durations in seconds."""

    cleanup_dead_servers: bool
    last_contact_threshold: float
    dead_server_last_contact_threshold: float
    max_trailing_logs: int
    min_quorum: int
    server_stabilization_time: float
    election_timeout: float


@dataclass(frozen=True, slots=True)
class Promote:
    """Make this learner a voter."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Remove this dead server."""

    node_id: str


def healthy(health: Health, leader_last: int, term: int, settings: Settings) -> bool:
    """Alive, with room on its disk, in the leader's term, and not too far behind."""
    return (
        health.answered
        and health.writable
        and health.contact_age <= settings.last_contact_threshold
        and health.last_term <= term
        and leader_last - health.match <= settings.max_trailing_logs
    )


def caught_up(health: Health, settings: Settings) -> bool:
    """A learner this close does not hold commits up for longer than an election would, once it votes (dissertation §4.2.1)."""
    return health.behind <= settings.election_timeout


def failure_tolerance(configuration: Configuration, well: Mapping[str, bool]) -> int:
    """How many more voters may fail before the cluster stops."""
    voters = configuration.voters
    return max(0, sum(1 for v in voters if well.get(v)) - (len(voters) // 2 + 1))


def reconcile(
    configuration: Configuration,
    leader: str,
    servers: Mapping[str, Health],
    now: float,
    leader_since: float,
    settings: Settings,
) -> Promote | Cleanup | None:
    """The next change, or None. `servers` has every member but the leader."""
    fresh = now - leader_since < settings.server_stabilization_time
    for member in configuration.members:
        health = servers.get(member.node_id)
        if member.role is not Role.LEARNER or health is None or health.stable_since is None:
            continue
        stable = now - health.stable_since >= settings.server_stabilization_time
        # A fresh leader does not make a new cluster wait: nobody's stability is known yet (raft-api.md 9.3).
        if (stable or fresh) and caught_up(health, settings):
            return Promote(member.node_id)
    if not settings.cleanup_dead_servers:
        return None
    limit = settings.dead_server_last_contact_threshold
    dead = [m for m in configuration.members if m.node_id in servers and servers[m.node_id].contact_age > limit]
    dead.sort(key=lambda m: m.role is Role.VOTER)
    voters = configuration.voters
    dead_voters = sum(1 for m in dead if m.role is Role.VOTER)
    for member in dead:
        if member.role is not Role.VOTER:
            return Cleanup(member.node_id)
        if dead_voters <= (len(voters) - 1) // 2 and len(voters) - 1 >= max(3, settings.min_quorum):
            return Cleanup(member.node_id)
    return None
