# SPDX-License-Identifier: Apache-2.0
"""Leadership and membership of the `raft` backend. What concerns the leader itself is done by its successor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgpack

from holdfast.consensus import clock, membership
from holdfast.consensus import types as t
from holdfast.consensus.replica import Replica
from holdfast.consensus.transport import TransportError
from holdfast.storage.raft_store import RaftStore
from holdfast.storage.types import (
    MembershipRefused,
    OutcomeUnknown,
    StorageError,
)

log = logging.getLogger("holdfast.storage.raft")

_HOLD_OFF = 10.0  # seconds without a campaign after step-down (raft-api.md 5.1)


class RaftMembers(RaftStore):
    """The membership half of `Cluster`."""

    def set_eligible(self, eligible: bool) -> None:
        """See `Cluster.set_eligible`. A leader that may lead no more hands over, or just stops leading."""
        self._eligible = eligible
        running = self._replica
        if running is None:
            return
        running.raft.eligible = eligible
        if not eligible and running.raft.is_leader:
            if len(running.raft.history.latest.voters) == 1:
                running.resign()
                self._changed()
            elif self._leaving is None or self._leaving.done():
                self._leaving = asyncio.create_task(self._leave(running))
        running.driver.post()

    async def _leave(self, running: Replica) -> None:
        try:
            await running.transfer(None, 3.0)
        except t.ConsensusError as error:
            log.warning("leadership given up without a successor", extra={"fields": {"reason": str(error)}})
            running.resign()

    async def transfer_leadership(self, to: str | None = None, timeout: float = 10.0) -> None:
        """See `Cluster.transfer_leadership`."""
        await self._translate(self._need().transfer(to, timeout))

    async def step_down(self) -> None:
        """See `Cluster.step_down`."""
        running = self._need()
        if not running.raft.is_leader:
            return
        others = len(running.raft.history.latest.voters) > 1
        try:
            await running.transfer(None, 5.0)
        except t.ConsensusError:
            running.resign()
        if others:
            running.raft.hold_off_until = clock.now() + _HOLD_OFF

    async def add_server(self, node_id: str, address: str, permanent_non_voter: bool) -> None:
        """See `Cluster.add_server`."""
        running = self._need()
        old = running.raft.history.latest.member(node_id)
        role = t.Role.NON_VOTER if permanent_non_voter else t.Role.LEARNER
        if old is not None and old.role is t.Role.NON_VOTER:
            role = t.Role.NON_VOTER  # a wiped non-voter comes back as one until it is promoted
        if node_id == self.node_id:
            raise MembershipRefused(f"server {node_id} is the leader of this cluster: choose another node_id")
        await self._translate(running.add(t.Member(node_id, address, role)))

    async def remove_server(self, node_id: str) -> bool:
        """See `Cluster.remove_server`."""
        return await self._with_leader_moved(node_id, "remove", self._remove_here)

    async def _remove_here(self, node_id: str) -> bool:
        running = self._need()
        if running.raft.history.latest.member(node_id) is None:
            return False
        return await self._translate(running.change(lambda old: membership.remove(old, node_id)))

    async def promote(self, node_id: str) -> None:
        """See `Cluster.promote`: from now on autopilot makes it a voter when it has caught up."""
        running = self._need()
        await self._translate(running.change(lambda old: membership.with_role(old, node_id, t.Role.LEARNER)))

    async def demote(self, node_id: str) -> None:
        """See `Cluster.demote`."""
        await self._with_leader_moved(node_id, "demote", self._demote_here)

    async def _demote_here(self, node_id: str) -> bool:
        running = self._need()
        return await self._translate(running.change(lambda old: membership.with_role(old, node_id, t.Role.NON_VOTER)))

    async def _with_leader_moved(self, node_id: str, verb: str, act: Callable[[str], Awaitable[bool]]) -> bool:
        """Act here; when the server concerned is this leader, move leadership first and let the new leader act."""
        running = self._need()
        if node_id != self.node_id:
            return await act(node_id)
        if len(running.raft.history.latest.voters) == 1:
            raise MembershipRefused("the last voter cannot be removed: a cluster needs at least one voter")
        await self._translate(running.transfer(None, 10.0))
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            leader = running.raft.leader_id
            if leader is not None and leader != self.node_id:
                try:
                    answer = await running.transport.request(leader, msgpack.packb([verb, node_id]))
                except TransportError as error:
                    raise OutcomeUnknown(f"leadership moved to {leader}, but it did not answer: {error}") from None
                ok, value = msgpack.unpackb(answer)
                if ok:
                    return bool(value)
                if ok is None:
                    raise OutcomeUnknown(str(value))
                if value != "not leader":
                    raise MembershipRefused(str(value))
            await asyncio.sleep(0.02)
        raise StorageError("leadership has moved away but no new leader was found: try again")
