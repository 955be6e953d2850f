# SPDX-License-Identifier: Apache-2.0
"""Assembly and life cycle of a server: configuration → lock → storage → core → listeners, and back again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import os
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from holdfast import __version__
from holdfast.config import Config, RaftConfig
from holdfast.config.build import known_raft_options
from holdfast.core.types import ApiError, Core
from holdfast.http.app import Application
from holdfast.http.context import Context
from holdfast.http.message import Headers
from holdfast.http.server import HttpServer
from holdfast.http.tls import TlsError, server_context
from holdfast.snapshot.restore import Restorer
from holdfast.snapshot.sealer import Sealer
from holdfast.storage.inmem import InmemStorage
from holdfast.storage.types import Cluster, Storage, StorageError
from holdfast.telemetry import set_level

_HANDOVER = 3.0  # seconds to give leadership away before the process ends
_GRACE = 10.0  # seconds for requests in flight
_RETRY_JOIN = 2.0  # seconds between two rounds of retry_join (raft-api.md 2.3)


class NodeError(Exception):
    """The server cannot start. The text is one sentence."""


class DataLock:
    """The lock that keeps a second process off a data directory; held until `release`."""

    def __init__(self, path: Path) -> None:
        """Create `path` (0700) when it is missing and lock it. Raises NodeError."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path / "holdfast.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NodeError(f"cannot use the data directory {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise NodeError(f"the data directory {path} is in use by another holdfast process") from None

    def release(self) -> None:
        """Give the directory free. The file stays: removing it would race with a process that waits for it."""
        os.close(self._descriptor)


def node_id_of(storage: RaftConfig) -> str:
    """The configured node_id, else the one in `<path>/node-id`, which is generated once (raft-api.md 7.1)."""
    if storage.node_id:
        return storage.node_id
    path = storage.path / "node-id"
    try:
        known = path.read_text(encoding="utf-8").strip()
        if known:
            return known
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"cannot read {path}: {error}") from None
    node_id = str(uuid.uuid4())
    temporary = path.with_suffix(".new")
    try:
        with open(temporary, "w", encoding="utf-8", opener=_private) as file:
            file.write(node_id + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(storage.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise NodeError(f"cannot write {path}: {error.strerror}") from None
    return node_id


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Node:
    """One server process: `handle_signals`, `start`, `run`, `stop`."""

    def __init__(self, config: Config, logger: logging.Logger) -> None:
        self.config = config
        self.core: Core
        self.cluster: Cluster | None = None
        self.servers: list[HttpServer] = []
        self._logger = logger
        self._lock: DataLock | None = None
        self._stop_storage: Callable[[], Awaitable[None]] | None = None
        self._retry: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Bring everything up; on an error everything is taken down again. Raises NodeError, TlsError, ListenError…"""
        for listener in self.config.listeners:
            if not listener.tls_disable:
                server_context(listener)  # bad certificates are refused before the data directory is touched
        try:
            storage, sealable = await self._open_storage()
            self.core = make_core(storage, self.cluster, self.config, self._logger)
            restorer = self._restorer() if sealable else None
            for listener in self.config.listeners:
                app = Application(
                    Context(
                        core=self.core,
                        cluster=self.cluster,
                        snapshots=restorer,
                        max_request_size=listener.max_request_size,
                        max_request_duration=listener.max_request_duration,
                        read_timeout=listener.http_read_timeout,
                        extra_headers=self._extra_headers(),
                        logger=logging.getLogger("holdfast.http"),
                    )
                )
                if self.cluster is not None and not self.servers:
                    self.cluster.on_forward(app.forwarded)
                server = HttpServer(app, listener)
                await server.start()
                self.servers.append(server)
        except BaseException:
            await self.stop()
            raise
        storage_config = self.config.storage
        if isinstance(storage_config, RaftConfig) and storage_config.retry_join:
            self._retry = asyncio.create_task(self._retry_join(storage_config))

    def handle_signals(self, reread: Callable[[], Config] | None = None) -> None:
        """From now on SIGTERM and SIGINT end `run`; SIGHUP reloads certificates, and the log level from `reread()`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload, reread)

    async def run(self) -> None:
        """Serve until a signal says stop."""
        await self._stopping.wait()

    def reload(self, reread: Callable[[], Config] | None = None) -> None:
        """Take up new certificates and the log level; whatever is wrong is logged and the old stays in use."""
        for server in self.servers:
            try:
                server.reload()
            except TlsError as error:
                self._logger.error("certificate not reloaded", extra={"fields": {"error": str(error)}})
        if reread is not None:
            try:
                set_level(reread().log_level)
            except Exception as error:
                self._logger.error("configuration not reloaded", extra={"fields": {"error": str(error)}})
        self._logger.info("reloaded")

    async def stop(self) -> None:
        """Hand leadership over, finish requests, seal in memory, stop storage, release the lock. Safe at any stage."""
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.gather(self._retry, return_exceptions=True)
        if self.cluster is not None and self.servers and self.cluster.is_leader():
            await self._attempt("leadership was not handed over", self._hand_over())
        await asyncio.gather(*(server.stop(_GRACE) for server in self.servers), return_exceptions=True)
        self.servers.clear()
        if hasattr(self, "core"):
            await self._attempt("the core did not shut down cleanly", self.core.shutdown())
        if self._stop_storage is not None:
            await self._attempt("the storage did not stop cleanly", self._stop_storage())
            self._stop_storage = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _hand_over(self) -> None:
        assert self.cluster is not None
        if sum(server.voter for server in self.cluster.servers()) > 1:
            async with asyncio.timeout(_HANDOVER):
                await self.cluster.step_down()

    async def _attempt(self, trouble: str, work: Awaitable[None]) -> None:
        """One step of the shutdown: an error is logged and the next step follows."""
        try:
            await work
        except Exception as error:
            self._logger.warning(trouble, extra={"fields": {"error": str(error) or type(error).__name__}})

    async def _open_storage(self) -> tuple[Storage, bool]:
        """The storage, and whether it has a cluster behind it (snapshots, peers)."""
        config = self.config.storage
        if not isinstance(config, RaftConfig):
            return InmemStorage(), False
        self._lock = DataLock(config.path)
        from holdfast.storage.raft import RaftSettings, RaftStorage

        accepted = {field.name for field in dataclasses.fields(RaftSettings)}
        options = {name: value for name in known_raft_options() if (value := getattr(config, name)) is not None}
        for name in set(options) - accepted:
            del options[name]
            self._logger.warning("configuration", extra={"fields": {"warning": f"{name} has no effect in holdfast"}})
        settings = RaftSettings(
            path=config.path,
            node_id=node_id_of(config),
            cluster_listen=self.config.listeners[0].cluster_address,
            cluster_addr=self.config.cluster_addr.partition("://")[2],
            api_addr=self.config.api_addr,
            version=__version__,
            **options,
        )
        storage = RaftStorage(settings)
        self._stop_storage = storage.stop
        await storage.start()
        self.cluster = storage
        return storage, True

    def _restorer(self) -> Restorer:
        assert isinstance(self.config.storage, RaftConfig)
        assert self.cluster is not None
        spool = self.config.storage.path / "spool"
        restorer = Restorer(self.cluster, cast(Sealer, self.core), spool)
        restorer.clean()
        return restorer

    def _extra_headers(self) -> Headers:
        headers: list[tuple[bytes, bytes]] = []
        if self.config.enable_response_header_hostname:
            headers.append((b"x-vault-hostname", socket.gethostname().encode("ascii", "replace")))
        if self.config.enable_response_header_raft_node_id and self.cluster is not None:
            headers.append((b"x-vault-raft-node-id", self.cluster.node_id.encode("ascii", "replace")))
        return tuple(headers)

    async def _retry_join(self, config: RaftConfig) -> None:
        """Ask every `retry_join` stanza in turn until this node has joined a cluster (or was initialised)."""
        last = ""
        assert self.cluster is not None
        while not self.cluster.has_state():
            if not self.core.joining() and not self.core.initialized():
                reasons = []
                for stanza in config.retry_join:
                    try:
                        await self.core.join(stanza.params(config.retry_join_as_non_voter))
                    except (ApiError, StorageError) as error:
                        reasons.append(f"{stanza.leader_api_addr or stanza.auto_join}: {error}")
                    else:
                        self._logger.info("retry_join found a cluster", extra={"fields": {"via": _name(stanza)}})
                        reasons = []
                        break
                text = "; ".join(reasons)
                if text and text != last:
                    self._logger.warning("retry_join failed, trying on", extra={"fields": {"reasons": text}})
                last = text
            await asyncio.sleep(_RETRY_JOIN)


def _name(stanza: Any) -> str:
    return str(stanza.leader_api_addr or stanza.auto_join)


def make_core(storage: Storage, cluster: Cluster | None, config: Config, logger: logging.Logger) -> Core:
    """The core over a storage."""
    from holdfast.core.core import HoldfastCore

    return HoldfastCore(
        storage,
        cluster,
        version=__version__,
        cluster_name=config.cluster_name,
        api_addr=config.api_addr,
        logger=logging.getLogger("holdfast.core"),
    )


@contextlib.contextmanager
def pid_file(path: str) -> Any:
    """Write this process's id to `path` while the block runs ("": nothing). Raises NodeError."""
    if not path:
        yield
        return
    try:
        Path(path).write_text(f"{os.getpid()}\n", encoding="ascii")
    except OSError as error:
        raise NodeError(f"cannot write pid_file {path}: {error.strerror}") from None
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
