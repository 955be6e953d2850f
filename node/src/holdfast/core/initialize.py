# SPDX-License-Identifier: Apache-2.0
"""What a new cluster consists of (raft-api.md 2.5, 5.1)."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any

from holdfast.barrier import seal, shamir
from holdfast.barrier.barrier import Barrier
from holdfast.barrier.keyring import KEYRING_KEY, Keyring
from holdfast.core import mounts, policies, tokens
from holdfast.core.cluster_ca import RAFT_TLS_KEY, CertificateError, ClusterCa, new_request
from holdfast.core.opened import CLUSTER_INFO_KEY, SHAMIR_KEK_KEY
from holdfast.core.types import ApiError
from holdfast.core.unsealing import json_type_error
from holdfast.storage.types import Cluster, Identity, Op, Put, Storage, StorageError

WIPE = "stop the server, wipe its data directory, start it and init again"
_COUNTS = ("secret_shares", "secret_threshold", "recovery_shares", "recovery_threshold")


def parse_params(params: dict[str, Any]) -> seal.SealConfig:
    """The seal configuration an init request asks for. Raises ApiError 400 before anything changes."""
    for name in _COUNTS:
        value = params.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise json_type_error(name, value, "InitRequest", "int")
    for name in ("pgp_keys", "root_token_pgp_key", "recovery_pgp_keys"):
        if params.get(name):
            raise ApiError(400, f"{name} is not supported by this server: leave it out and encrypt the answer yourself")
    recovery = [name for name in ("recovery_shares", "recovery_threshold") if params.get(name)]
    if recovery:
        raise ApiError(400, f"parameters {','.join(recovery)} not applicable to seal type shamir")
    shares, threshold = params.get("secret_shares") or 0, params.get("secret_threshold") or 0
    problem = ""
    if shares < 1:
        problem = "shares must be at least one"
    elif threshold < 1:
        problem = "threshold must be at least one"
    elif shares > 1 and threshold == 1:
        problem = "threshold must be greater than one for multiple shares"
    elif shares > 255:
        problem = "shares must be less than 256"
    elif threshold > shares:
        problem = "threshold cannot be larger than shares"
    if problem:
        raise ApiError(400, f"invalid seal configuration: {problem}")
    return seal.SealConfig(shares, threshold)


@dataclass(slots=True)
class Genesis:
    """A new cluster's first state and the secrets that go to the caller once."""

    ops: list[Op] = field(repr=False)
    shares: list[bytes] = field(repr=False)
    root_token: str = field(repr=False)

    def answer(self) -> dict[str, Any]:
        """The body of sys/init."""
        return {
            "keys": [share.hex() for share in self.shares],
            "keys_base64": [base64.b64encode(share).decode() for share in self.shares],
            "root_token": self.root_token,
        }


def create(
    storage: Storage,
    config: seal.SealConfig,
    cluster_name: str,
    cluster_id: str,
    ca: ClusterCa | None,
    *,
    root_token: str = "",
    dev: bool = False,
) -> Genesis:
    """Make keys, shares, root token and every entry of the first batch (ciphertext, but for the seal configuration)."""
    kek = secrets.token_bytes(seal.KEY_SIZE)
    keyring = Keyring.generate()
    barrier = Barrier(storage)
    barrier.open(keyring)
    root_token = root_token or "s." + tokens.random_text()
    salt = tokens.random_text(43)
    inside: list[Op] = [
        Put(CLUSTER_INFO_KEY, json.dumps({"name": cluster_name, "id": cluster_id}).encode()),
        Put(SHAMIR_KEK_KEY, kek),
        *mounts.built_in_ops(dev=dev),
        *policies.built_in(),
        *tokens.initial_ops(salt, root_token, tokens.root_entry()),
    ]
    if ca is not None:
        inside.append(Put(RAFT_TLS_KEY, ca.to_bytes()))
    ops: list[Op] = [Put(op.key, barrier.encrypt(op.key, op.value)) for op in inside if isinstance(op, Put)]
    ops += [
        Put(seal.SEAL_CONFIG_KEY, config.to_bytes()),
        Put(seal.UNSEAL_KEYS_KEY, seal.seal_root_key(kek, keyring.root_key)),
        Put(KEYRING_KEY, keyring.seal()),
    ]
    barrier.close()
    return Genesis(ops, shamir.split_key(kek, config.shares, config.threshold), root_token)


async def run(
    storage: Storage,
    cluster: Cluster | None,
    config: seal.SealConfig,
    name: str,
    logger: logging.Logger,
    *,
    root_token: str = "",
    dev: bool = False,
) -> dict[str, Any]:
    """Form the cluster and store its first state as one batch; the answer exists only when all of it is durable.

    Raises ApiError 400 for an unusable node_id (nothing has changed) and 500 when storage fails.
    """
    cluster_id = str(uuid.uuid4())
    name = name or f"vault-cluster-{cluster_id[:8]}"
    ca = ClusterCa.generate(cluster_id) if cluster is not None else None
    genesis = create(storage, config, name, cluster_id, ca, root_token=root_token, dev=dev)
    try:
        if cluster is not None and ca is not None:
            await _found(cluster, cluster_id, ca)
        await storage.commit(genesis.ops, {seal.SEAL_CONFIG_KEY: 0})
        if cluster is not None:
            await cluster.flush()
    except StorageError as error:
        raise ApiError(500, f"initialisation failed: {error}; {WIPE}") from None
    finally:
        if cluster is not None:
            cluster.set_eligible(False)
    logger.info("initialised cluster %s (%s)", name, cluster_id)
    return genesis.answer()


async def _found(cluster: Cluster, cluster_id: str, ca: ClusterCa) -> None:
    try:
        key_pem, csr = new_request(cluster.node_id)
        cert_pem = ca.sign(csr, cluster.node_id)
    except CertificateError as error:
        raise ApiError(400, f"the node_id {cluster.node_id!r} cannot be used: {error}") from None
    cluster.set_eligible(True)
    await cluster.bootstrap(Identity(cluster_id, cluster.node_id, ca.cert_pem, cert_pem, key_pem))
