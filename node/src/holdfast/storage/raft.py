# SPDX-License-Identifier: Apache-2.0
"""The `raft` backend: `Storage` and `Cluster` (storage.types) on a `Replica` (consensus)."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack

from holdfast.consensus import clock, membership, replica
from holdfast.consensus import identity as identity_files
from holdfast.consensus import types as t
from holdfast.consensus.replica import Replica
from holdfast.consensus.transport import TransportError
from holdfast.state.machine import ReplacingError
from holdfast.storage.autopilot import Autopilot
from holdfast.storage.raft_members import RaftMembers
from holdfast.storage.raft_store import RaftSettings, exit_now
from holdfast.storage.restores import adopt_file
from holdfast.storage.snapshots import Source
from holdfast.storage.types import (
    AutopilotConfig,
    AutopilotState,
    EntryTooLarge,
    Event,
    ForwardReply,
    ForwardRequest,
    Identity,
    NotLeader,
    OutcomeUnknown,
    Server,
    SnapshotSource,
    StorageError,
    Unavailable,
)

__all__ = ["RaftSettings", "RaftStorage"]

log = logging.getLogger("holdfast.storage.raft")

_INIT_KEY = b"core/keyring"


class RaftStorage(RaftMembers):
    """One server's storage: life, forming and joining, autopilot, forwarding, snapshots."""

    def __init__(self, settings: RaftSettings, on_fatal: Callable[[str], None] = exit_now) -> None:
        super().__init__(settings, on_fatal)
        self._autopilot = Autopilot(settings.node_id, self._autopilot_act)
        self.subscribe(self._note_leadership)

    def _note_leadership(self, event: Event) -> None:
        if event is Event.LEADER_GAINED:
            self._autopilot.led_since(clock.now())

    async def start(self) -> None:
        """Recover what is on disk and run it; nothing to do on a new server. Raises StorageError."""
        if self.has_state():
            await self._run()

    async def stop(self) -> None:
        """Flush and close."""
        tasks = [task for task in (self._task, self._leaving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._leaving = None
        if self._replica is not None:
            await self._replica.stop()
            self._replica = None

    async def _run(self) -> None:
        settings = self.settings
        try:
            new = Replica(
                settings.path,
                settings.node_id,
                replica.Addresses(settings.cluster_listen, settings.cluster_addr, settings.api_addr, settings.version),
                t.Timing(lease_reads=settings.lease_reads).scaled(max(1.0, float(settings.performance_multiplier))),
                self._on_fatal,
            )
            new.changed = self._changed
            new.replaced = lambda: self._emit(Event.STATE_REPLACED)
            new.was_removed_callback = lambda: self._emit(Event.REMOVED)
            await new.start()
        except t.ConsensusError as error:
            raise StorageError(str(error)) from None
        except OSError as error:
            raise StorageError(f"Raft cannot start: {error.strerror or error}") from None
        self._replica = new
        new.transport.on_request = self._on_request
        new.raft.eligible = self._eligible
        self._changed()
        self._task = asyncio.create_task(self._run_autopilot())

    async def bootstrap(self, identity: Identity) -> None:
        """See `Cluster.bootstrap`. What an initialisation that never finished left behind is replaced."""
        if self.has_state():
            if not self._unfinished():
                raise StorageError("cluster already has state")
            await self.stop()
            shutil.rmtree(self.settings.path / "raft")
        configuration = replica.new_configuration(identity.cluster_id, self.node_id, self.cluster_addr, identity.ca_pem)
        await self._create(identity, {self.node_id: self.cluster_addr}, configuration)
        self._eligible = True
        await self._run()
        running = self._need()
        running.raft.eligible = True
        running.raft.campaign_now()
        running.driver.post()
        async with asyncio.timeout(15):
            while not self.is_leader():
                await asyncio.sleep(0.005)

    def _unfinished(self) -> bool:
        running = self._replica
        if running is None:
            return False
        only_me = [m.node_id for m in running.raft.history.latest.members] == [self.node_id]
        known = running.machine.state.get(_INIT_KEY.decode()) is not None
        return only_me and not known and not any(_INIT_KEY in entry.command for entry in running.raft.log[0:])

    async def join(self, identity: Identity, servers: Sequence[Server]) -> None:
        """See `Cluster.join`."""
        if self.has_state():
            raise StorageError("this server already has Raft state: wipe its data directory to join another cluster")
        await self._create(identity, {s.node_id: s.address for s in servers}, None)
        await self._run()

    async def _create(
        self, identity: Identity, addresses: dict[str, str], configuration: t.Configuration | None
    ) -> None:
        path = self.settings.path

        def write() -> None:
            identity_files.save(
                path / "identity",
                identity.cluster_id,
                self.node_id,
                identity.ca_pem,
                identity.cert_pem,
                identity.key_pem,
                addresses,
            )
            replica.create(path, self.node_id, identity.cluster_id, configuration)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StorageError(f"cannot write the Raft state below {path}: {error.strerror}") from None

    async def flush(self) -> None:
        """See `Cluster.flush`."""
        await self._need().driver.flushed()

    def autopilot_state(self) -> AutopilotState | None:
        """See `Cluster.autopilot_state`."""
        running = self._replica
        if running is None or not self.is_leader():
            return None
        own = running.transport.hello
        return self._autopilot.state(running, {**running.transport.peers, self.node_id: own})

    def set_autopilot(self, config: AutopilotConfig) -> None:
        """See `Cluster.set_autopilot`."""
        self._autopilot.config = config

    async def _run_autopilot(self) -> None:
        while True:
            await asyncio.sleep(self.settings.autopilot_update_interval)
            running = self._replica
            if running is not None:
                running.check_directory()
            if running is not None and self.is_leader():
                try:
                    await self._autopilot.round(running)
                except (StorageError, t.ConsensusError) as error:
                    log.info("autopilot waits", extra={"fields": {"reason": str(error)}})

    async def _autopilot_act(self, verb: str, node_id: str) -> None:
        running = self._need()
        log.info("autopilot", extra={"fields": {"action": verb, "server": node_id}})
        if verb == "promote":
            await running.change(lambda old: membership.with_role(old, node_id, t.Role.VOTER))
        else:
            await running.change(lambda old: membership.remove(old, node_id))

    async def forward(self, request: ForwardRequest) -> ForwardReply:
        """See `Cluster.forward`."""
        running = self._need()
        leader = running.raft.leader_id
        if leader is None or leader == self.node_id:
            raise NotLeader("no leader is known")
        packed = msgpack.packb(
            [
                "http",
                request.method,
                request.target,
                [list(header) for header in request.headers],
                request.body,
                request.remote_addr,
            ]
        )
        try:
            answer = await running.transport.request(leader, packed)
        except TransportError as error:
            if error.too_large:
                raise EntryTooLarge(f"{error}: send it to the leader {leader} itself") from None
            if error.sent:
                raise OutcomeUnknown(
                    f"the leader {leader} may or may not have carried out the request ({error}): read it back before trying again"
                ) from None
            raise NotLeader(f"the leader {leader} cannot be reached: {error}") from None
        ok, value = msgpack.unpackb(answer)
        if not ok:
            raise NotLeader(str(value))
        status, headers, body = value
        return ForwardReply(status, tuple((k, v) for k, v in headers), body)

    def on_forward(self, handler: Callable[[ForwardRequest], Awaitable[ForwardReply]]) -> None:
        """See `Cluster.on_forward`."""
        self._forward_handler = handler

    async def _on_request(self, peer: str, body: bytes) -> bytes:
        try:
            verb, *rest = msgpack.unpackb(body)
            if not self.is_leader():
                raise NotLeader("not leader")
            if self._need().raft.history.latest.member(peer) is None:  # its certificate outlives its membership
                log.warning("request refused", extra={"fields": {"peer": peer, "reason": "not a member"}})
                raise NotLeader(f"server {peer} is not a member of this cluster")
            if verb == "http" and self._forward_handler is not None:
                method, target, headers, payload, remote = rest
                reply = await self._forward_handler(
                    ForwardRequest(method, target, tuple((k, v) for k, v in headers), payload, remote)
                )
                answer: Any = [True, [reply.status, [list(h) for h in reply.headers], reply.body]]
            elif verb in ("remove", "demote"):
                act = self._remove_here if verb == "remove" else self._demote_here
                answer = [True, await act(str(rest[0]))]
            else:
                answer = [False, f"unknown request {verb}"]
        except OutcomeUnknown as error:
            answer = [None, str(error)]
        except (StorageError, ValueError, TypeError, LookupError) as error:
            answer = [False, str(error)]
        packed: bytes = msgpack.packb(answer)
        return packed

    async def open_snapshot(self) -> SnapshotSource:
        """See `Cluster.open_snapshot`."""
        running = self._need()
        raft = running.raft
        index, _ = raft.history.at(raft.applied)
        try:
            picture = running.machine.picture()
        except ReplacingError as error:
            raise Unavailable(str(error)) from None
        return Source(picture, raft.applied, raft.log.term_at(raft.applied), self.servers(), index)

    async def restore(self, path: Path, sha256: str, size: int, progress: Callable[[str, int, int], None]) -> int:
        """See `Cluster.restore`."""
        running = self._need()
        name = await asyncio.to_thread(adopt_file, path, self.settings.path / "raft", sha256)
        return await self._translate(running.restore(name, sha256, size, progress))
