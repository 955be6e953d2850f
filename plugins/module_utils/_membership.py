# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Carries out the planner's steps over the API, reading the membership again after each. Private to holdfast.raft."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import ClusterView
from ansible_collections.holdfast.raft.plugins.module_utils._errors import (
    NotFound,
    OutcomeUnknown,
    Refused,
    Sealed,
    TimedOut,
    Unreachable,
)
from ansible_collections.holdfast.raft.plugins.module_utils._planner import Step, Wanted, after, next_step, plan
from ansible_collections.holdfast.raft.plugins.module_utils._session import RAFT, Cluster
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import Waiter

NOT_YET = (Unreachable, Sealed)
HEALTH_PATIENCE = 15.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was, what is (or would be, in check mode), and the steps between."""

    before: ClusterView
    after: ClusterView
    steps: tuple[Step, ...]


def reconcile(
    cluster: Cluster, wanted: Wanted, waiter: Waiter, force: bool = False, wait: bool = True, check_mode: bool = False
) -> Outcome:
    """Brings the membership of C(wanted) about (see _planner.plan), one safe step at a time.

    Raises Refused, with nothing done, when the way is unsafe or somebody who should be there never joined. With
    C(wait=False) it does not wait for what autopilot does in its own time (learners becoming voters).
    """
    before = view = informed_view(cluster, waiter)
    steps = plan(view, wanted, force)
    strangers = [step.node_id for step in steps if step.action == "join"]
    if strangers:
        raise Refused(f"not a member of this cluster: {', '.join(strangers)}; let them join first, with raft_join")
    if check_mode:
        for step in steps:
            view = after(view, step, wanted)
        return Outcome(before, view, tuple(steps))
    done: list[Step] = []
    while True:
        view, step = _choose(cluster, wanted, waiter, force)
        if step is None or (step.action == "wait" and not wait):
            return Outcome(before, view, tuple(done))
        done.append(step)
        _execute(cluster.leader(), step)
        if step.action in ("promote", "demote") and not wait:
            return Outcome(before, cluster.view(), tuple(done))
        waiter.until(
            cluster.view,
            lambda now, step=step: _effective(now, step),  # type: ignore[misc]
            f"the effect of {step}",
            tolerate=NOT_YET,
            describe=lambda now: str(now.summary()),
        )


def informed_view(cluster: Cluster, waiter: Waiter) -> ClusterView:
    """The membership; right after an election it waits a little for autopilot to know who is healthy."""
    patience = Waiter(min(HEALTH_PATIENCE, waiter.left()))
    try:
        return patience.until(cluster.view, lambda view: all(s.healthy is not None for s in view.voters), "autopilot's state")
    except TimedOut:
        return cluster.view()


def _choose(cluster: Cluster, wanted: Wanted, waiter: Waiter, force: bool) -> tuple[ClusterView, Step | None]:
    """The next step. What was safe when the run began may be refused for a moment after an election: that is waited out."""

    def read() -> tuple[ClusterView, Step | None]:
        view = cluster.view()
        return view, next_step(view, wanted, force)

    return waiter.until(read, lambda found: True, "a safe next step", tolerate=(*NOT_YET, Refused))


def _execute(leader: Client, step: Step) -> None:
    """One call. An unknown outcome is left to the reading that follows."""
    try:
        if step.action == "transfer":
            leader.put("sys/step-down", {})
        elif step.action == "remove":
            leader.put(f"{RAFT}/remove-peer", {"server_id": step.node_id})
        elif step.action in ("promote", "demote"):
            leader.put(f"{RAFT}/{step.action}", {"server_id": step.node_id})
    except OutcomeUnknown:
        return
    except NotFound as exc:
        raise Refused(f"{leader.url} does not support {step.action}: {exc}", status=exc.status, url=exc.url) from exc


def _effective(view: ClusterView, step: Step) -> bool:
    server = view.get(step.node_id)
    if step.action == "remove":
        return server is None
    if step.action == "transfer":
        return view.leader is not None and view.leader.node_id != step.node_id
    if step.action == "demote":
        return server is not None and not server.voter
    if step.action == "promote":
        return server is not None and not server.permanent_non_voter
    return server is not None and server.voter


def as_lines(steps: t.Iterable[Step]) -> list[str]:
    """The steps as text for a module's result."""
    return [str(step) for step in steps]
