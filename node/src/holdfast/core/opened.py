# SPDX-License-Identifier: Apache-2.0
"""Everything that exists only while the node is unsealed. Dropping it is what sealing means."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from holdfast.barrier import seal
from holdfast.barrier.barrier import Barrier
from holdfast.barrier.keyring import KEYRING_KEY, Keyring
from holdfast.core.cluster_ca import RAFT_TLS_KEY, CertificateError, ClusterCa
from holdfast.core.dispatcher import Dispatcher
from holdfast.core.invitation import Invitations
from holdfast.core.mount_backend import MountBackend
from holdfast.core.mounts import MountTable
from holdfast.core.policies import PolicyStore
from holdfast.core.raft_backend import RaftBackend, load_autopilot
from holdfast.core.system_backend import SystemBackend
from holdfast.core.tokens import TokenStore
from holdfast.storage.types import Cluster, Put, Storage, StorageError

SHAMIR_KEK_KEY = "core/shamir-kek"
CLUSTER_INFO_KEY = "core/cluster/local/info"


class Opened:
    """The open barrier and what is built on it. `kek` is the key that the shares made at this unseal."""

    def __init__(
        self,
        storage: Storage,
        cluster: Cluster | None,
        keyring: Keyring,
        kek: bytes,
        *,
        step_down: Callable[[], Awaitable[None]],
        ha_status: Callable[[], dict[str, Any]],
        logger: logging.Logger,
    ) -> None:
        self._storage = storage
        self._cluster = cluster
        self._kek = kek
        self._logger = logger
        self.ca: ClusterCa | None = None
        self.name = self.cluster_id = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.barrier = Barrier(storage)
        self.barrier.open(keyring)
        self.policies = PolicyStore(self.barrier)
        self.mounts = MountTable(self.barrier)
        self.tokens = TokenStore(self.barrier, lambda entry: self.mounts.cubbyhole_keys(entry.cubbyhole_id))
        further = MountBackend(self.mounts).routes
        if cluster is not None:
            invitations = Invitations(cluster, self.seal_config, self.kek, lambda: self.ca)
            further = [*further, *RaftBackend(self.barrier, cluster, invitations).routes]
        system = SystemBackend(self.barrier, self.policies, self.tokens, step_down, ha_status, further)
        self.dispatcher = Dispatcher(storage, self.tokens, self.policies, self.mounts, system)

    def seal_config(self) -> seal.SealConfig | None:
        """The stored seal configuration."""
        item = self._storage.get(seal.SEAL_CONFIG_KEY)
        return None if item is None else seal.SealConfig.from_bytes(item.value)

    def kek(self) -> bytes:
        """The cluster's current KEK: the stored one (a restore may have changed it), else the one of our unseal."""
        item = self.barrier.get(SHAMIR_KEK_KEY)
        return self._kek if item is None else item.value

    def reload(self) -> None:
        """Read every cache afresh from the local state."""
        self.policies.forget()
        self.tokens.forget()
        self.mounts.load()
        item = self.barrier.get(CLUSTER_INFO_KEY)
        info = json.loads(item.value) if item else {}
        self.name, self.cluster_id = str(info.get("name", "")), str(info.get("id", ""))
        self._load_ca()

    def _load_ca(self) -> None:
        """Keep a CA that the cluster trusts: after a forced restore the stored one is another cluster's."""
        if self._cluster is None:
            return
        item = self.barrier.get(RAFT_TLS_KEY)
        try:
            stored = ClusterCa.from_bytes(item.value) if item else None
        except CertificateError:
            stored = None
        trusted = self._cluster.ca_pem()
        for candidate in (stored, self.ca):
            if candidate is not None and candidate.trusted_by(trusted):
                self.ca = candidate
                return
        self.ca = None

    def replace_keyring(self) -> None:
        """After the state was replaced: open the new keyring with the root key in memory. Raises BarrierError."""
        item = self._storage.get(KEYRING_KEY)
        root_key = self.barrier.keyring.root_key
        self.barrier.open(Keyring.open(root_key, item.value if item else b""))
        self.reload()

    def start(self) -> None:
        """Begin what only the leader does: autopilot, expiry, unfinished removals, the CA after a restore."""
        self.stop()
        if self._cluster is not None:
            self._cluster.set_autopilot(load_autopilot(self.barrier))
        self._spawn(self.tokens.sweep)
        self._spawn(self.mounts.purge_orphans)
        item = self.barrier.get(RAFT_TLS_KEY)
        if self.ca is not None and (item is None or item.value != self.ca.to_bytes()):
            self._spawn(partial(self._store_ca, self.ca))

    async def _store_ca(self, ca: ClusterCa) -> None:
        await self.barrier.commit([Put(RAFT_TLS_KEY, ca.to_bytes())])

    def _spawn(self, job: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await job()
            except StorageError as error:  # leadership went away, or the disk is full; the next leader does it again
                self._logger.warning("background work stopped: %s", error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("background work failed: %s", type(error).__name__)

    def stop(self) -> None:
        """End the leader's work."""
        for task in list(self._tasks):
            task.cancel()
        self._tasks.clear()

    def close(self) -> None:
        """Drop the keys."""
        self.stop()
        self.barrier.close()
        self.policies.forget()
        self.tokens.forget()
