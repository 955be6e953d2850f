# SPDX-License-Identifier: Apache-2.0
"""The data directory's lock and node id, and the retry_join loop."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from holdfast.config import Config, Listener, RaftConfig, RetryJoin
from holdfast.core.types import ApiError
from holdfast.node import DataLock, Node, NodeError, node_id_of, pid_file


def test_lock(tmp_path: Path) -> None:
    path = tmp_path / "data"
    lock = DataLock(path)
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(NodeError) as caught:
        DataLock(path)
    assert str(caught.value) == f"the data directory {path} is in use by another holdfast process"
    lock.release()
    DataLock(path).release()


def test_lock_on_something_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NodeError, match="cannot use the data directory"):
        DataLock(tmp_path / "file")


def test_node_id(tmp_path: Path) -> None:
    assert node_id_of(RaftConfig(tmp_path, node_id="given")) == "given"
    assert list(tmp_path.iterdir()) == []
    made = node_id_of(RaftConfig(tmp_path))
    assert node_id_of(RaftConfig(tmp_path)) == made
    assert (tmp_path / "node-id").stat().st_mode & 0o777 == 0o600
    (tmp_path / "node-id").write_bytes(b"\xff")
    with pytest.raises(NodeError, match="cannot read"):
        node_id_of(RaftConfig(tmp_path))


def test_pid_file(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="cannot write pid_file"), pid_file(str(tmp_path / "no" / "pid")):
        pass
    with pid_file(str(tmp_path / "pid")):
        assert (tmp_path / "pid").exists()
    assert not (tmp_path / "pid").exists()


class FakeCluster:
    """Without state until somebody sets it."""

    state = False

    def has_state(self) -> bool:
        return self.state


class FakeCore:
    """Refuses the first address and takes the second."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.asked: list[dict[str, Any]] = []
        self.pending = False

    def initialized(self) -> bool:
        return self.pending

    def joining(self) -> bool:
        return self.pending

    async def join(self, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(params)
        if params["leader_api_addr"].endswith("one") or len(self.asked) < 4:
            raise ApiError(500, "connection refused")
        self.pending = True
        return {"joined": True}


async def test_retry_join(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr("holdfast.node._RETRY_JOIN", 0.001)
    stanzas = (RetryJoin("http://one"), RetryJoin("http://two"))
    storage = RaftConfig(tmp_path, retry_join=stanzas, retry_join_as_non_voter=True)
    logger = logging.getLogger("test.node")
    node = Node(Config(storage, (Listener(tls_disable=True),)), logger)
    cluster = FakeCluster()
    node.cluster = cluster  # type: ignore[assignment]
    core = FakeCore(cluster)
    node.core = core  # type: ignore[assignment]
    task = asyncio.create_task(node._retry_join(storage))
    async with asyncio.timeout(5):
        while not core.pending:
            await asyncio.sleep(0.001)
        asked = len(core.asked)
        await asyncio.sleep(0.01)
        assert len(core.asked) == asked == 4  # nothing is asked while the shares are awaited
        cluster.state = True
        await task
    assert [params["leader_api_addr"] for params in core.asked] == ["http://one", "http://two"] * 2
    assert all(params["non_voter"] and not params["retry"] for params in core.asked)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1  # the same reasons are not repeated
    assert warnings[0].fields["reasons"] == "http://one: connection refused; http://two: connection refused"
