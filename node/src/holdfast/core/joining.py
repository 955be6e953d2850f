# SPDX-License-Identifier: Apache-2.0
"""The joiner's side of the two-phase join (raft-api.md 1.2, 2.2, 2.3)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from dataclasses import dataclass
from typing import Any

from holdfast.barrier import seal
from holdfast.core.cluster_ca import CertificateError, new_request
from holdfast.core.leader_client import LeaderClient, LeaderError, TlsMaterial, TlsMaterialError
from holdfast.core.types import ApiError
from holdfast.core.unsealing import json_type_error
from holdfast.storage.types import Cluster, Identity, Server, StorageError

FAILED = "failed to join raft cluster: failed to get raft challenge"
WIPE = "stop it, wipe its data directory, start it and join again"
_TEXTS = (
    "leader_api_addr",
    "auto_join",
    "auto_join_scheme",
    "leader_ca_cert",
    "leader_client_cert",
    "leader_client_key",
    "leader_tls_servername",
)
_RETRY_PAUSE = 2.0
_STRUCT = "JoinRequest"


class JoinError(Exception):
    """A join attempt failed; one sentence that begins with the address, where there is one."""


@dataclass(frozen=True, slots=True)
class JoinParams:
    """A parsed join request."""

    address: str
    auto_join: str
    tls: TlsMaterial
    retry: bool
    non_voter: bool

    def client(self) -> LeaderClient:
        """The client for the leader. Raises JoinError, and ApiError 400 for a mismatched certificate and key."""
        if self.address and self.auto_join:
            raise JoinError("give either leader_api_addr or auto_join, not both")
        if self.auto_join:
            provider = _provider(self.auto_join)
            raise JoinError(f'auto_join: no such provider "{provider}"; use leader_api_addr')
        if not self.address:
            raise JoinError("leader_api_addr is missing: give the API address of a server of the cluster")
        try:
            return LeaderClient(self.address, self.tls)
        except TlsMaterialError as error:
            if error.pair:
                raise ApiError(400, str(error)) from None
            raise JoinError(f"{self.address}: {error}") from None
        except LeaderError as error:
            raise JoinError(f"{self.address}: {error}") from None


def _provider(expression: str) -> str:
    for word in expression.split():
        name, equals, value = word.partition("=")
        if name == "provider" and equals:
            return value
    return expression


def parse(params: dict[str, Any]) -> JoinParams:
    """Check types and the scheme. Raises ApiError 400."""
    for name in _TEXTS:
        value = params.get(name)
        if value is not None and not isinstance(value, str):
            raise json_type_error(name, value, _STRUCT, "string")
    for name in ("retry", "non_voter"):
        value = params.get(name)
        if value is not None and not isinstance(value, bool):
            raise json_type_error(name, value, _STRUCT, "bool")
    port = params.get("auto_join_port")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or port < 0):
        raise json_type_error("auto_join_port", port, _STRUCT, "uint")
    scheme = params.get("auto_join_scheme") or "https"
    if scheme not in ("http", "https"):
        raise ApiError(400, f'invalid scheme "{scheme}"; must either be http or https')
    tls = TlsMaterial(*(params.get(name) or "" for name in _TEXTS[3:]))
    return JoinParams(
        (params.get("leader_api_addr") or "").strip(),
        (params.get("auto_join") or "").strip(),
        tls,
        bool(params.get("retry")),
        bool(params.get("non_voter")),
    )


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the first phase brought, kept in memory only. `cluster_id` is "" when the leader did not say."""

    client: LeaderClient
    blob: bytes
    config: seal.SealConfig
    non_voter: bool
    cluster_id: str = ""
    member: bool = True


