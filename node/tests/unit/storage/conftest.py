# SPDX-License-Identifier: Apache-2.0
"""Real Raft storage in this process, on loopback."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.cluster_ca import ClusterCa, new_request
from holdfast.storage.raft import RaftSettings, RaftStorage
from holdfast.storage.types import Identity, Server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], Any], timeout: float = 15.0) -> Any:
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.01)
    return value


class Group:
    """Servers of one cluster, each with its own directory, and the CA that signs for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = ClusterCa.generate("cl")
        self.ports: dict[str, int] = {}
        self.running: dict[str, RaftStorage] = {}
        self.fatal: list[str] = []

    def identity(self, node_id: str, cluster_id: str = "cl") -> Identity:
        key, csr = new_request(node_id)
        return Identity(cluster_id, node_id, self.ca.cert_pem, self.ca.sign(csr, node_id), key)

    def storage(self, node_id: str, folder: str = "", **more: Any) -> RaftStorage:
        port = self.ports.setdefault(node_id, free_port())
        settings = RaftSettings(
            self.folder / (folder or node_id),
            node_id,
            ("127.0.0.1", port),
            f"127.0.0.1:{port}",
            f"http://{node_id}",
            "1.0",
            **more,
        )
        made = RaftStorage(settings, self.fatal.append)
        self.running[node_id] = made
        return made

    async def first(self, **more: Any) -> RaftStorage:
        storage = self.storage("n1", **more)
        await storage.bootstrap(self.identity("n1"))
        return storage

    async def join(self, node_id: str, leader: RaftStorage, voter: bool = True) -> RaftStorage:
        storage = self.storage(node_id)
        servers = [Server(s.node_id, s.address, s.voter) for s in leader.servers()]
        await storage.join(self.identity(node_id), servers)
        storage.set_eligible(True)
        await leader.add_server(node_id, storage.cluster_addr, not voter)
        if voter:
            await until(lambda: any(s.node_id == node_id and s.voter for s in leader.servers()))
        return storage

    async def stop(self) -> None:
        for storage in self.running.values():
            await storage.stop()


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    made = Group(tmp_path)
    yield made
    await made.stop()
