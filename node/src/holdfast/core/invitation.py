# SPDX-License-Identifier: Apache-2.0
"""The leader's side of the two-phase join (raft-api.md 1.8, 2.1; design.md 12).

The challenge is stateless: the answer is derived from a key that lives in this process only. Whoever can open the
challenge holds the KEK; that is the proof of being allowed in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.barrier import seal
from holdfast.core.cluster_ca import CertificateError, ClusterCa, check_node_id
from holdfast.core.types import ApiError
from holdfast.engines import fields
from holdfast.storage.types import Cluster, Server

_SALT = b"openbao-raft-peer-challenge"
_ANSWER_SIZE = 24
_MAX_ID = 16_384


class Invitations:
    """Issues challenges and accepts answers. The callables return the current seal configuration, KEK and CA."""

    def __init__(
        self,
        cluster: Cluster,
        seal_config: Callable[[], seal.SealConfig | None],
        kek: Callable[[], bytes],
        ca: Callable[[], ClusterCa | None],
    ) -> None:
        self._cluster = cluster
        self._seal_config = seal_config
        self._kek = kek
        self._ca = ca
        self._key = secrets.token_bytes(32)

    def _expected(self, node_id: str) -> bytes:
        return HKDF(hashes.SHA256(), _ANSWER_SIZE, _SALT, node_id.encode()).derive(self._key)

    def challenge(self, data: dict[str, Any]) -> dict[str, Any]:
        """Phase one. `cluster_addr` and the `cluster` object are ours: they let a joiner fail early and clearly."""
        node_id = _server_id(data, "no server id provided")
        address = fields.string(data, "cluster_addr")
        if address:
            self._refuse_conflict(node_id, address)
        config = self._seal_config()
        if config is None:
            raise ApiError(500, "could not find the seal configuration")
        blob = seal.encrypt(self._kek(), self._expected(node_id))
        return {
            "challenge": base64.b64encode(blob).decode(),
            "seal_config": config.as_dict(),
            "cluster": {"cluster_id": self._cluster.cluster_id(), "member": self._server(node_id) is not None},
        }

    async def accept(self, data: dict[str, Any]) -> dict[str, Any]:
        """Phase two: check the answer, sign the joiner's certificate, add it as a learner."""
        node_id = _server_id(data, "no server_id provided")
        answer = fields.string(data, "answer")
        if not answer:
            raise ApiError(400, "no answer provided")
        address = fields.string(data, "cluster_addr")
        if not address:
            raise ApiError(400, "no cluster_addr provided")
        try:
            given = base64.b64decode(answer, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, "could not base64 decode answer") from None
        if not hmac.compare_digest(given, self._expected(node_id)):
            raise ApiError(400, "invalid answer given")
        csr = fields.string(data, "csr")
        if not csr:
            raise ApiError(400, "no csr provided: the joining server must send a PEM certificate request as csr")
        non_voter = fields.boolean(data, "non_voter")
        _check_address(address)
        self._refuse_conflict(node_id, address)
        ca = self._ca()
        if ca is None:
            raise ApiError(
                500,
                "the key of the cluster's certificate authority is not available on the leader, so no server can join; "
                "this is so after a forced restore of another cluster's snapshot when all servers were restarted",
            )
        try:
            certificate = ca.sign(csr, node_id)
        except CertificateError as error:
            raise ApiError(400, str(error)) from None
        if self._server(node_id) is not None:
            # A wiped server has forgotten its votes and its log: it must not count as the voter it was.
            await self._cluster.remove_server(node_id)
        await self._cluster.add_server(node_id, address, non_voter)
        return {
            "peers": [_peer(server) for server in self._cluster.servers()],
            "cluster": {
                "cluster_id": self._cluster.cluster_id(),
                "ca_pem": self._cluster.ca_pem(),
                "cert_pem": certificate,
            },
        }

    def _server(self, node_id: str) -> Server | None:
        return next((server for server in self._cluster.servers() if server.node_id == node_id), None)

    def _alive(self, node_id: str) -> bool:
        if node_id == self._cluster.node_id:
            return True
        state = self._cluster.autopilot_state()
        return state is not None and any(server.node_id == node_id and server.alive for server in state.servers)

    def _refuse_conflict(self, node_id: str, address: str) -> None:
        """Same id and same address is a rejoin after a wipe; everything else that is taken is refused."""
        known = self._server(node_id)
        if known is not None and known.address != address and self._alive(node_id):
            raise ApiError(
                400,
                f"the server id {node_id} is already in use by a live server at {known.address}; "
                "give this server another node_id, or remove the other one first",
            )
        if known is not None and node_id == self._cluster.node_id:
            raise ApiError(400, f"the server id {node_id} is that of the leader; give this server another node_id")
        for server in self._cluster.servers():
            if server.address == address and server.node_id != node_id:
                raise ApiError(
                    400,
                    f"the address {address} belongs to the server {server.node_id}; remove that server first, "
                    "or give this one another cluster_addr",
                )


def _server_id(data: dict[str, Any], missing: str) -> str:
    node_id = fields.string(data, "server_id")
    if not node_id:
        raise ApiError(400, missing)
    if len(node_id.encode()) > _MAX_ID:
        raise ApiError(400, "server id exceeds max length")
    try:
        return check_node_id(node_id)
    except CertificateError as error:
        raise ApiError(400, str(error)) from None


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536 and "/" not in host):
        raise ApiError(400, f'cluster_addr "{address}" is not of the form host:port')


def _peer(server: Server) -> dict[str, Any]:
    return {
        "id": server.node_id,
        "address": server.address,
        "suffrage": 0 if server.voter else 1,
        "permanent_non_voter": server.permanent_non_voter,
    }
