# SPDX-License-Identifier: Apache-2.0
"""Runs consensus.autopilot on the leader: keeps servers' stability, acts one step at a time, reports the state."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from holdfast.consensus import autopilot as pure
from holdfast.consensus import clock
from holdfast.consensus.replica import Replica
from holdfast.consensus.transport import Hello
from holdfast.consensus.types import Role
from holdfast.storage.types import AutopilotConfig, AutopilotState, ServerHealth

_ALIVE = 2.0  # seconds without an answer after which a server is not shown as alive


class Autopilot:
    """`act(verb, node_id)` carries out "promote" or "remove"."""

    def __init__(self, node_id: str, act: Callable[[str, str], Awaitable[None]]) -> None:
        self.config = AutopilotConfig()
        self._node_id = node_id
        self._act = act
        self._since = clock.now()

    def led_since(self, now: float) -> None:
        """This server has just become the leader."""
        self._since = now

    def _settings(self, replica: Replica) -> pure.Settings:
        config = self.config
        return pure.Settings(
            config.cleanup_dead_servers,
            config.last_contact_threshold,
            config.dead_server_last_contact_threshold,
            config.max_trailing_logs,
            config.min_quorum,
            config.server_stabilization_time,
            replica.raft.timing.election,
        )

    def _observe(self, replica: Replica) -> Mapping[str, pure.Health]:
        """Health of the others; notes since when each is well."""
        leading = replica.raft.leadership
        if leading is None:
            return {}
        now = clock.now()
        rules = self._settings(replica)
        for peer, health in replica.health().items():
            progress = leading.progress[peer]
            well = pure.healthy(health, replica.raft.log.last, replica.raft.current_term, rules)
            member = replica.raft.history.latest.member(peer)
            if member is not None and member.role is Role.LEARNER:
                well = well and pure.caught_up(health, rules)
            if not well:
                progress.stable_since = None
            elif progress.stable_since is None:
                progress.stable_since = now
        return replica.health()

    async def round(self, replica: Replica) -> None:
        """One step, if one is due. Raises ConsensusError when the change was refused."""
        raft = replica.raft
        servers = self._observe(replica)
        step = pure.reconcile(
            raft.history.latest,
            self._node_id,
            servers,
            clock.now(),
            self._since,
            self._settings(replica),
        )
        if isinstance(step, pure.Promote):
            await self._act("promote", step.node_id)
        elif isinstance(step, pure.Cleanup):
            await self._act("remove", step.node_id)

    def state(self, replica: Replica, said: Mapping[str, Hello]) -> AutopilotState | None:
        """What `autopilot/state` shows. `said` is what each server told of itself when it connected."""
        raft = replica.raft
        leading = raft.leadership
        if leading is None:
            return None
        servers = self._observe(replica)
        latest = raft.history.latest
        wall = time.time() - clock.now()
        rows = []
        well: dict[str, bool] = {}
        for member in latest.members:
            here = member.node_id == self._node_id
            health = servers.get(member.node_id)
            progress = leading.progress.get(member.node_id)
            if not here and (health is None or progress is None):
                continue
            stable = self._since if here else (progress.stable_since if progress else None)
            well[member.node_id] = raft.room(0) if here else stable is not None
            status = "leader" if here else ("voter" if member.role is Role.VOTER else "non-voter")
            answered = here or bool(health and health.answered)
            rows.append(
                ServerHealth(
                    node_id=member.node_id,
                    address=member.address,
                    alive=here or bool(health and health.answered and health.contact_age < _ALIVE),
                    healthy=well[member.node_id],
                    last_contact=0.0 if here else (health.contact_age if health and answered else None),
                    last_term=raft.current_term if here else (health.last_term if health else 0),
                    last_index=raft.log.last if here else (health.match if health else 0),
                    stable_since=wall + (stable if stable is not None else clock.now()),
                    status=status,
                    node_type="non-voter" if member.role is Role.NON_VOTER else "voter",
                    version=said[member.node_id].version if member.node_id in said else "",
                    sealed=not (raft.eligible if here else bool(progress and progress.eligible)),
                    api_addr=said[member.node_id].api_addr if member.node_id in said else "",
                )
            )
        return AutopilotState(all(well.values()), pure.failure_tolerance(latest, well), self._node_id, tuple(rows))