class Joiner:
    """At most one join at a time: `pending` from the challenge to the answer."""

    def __init__(self, cluster: Cluster, logger: logging.Logger) -> None:
        self._cluster = cluster
        self._logger = logger
        self._retrying: asyncio.Task[None] | None = None
        self.pending: Challenge | None = None
        self.config: seal.SealConfig | None = None  # of the cluster, until its own is replicated

    async def ask(self, client: LeaderClient, non_voter: bool, *, announce: bool = True) -> Challenge:
        """Fetch a challenge. `announce`: let the leader refuse an id or address that is taken. Raises JoinError."""
        body = {"server_id": self._cluster.node_id}
        if announce:
            body["cluster_addr"] = self._cluster.cluster_addr
        try:
            data = await asyncio.to_thread(client.post, "sys/storage/raft/bootstrap/challenge", body)
        except LeaderError as error:
            raise JoinError(f"{client.address}: {error}") from None
        try:
            blob = base64.b64decode(data["challenge"], validate=True)
            config = seal.SealConfig.from_dict(data.get("seal_config"))
            about = data.get("cluster") or {}
            challenge = Challenge(
                client,
                blob,
                config,
                non_voter,
                str(about.get("cluster_id", "")),
                bool(about.get("member", True)),
            )
        except (LookupError, TypeError, AttributeError, binascii.Error, ValueError):
            raise JoinError(f"{client.address}: the challenge has an unknown form") from None
        if config.type != "shamir":
            raise JoinError(
                f"{client.address}: mismatching seal types between raft leader ({config.type}) and follower (shamir)"
            )
        return challenge

    async def start(self, params: JoinParams) -> bool:
        """Run phase one. True: the challenge is here. False: `retry` is set and it goes on in the background.

        Raises JoinError; ApiError 400 for a mismatched certificate and key.
        """
        client = params.client()
        self._stop_retrying()
        if params.retry:
            self._retrying = asyncio.get_running_loop().create_task(self._retry(client, params.non_voter))
            return False
        challenge = await self.ask(client, params.non_voter)
        self._accept(challenge)
        return True

    def _accept(self, challenge: Challenge) -> None:
        self.pending = challenge
        self.config = challenge.config

    async def _retry(self, client: LeaderClient, non_voter: bool) -> None:
        while not self._cluster.has_state():
            try:
                self._accept(await self.ask(client, non_voter))
            except JoinError as error:
                self._logger.warning("join: %s; trying again", error)
                await asyncio.sleep(_RETRY_PAUSE)
                continue
            return

    async def check_member(self, params: JoinParams) -> None:
        """A member's join does nothing, unless the cluster that is asked says that we are no member of it.

        Raises ApiError 400 then. A leader that cannot be asked changes nothing, as for OpenBao.
        """
        try:
            challenge = await self.ask(params.client(), params.non_voter, announce=False)
        except (JoinError, ApiError) as error:
            self._logger.info("join: already a member; the given address was not asked: %s", error)
            return
        own, where = self._cluster.cluster_id(), f"{FAILED}: {challenge.client.address}"
        if challenge.cluster_id and challenge.cluster_id != own:
            raise ApiError(
                400,
                f"{where}: this server's data belongs to another cluster ({own}, not {challenge.cluster_id}): {WIPE}",
            )
        if not challenge.member:
            raise ApiError(400, f"{where}: this server has been removed from the cluster: {WIPE}")

    def _stop_retrying(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    def stop(self) -> None:
        """Forget a pending join."""
        self._stop_retrying()
        self.pending = None

    def open_challenge(self, kek: bytes) -> bytes:
        """The answer to the pending challenge. Raises SealError for the wrong key."""
        assert self.pending is not None
        return seal.decrypt(kek, self.pending.blob)

    async def complete(self, kek: bytes, answer: bytes) -> None:
        """Phase two: answer, receive certificate and members, start Raft as a learner.

        Raises JoinError; the join stays pending then.
        """
        pending = self.pending
        assert pending is not None
        self._stop_retrying()
        try:
            key_pem, csr = new_request(self._cluster.node_id)
        except CertificateError as error:
            raise JoinError(str(error)) from None
        try:
            data = await self._send(pending, answer, csr)
        except LeaderError as error:
            if "invalid answer given" not in str(error):
                raise JoinError(f"{pending.client.address}: {error}") from None
            # The leader changed or restarted since phase one: its challenge key is another.
            fresh = await self.ask(pending.client, pending.non_voter)
            self._accept(fresh)
            try:
                data = await self._send(fresh, seal.decrypt(kek, fresh.blob), csr)
            except (LeaderError, seal.SealError) as again:
                raise JoinError(f"{pending.client.address}: {again}") from None
        identity, servers = self._parse(data, key_pem, pending.client.address)
        try:
            await self._cluster.join(identity, servers)
        except StorageError as error:
            raise JoinError(str(error)) from None
        self.pending = None

    async def _send(self, challenge: Challenge, answer: bytes, csr: str) -> dict[str, Any]:
        body = {
            "server_id": self._cluster.node_id,
            "answer": base64.b64encode(answer).decode(),
            "cluster_addr": self._cluster.cluster_addr,
            "non_voter": challenge.non_voter,
            "csr": csr,
        }
        return await asyncio.to_thread(challenge.client.post, "sys/storage/raft/bootstrap/answer", body)

    def _parse(self, data: dict[str, Any], key_pem: str, address: str) -> tuple[Identity, list[Server]]:
        about = data.get("cluster")
        if not isinstance(about, dict):
            raise JoinError(
                f"{address}: the leader sent no cluster certificate, so it is not a server of this software"
            )
        try:
            identity = Identity(
                str(about["cluster_id"]), self._cluster.node_id, str(about["ca_pem"]), str(about["cert_pem"]), key_pem
            )
            servers = [
                Server(
                    str(peer["id"]),
                    str(peer["address"]),
                    voter=peer["suffrage"] == 0,
                    permanent_non_voter=bool(peer.get("permanent_non_voter")),
                )
                for peer in data["peers"]
            ]
        except (LookupError, TypeError):
            raise JoinError(f"{address}: the answer has an unknown form") from None
        return identity, servers
