# SPDX-License-Identifier: Apache-2.0
"""The node's state machine: uninitialised, joining, sealed, standby, active (raft-api.md 5.1; design.md 12, 13)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from holdfast.barrier import seal
from holdfast.barrier.keyring import KEYRING_KEY, BarrierError, Keyring
from holdfast.core import initialize, status
from holdfast.core.cluster_ca import ClusterCa
from holdfast.core.errors import removed, sealed, translate
from holdfast.core.joining import FAILED, WIPE, Joiner, JoinError
from holdfast.core.joining import parse as parse_join
from holdfast.core.opened import Opened
from holdfast.core.types import ApiError, Request, Response, StandbyError
from holdfast.core.unsealing import ShareCollector, json_type_error, parse_share
from holdfast.storage.types import Cluster, Event, Storage, StorageError

_SETTLE = 2.0  # seconds that an unseal waits for leadership, or for a join, before it answers
_POLL = 0.05
_TRANSFER = 3.0  # seconds that sealing a leader, and with it an unseal, waits for the handover
_WRONG = "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage"


class HoldfastCore:
    """Implements core.types.Core on a storage and, for Raft, its cluster (None: always the leader, for development)."""

    def __init__(
        self,
        storage: Storage,
        cluster: Cluster | None,
        *,
        version: str,
        cluster_name: str,
        api_addr: str,
        logger: logging.Logger,
    ) -> None:
        self._storage = storage
        self._cluster = cluster
        self._version = version
        self._cluster_name = cluster_name
        self._api_addr = api_addr
        self._logger = logger
        self._opened: Opened | None = None
        self._kept_ca: ClusterCa | None = None
        self._shares = ShareCollector()
        self._busy = asyncio.Lock()  # init, unseal, seal and join exclude each other
        self._changed = asyncio.Event()
        self._active_term: int | None = None
        self._active_since: float | None = None
        self._removed = cluster is not None and cluster.removed()
        self._arrival: asyncio.Task[None] | None = None
        self._joiner = Joiner(cluster, logger) if cluster is not None else None
        if cluster is not None:
            cluster.set_eligible(False)
            cluster.subscribe(self._on_event)

    # -- requests

    async def handle(self, request: Request) -> Response | None:
        """Answer a logical request on the active node. Raises ApiError or StandbyError."""
        try:
            return await self._active().dispatcher.handle(request)
        except (ApiError, StandbyError):
            raise
        except BarrierError as error:
            raise self._broken(error) from None
        except Exception as error:
            known = translate(error)
            if known is error:
                raise
            raise known from None

    async def authorize(self, request: Request) -> None:
        """The checks of `handle` alone."""
        try:
            await self._active().dispatcher.authorize(request)
        except BarrierError as error:
            raise self._broken(error) from None
        except StorageError as error:
            raise translate(error) from None

    async def seal_wrap(self, data: bytes) -> bytes:
        """`data` encrypted under the seal key: a BlobInfo, as in SHA256SUMS.sealed. Raises ApiError 503 when sealed."""
        return seal.encrypt(self._seal_key(), data)

    async def seal_open(self, blob: bytes) -> bytes:
        """The plaintext of a blob of `seal_wrap`. Raises ValueError when another seal key made it."""
        return seal.decrypt(self._seal_key(), blob)

    def _seal_key(self) -> bytes:
        if self._opened is None:
            raise sealed()
        return self._opened.kek()

    def _active(self) -> Opened:
        if self._removed:
            raise removed()
        opened = self._opened
        if opened is None:
            raise sealed()
        cluster = self._cluster
        if cluster is not None:
            if not cluster.is_leader():
                raise StandbyError
            if self._active_term != cluster.term:
                self._activate(opened)
                if self._opened is not opened:
                    raise sealed()
        return opened

    def _broken(self, error: BarrierError) -> ApiError:
        if self._opened is None:  # sealed while the request was under way
            return sealed()
        self._logger.error("stored data cannot be decrypted: %s", error)
        return ApiError(500, f"stored data cannot be decrypted: {error}")

    # -- state

    def initialized(self) -> bool:
        """Whether there is a cluster's data here, or a join is under way."""
        if self.joining() or self._storage.get(seal.SEAL_CONFIG_KEY) is not None:
            return True
        return self._cluster is not None and self._cluster.has_state() and not self._unfinished()

    def _unfinished(self) -> bool:
        """A first server whose init was cut off between forming the cluster and storing its first state."""
        cluster = self._cluster
        if cluster is None or not cluster.has_state() or self._removed:
            return False
        alone = [server.node_id for server in cluster.servers()] == [cluster.node_id]
        return alone and self._storage.get(seal.SEAL_CONFIG_KEY) is None and self._arrival is None

    def sealed(self) -> bool:
        """Whether there are no keys."""
        return self._opened is None

    def joining(self) -> bool:
        """True between a join and its last share."""
        return self._joiner is not None and self._joiner.pending is not None

    def _seal_config(self) -> seal.SealConfig | None:
        item = self._storage.get(seal.SEAL_CONFIG_KEY)
        if item is not None:
            try:
                return seal.SealConfig.from_bytes(item.value)
            except seal.SealError as error:
                self._logger.error("%s", error)
                return None
        return self._joiner.config if self._joiner is not None else None

    def seal_status(self) -> dict[str, Any]:
        """The body of sys/seal-status."""
        return status.seal_status(
            initialized=self.initialized(),
            opened=self._opened,
            config=self._seal_config(),
            shares=self._shares,
            version=self._version,
            storage_type=self._storage.storage_type,
            removed=self._removed,
        )

    def _is_active(self) -> bool:
        if self._opened is None or self._removed:
            return False
        return self._cluster is None or self._cluster.is_leader()

    def health(self) -> dict[str, Any]:
        """The body of sys/health plus `_removed`."""
        return status.health(
            initialized=self.initialized(),
            opened=self._opened,
            active=self._is_active(),
            version=self._version,
            removed=self._removed,
        )

    def leader_status(self) -> dict[str, Any]:
        """The body of sys/leader. Raises ApiError 503 when sealed."""
        if self._opened is None:
            raise sealed()
        since = (self._active_since or time.time()) if self._is_active() else None
        return status.leader(self._cluster, since, removed=self._removed)

    def _ha_status(self) -> dict[str, Any]:
        return status.ha_status(self._cluster, self._api_addr, self._version)

    # -- init

    async def initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sys/init`. The keys are returned only when everything is durable; the node is sealed again then."""
        return await self._initialize(params)

    async def start_dev(self, root_token: str = "") -> dict[str, Any]:
        """A development server: init with one share, unseal, a kv 2 mount at secret/. Returns the init answer."""
        answer = await self._initialize({"secret_shares": 1, "secret_threshold": 1}, root_token=root_token, dev=True)
        await self.unseal({"key": answer["keys"][0]})
        return answer

    async def _initialize(self, params: dict[str, Any], *, root_token: str = "", dev: bool = False) -> dict[str, Any]:
        config = initialize.parse_params(params)
        if self._busy.locked():
            raise ApiError(400, "Vault is being initialized, unsealed or joined at this moment; try again")
        async with self._busy:
            if self.initialized():
                raise ApiError(400, "Vault is already initialized")
            if self._unfinished():
                raise ApiError(400, f"an earlier initialisation was cut off and left no keys: {initialize.WIPE}")
            if self._joiner is not None:
                self._joiner.stop()
            return await initialize.run(
                self._storage,
                self._cluster,
                config,
                self._cluster_name,
                self._logger,
                root_token=root_token,
                dev=dev,
            )

    async def bootstrap(self) -> None:
        """`sys/storage/raft/bootstrap`: only for Raft beside another storage, so always refused here."""
        if self._cluster is None:
            raise ApiError(500, "raft backend not in use")
        if self._opened is None:
            raise ApiError(400, "node must be unsealed to bootstrap")
        raise ApiError(
            500, "could not bootstrap clustered storage: error bootstrapping cluster: cluster already has state"
        )

    # -- unseal and seal

    async def unseal(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sys/unseal`. Raises ApiError 400 for unusable input and wrong shares."""
        reset = params.get("reset")
        if reset is not None and not isinstance(reset, bool):
            raise json_type_error("reset", reset, "UnsealRequest", "bool")
        share = b"" if reset else parse_share(params)
        if params.get("migrate"):
            raise ApiError(400, "no seal migration is in progress; leave migrate out")
        async with self._busy:
            if reset:
                if self._opened is not None:
                    raise ApiError(400, "vault is unsealed")
                self._shares.reset()
                return self.seal_status()
            if self._opened is not None:
                return self.seal_status()
            await self._add_share(share)
        await self._settle()
        return self.seal_status()

    async def _add_share(self, share: bytes) -> None:
        if not self.initialized():
            raise ApiError(400, "Vault is not initialized")
        if self._removed:
            raise removed()
        if self._arrival is not None and not self._arrival.done():
            return  # the shares were right; the cluster's data is on its way
        config = self._seal_config()
        if config is None:
            raise ApiError(503, "the cluster's seal configuration has not arrived here yet; try again")
        try:
            kek = self._shares.add(share, config.threshold)
        except seal.SealError as error:
            raise ApiError(400, f"{_WRONG}: {error}") from None
        if kek is None:
            return
        if self._joiner is not None and self._joiner.pending is not None:
            try:
                answer = self._joiner.open_challenge(kek)
            except seal.SealError as error:
                raise ApiError(400, f"error decrypting challenge: {error}") from None
            await self._join_with(self._joiner, kek, answer)
        else:
            self._open(kek)

    def _open(self, kek: bytes) -> None:
        """From the KEK to an unsealed node. Raises ApiError; the node stays sealed then."""
        stored, keyring = self._storage.get(seal.UNSEAL_KEYS_KEY), self._storage.get(KEYRING_KEY)
        if stored is None or keyring is None:
            raise ApiError(503, "the cluster's data has not arrived here yet; try again")
        try:
            root_key = seal.open_root_key(kek, stored.value)
        except seal.SealError as error:
            raise ApiError(400, f"{_WRONG}: {error}") from None
        try:
            opened = Opened(
                self._storage,
                self._cluster,
                Keyring.open(root_key, keyring.value),
                kek,
                step_down=self._step_down,
                ha_status=self._ha_status,
                logger=self._logger,
            )
            opened.ca = self._kept_ca
            opened.reload()
        except BarrierError as error:
            raise ApiError(500, f"the keyring does not open with the stored root key: {error}") from None
        self._kept_ca = None
        self._opened = opened
        self._logger.info("unsealed")
        if self._cluster is None:
            self._activate(opened)
            return
        self._cluster.set_eligible(True)
        if self._cluster.is_leader():
            self._activate(opened)

    async def _settle(self) -> None:
        """Wait a bounded time until an unsealed node has a leader, so that the caller's next request works."""
        cluster = self._cluster
        if cluster is None or self._opened is None:
            return
        deadline = time.monotonic() + _SETTLE
        while self._opened is not None and not self._settled(cluster) and time.monotonic() < deadline:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):  # a leader elsewhere is no event of ours, so look now and then
                await asyncio.wait_for(self._changed.wait(), _POLL)

    @staticmethod
    def _settled(cluster: Cluster) -> bool:
        leader = cluster.leader()
        return cluster.is_leader() or (leader is not None and leader.node_id != cluster.node_id)

    async def seal(self, request: Request) -> None:
        """`sys/seal`: sudo on the path; a leader hands leadership over first. Already sealed: nothing is checked."""
        async with self._busy:
            opened = self._opened
            if opened is None:
                return
            active = self._is_active()
            try:
                if not active:
                    opened.reload()  # a standby judges by what it has applied
                await opened.dispatcher.authorize(request, local=not active)
            except StorageError as error:
                raise translate(error) from None
            if active and self._cluster is not None and len(self._cluster.servers()) > 1:
                try:
                    await self._cluster.transfer_leadership(timeout=_TRANSFER)
                except StorageError as error:
                    self._logger.warning("sealing without a handover of leadership: %s", error)
            self._close()

    async def _step_down(self) -> None:
        if self._cluster is not None:
            await self._cluster.step_down()

    async def shutdown(self) -> None:
        """Drop the keys and end background work."""
        if self._joiner is not None:
            self._joiner.stop()
        if self._arrival is not None:
            self._arrival.cancel()
        self._close()

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        self._active_term = self._active_since = None
        self._shares.reset()
        if self._cluster is not None:
            self._cluster.set_eligible(False)
        if opened is not None:
            opened.close()
            self._logger.info("sealed")
        self._changed.set()

    # -- joining

    async def join(self, params: dict[str, Any]) -> dict[str, Any]:
        """`sys/storage/raft/join`: phase one. Raises ApiError 400 or 500 with the address and the reason."""
        parsed = parse_join(params)
        cluster, joiner = self._cluster, self._joiner
        if cluster is None or joiner is None:
            raise ApiError(500, "raft backend not in use")
        if self._removed:
            raise ApiError(400, f"this server has been removed from its cluster: {WIPE}")
        async with self._busy:
            if self._unfinished():
                raise ApiError(400, f"an initialisation of this server was cut off: {WIPE}")
            if cluster.has_state() or self._storage.get(seal.SEAL_CONFIG_KEY) is not None:
                await joiner.check_member(parsed)
                return {"joined": True}
            try:
                joined = await joiner.start(parsed)
            except JoinError as error:
                raise ApiError(500, f"{FAILED}: {error}") from None
            self._shares.reset()
            return {"joined": joined}

    async def _join_with(self, joiner: Joiner, kek: bytes, answer: bytes) -> None:
        """Phase two, in the background; waits a bounded time for it, so that a refusal reaches the caller."""

        async def arrive() -> None:
            await joiner.complete(kek, answer)
            while self._opened is None and self._storage.get(KEYRING_KEY) is None:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):  # applied entries are no event, so look now and then
                    await asyncio.wait_for(self._changed.wait(), _POLL)
            if self._opened is None:
                self._open(kek)

        self._arrival = asyncio.get_running_loop().create_task(arrive())
        self._arrival.add_done_callback(self._arrived)
        done, _ = await asyncio.wait({self._arrival}, timeout=_SETTLE)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, JoinError):
                raise ApiError(500, f"failed to join raft cluster: failed to send answer to raft leader node: {error}")
            if error is not None:
                raise error

    def _arrived(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._logger.error("join: %s", error)

    # -- events

    def _on_event(self, event: Event) -> None:
        try:
            if event is Event.LEADER_GAINED and self._opened is not None:
                self._activate(self._opened)
            elif event is Event.LEADER_LOST:
                self._deactivate()
            elif event is Event.STATE_REPLACED:
                self._replaced()
            elif event is Event.REMOVED:
                self._removed = True
                self._deactivate()
                if self._cluster is not None:
                    self._cluster.set_eligible(False)
                self._logger.warning("this server has been removed from its cluster")
        finally:
            self._changed.set()

    def _activate(self, opened: Opened) -> None:
        """Begin to serve: nothing cached from an earlier term may be used."""
        try:
            opened.reload()
            opened.start()
        except (BarrierError, ApiError) as error:
            self._logger.error("cannot load the cluster's state, sealing: %s", error)
            self._close()
            return
        self._active_term = self._cluster.term if self._cluster is not None else None
        self._active_since = time.time()

    def _deactivate(self) -> None:
        self._active_term = self._active_since = None
        if self._opened is not None:
            self._opened.stop()

    def _replaced(self) -> None:
        """A restore or an installed snapshot: go on with the new keyring, or seal under the new seal configuration."""
        self._shares.reset()
        opened = self._opened
        if opened is None:
            return
        try:
            opened.replace_keyring()
        except (BarrierError, ApiError) as error:
            self._logger.warning("the new state has other keys (%s): sealing; unseal with the snapshot's shares", error)
            self._kept_ca = opened.ca  # the restored state holds another cluster's; ours must survive
            self._close()
            return
        if self._is_active():
            opened.start()
