# SPDX-License-Identifier: Apache-2.0
"""sys/storage/raft/: membership, autopilot and the leader's side of a join (raft-api.md 1, 2.1).

Snapshots are streamed by the HTTP layer; join and bootstrap are methods of the core.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from holdfast.barrier.barrier import Barrier
from holdfast.core.calls import Context, Route
from holdfast.core.errors import wrapped
from holdfast.core.invitation import Invitations
from holdfast.core.types import ApiError, Operation, Response
from holdfast.engines import fields
from holdfast.storage.types import AutopilotConfig, Cluster, Put, Server

AUTOPILOT_KEY = "core/raft/autopilot/configuration"
_READ, _UPDATE = Operation.READ, Operation.UPDATE
_DURATIONS = ("last_contact_threshold", "dead_server_last_contact_threshold", "server_stabilization_time")
PREFIX = "storage/raft/"


def load_autopilot(barrier: Barrier) -> AutopilotConfig:
    """The stored settings over the defaults. Durations are stored in Go form, as OpenBao does; "0s" means unset."""
    item = barrier.get(AUTOPILOT_KEY)
    if item is None:
        return AutopilotConfig()
    stored = json.loads(item.value)
    known: dict[str, Any] = {
        name: seconds for name in _DURATIONS if (seconds := fields.parse_duration(stored.get(name)))
    }
    known |= {name: int(stored[name]) for name in ("max_trailing_logs", "min_quorum") if stored.get(name)}
    return AutopilotConfig(cleanup_dead_servers=bool(stored.get("cleanup_dead_servers")), **known)


def _autopilot_dict(config: AutopilotConfig) -> dict[str, Any]:
    return {
        name: fields.format_duration(value) if name in _DURATIONS else value for name, value in asdict(config).items()
    }


class RaftBackend:
    """Routes relative to sys/; every one of them runs on the leader."""

    def __init__(self, barrier: Barrier, cluster: Cluster, invitations: Invitations) -> None:
        self._barrier = barrier
        self._cluster = cluster
        self._invitations = invitations
        self.routes: list[Route] = [
            (PREFIX + "configuration", {_READ: self._configuration}),
            (PREFIX + "remove-peer", {_UPDATE: self._remove}),
            (PREFIX + "promote", {_UPDATE: self._promote}),
            (PREFIX + "demote", {_UPDATE: self._demote}),
            (PREFIX + "autopilot/state", {_READ: self._state}),
            (PREFIX + "autopilot/configuration", {_READ: self._read_autopilot, _UPDATE: self._write_autopilot}),
            (PREFIX + "bootstrap/challenge", {_UPDATE: self._challenge}),
            (PREFIX + "bootstrap/answer", {_UPDATE: self._answer}),
        ]

    async def _configuration(self, _: Context) -> Response:
        servers = [
            {
                "address": server.address,
                "leader": server.leader,
                "node_id": server.node_id,
                "protocol_version": "3",
                "voter": server.voter,
            }
            for server in self._cluster.servers()
        ]
        return Response({"config": {"index": 0, "servers": servers}})

    # -- membership

    def _server(self, node_id: str) -> Server | None:
        return next((server for server in self._cluster.servers() if server.node_id == node_id), None)

    @staticmethod
    def _server_id(context: Context) -> str:
        node_id = fields.string(context.data, "server_id")
        if not node_id:
            raise ApiError(400, "no server id provided")
        return node_id

    def _known(self, context: Context) -> Server:
        node_id = self._server_id(context)
        server = self._server(node_id)
        if server is None:
            raise ApiError(400, f"server {node_id} not found in raft configuration")
        return server

    def _only_voter(self, node_id: str) -> bool:
        return {server.node_id for server in self._cluster.servers() if server.voter} == {node_id}

    async def _remove(self, context: Context) -> None:
        node_id = self._server_id(context)
        if self._only_voter(node_id):
            raise ApiError(
                400, f"need at least one voter in configuration: {node_id} is the last one and cannot be removed"
            )
        await self._cluster.remove_server(node_id)

    async def _promote(self, context: Context) -> None:
        server = self._known(context)
        if not server.permanent_non_voter:
            raise ApiError(500, wrapped("server is not a non-voter"))
        await self._cluster.promote(server.node_id)

    async def _demote(self, context: Context) -> None:
        server = self._known(context)
        if server.permanent_non_voter:
            raise ApiError(500, wrapped("server is already a non-voter"))
        if self._only_voter(server.node_id):
            raise ApiError(
                400, f"need at least one voter in configuration: {server.node_id} is the last one and cannot be demoted"
            )
        await self._cluster.demote(server.node_id)

    # -- autopilot

    async def _state(self, _: Context) -> Response | None:
        state = self._cluster.autopilot_state()
        if state is None:
            return None
        servers = {
            server.node_id: {
                "address": server.address,
                "healthy": server.healthy,
                "id": server.node_id,
                "last_contact": "-1ns" if server.last_contact is None else fields.format_duration(server.last_contact),
                "last_index": server.last_index,
                "last_term": server.last_term,
                "name": server.node_id,
                "node_status": "alive" if server.alive else "failed",
                "node_type": server.node_type,
                "sealed": server.sealed,
                "stable_since": datetime.fromtimestamp(server.stable_since, UTC).isoformat().replace("+00:00", "Z"),
                "status": server.status,
                "version": server.version,
            }
            for server in state.servers
        }
        data: dict[str, Any] = {
            "failure_tolerance": state.failure_tolerance,
            "healthy": state.healthy,
            "leader": state.leader,
            "servers": servers,
            "voters": [server.node_id for server in state.servers if server.status in ("leader", "voter")],
        }
        non_voters = [server.node_id for server in state.servers if server.node_type == "non-voter"]
        if non_voters:
            data["non_voters"] = non_voters
        return Response(data)

    async def _read_autopilot(self, _: Context) -> Response:
        return Response(_autopilot_dict(load_autopilot(self._barrier)))

    async def _write_autopilot(self, context: Context) -> None:
        data = context.data
        item = self._barrier.get(AUTOPILOT_KEY)
        config = load_autopilot(self._barrier)
        changes: dict[str, Any] = {}
        for name in _DURATIONS:
            if data.get(name) is not None:
                changes[name] = fields.duration(data, name)
                if changes[name] <= 0:
                    raise ApiError(400, f"{name} must be greater than zero; received: {data[name]}")
        for name in ("max_trailing_logs", "min_quorum"):
            if data.get(name) is not None:
                changes[name] = fields.natural(data, name)
        if changes.get("max_trailing_logs") == 0:
            raise ApiError(400, "max_trailing_logs must be greater than zero; received: 0")
        if data.get("cleanup_dead_servers") is not None:
            changes["cleanup_dead_servers"] = fields.boolean(data, "cleanup_dead_servers")
        config = replace(config, **changes)
        if config.cleanup_dead_servers:
            if config.min_quorum < 3:
                raise ApiError(
                    400,
                    "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; "
                    f"cleanup_dead_servers: true, min_quorum: {config.min_quorum:#x}",
                )
            if config.dead_server_last_contact_threshold < 60:
                raise ApiError(
                    400,
                    "dead_server_last_contact_threshold should not be set to less than 1m; received: "
                    f"{config.dead_server_last_contact_threshold:g}",
                )
        value = json.dumps(_autopilot_dict(config)).encode()
        await self._barrier.commit([Put(AUTOPILOT_KEY, value)], {AUTOPILOT_KEY: item.revision if item else 0})
        self._cluster.set_autopilot(config)

    # -- joining

    async def _challenge(self, context: Context) -> Response:
        return Response(self._invitations.challenge(context.data))

    async def _answer(self, context: Context) -> Response:
        return Response(await self._invitations.accept(context.data))
