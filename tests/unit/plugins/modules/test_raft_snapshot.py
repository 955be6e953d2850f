# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib
import stat
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.modules import raft_snapshot
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import FakeCluster, Lab


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_snapshot.main, {"wait_timeout": 15, **params}, check)


@pytest.fixture
def cluster(lab: Lab) -> FakeCluster:
    return lab.cluster("n1", "n2", "n3")


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "a.snap"


def test_saves_from_the_leader(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> None:
    wish = lab.params(cluster, url=[lab.nodes["n3"].url], path=str(path))
    assert run(wish, check=True)["changed"]
    assert not path.exists()
    result = run(wish)
    assert result["changed"]
    assert (result["index"], result["size"]) == (cluster.index, len(cluster.state))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ("GET", "sys/storage/raft/snapshot") in lab.nodes["n1"].requests
    assert os.listdir(path.parent) == ["a.snap"]


def test_the_same_state_is_no_change(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> None:
    run(lab.params(cluster, path=str(path)))
    before = path.stat()
    assert not run(lab.params(cluster, path=str(path)))["changed"]
    assert path.stat() == before
    cluster.state = b"another"
    assert run(lab.params(cluster, path=str(path)))["changed"]


def test_a_cut_off_download_leaves_the_old_file(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> None:
    run(lab.params(cluster, path=str(path)))
    before = path.read_bytes()
    cluster.state = b"another"
    lab.nodes["n1"].cut_download = True
    with pytest.raises(ModuleFailed, match="no complete snapshot"):
        run(lab.params(cluster, path=str(path)))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.snap"]


def test_no_directory(lab: Lab, cluster: FakeCluster, tmp_path: pathlib.Path) -> None:
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="no file can be made in"):
            run(lab.params(cluster, path=str(tmp_path / "absent" / "a.snap")), check=check)


def test_restores(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> None:
    run(lab.params(cluster, path=str(path)))
    good, cluster.state = cluster.state, b"damaged by somebody"
    wish = lab.params(cluster, path=str(path), state="restored")
    assert run(wish, check=True)["changed"]
    assert cluster.state == b"damaged by somebody"
    result = run(wish)
    assert result["changed"]
    assert not result["foreign"]
    assert cluster.state == good


@pytest.mark.parametrize("state", ["saved", "restored"])
def test_check_mode_tries_the_token(lab: Lab, cluster: FakeCluster, path: pathlib.Path, state: str) -> None:
    run(lab.params(cluster, path=str(path)))
    with pytest.raises(ModuleFailed, match="permission denied") as caught:
        run({**lab.params(cluster, path=str(path), state=state), "token": "s.another"}, check=True)
    assert caught.value.result["status"] == 403


def test_what_is_no_snapshot_is_not_sent(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> None:
    run(lab.params(cluster, path=str(path)))
    for content in (b"", b"garbage", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(ModuleFailed, match="snapshot"):
            run(lab.params(cluster, path=str(path), state="restored", force=True))
    assert "snapshot" not in cluster.calls


@pytest.fixture
def foreign(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> FakeCluster:
    """Another cluster, a snapshot of which is in C(path)."""
    other = lab.cluster("m1")
    run(lab.params(other, path=str(path)))
    return other


def test_another_clusters_snapshot_needs_force_and_shares(lab: Lab, cluster: FakeCluster, foreign: FakeCluster, path: pathlib.Path) -> None:
    before = cluster.state
    with pytest.raises(ModuleFailed, match="set force and give that cluster's shares"):
        run(lab.params(cluster, path=str(path), state="restored"))
    with pytest.raises(ModuleFailed, match="give that cluster's unseal shares"):
        run(lab.params(cluster, path=str(path), state="restored", force=True))
    assert cluster.state == before
    assert not lab.nodes["n1"].sealed


@pytest.mark.parametrize("slow", [0, 2])
def test_another_clusters_snapshot(lab: Lab, cluster: FakeCluster, foreign: FakeCluster, path: pathlib.Path, slow: int) -> None:
    """OpenBao refuses the snapshot's shares for a while; they are given again until they are taken."""
    lab.nodes["n2"].after_force_unsealable = slow
    result = run(lab.params(cluster, path=str(path), state="restored", force=True, shares=foreign.shares))
    assert result["foreign"]
    assert cluster.state == foreign.state
    assert [node.sealed for node in lab.nodes.values()] == [False] * 4


def test_wrong_shares_fail_loudly(lab: Lab, cluster: FakeCluster, foreign: FakeCluster, path: pathlib.Path) -> None:
    wish = lab.params(cluster, path=str(path), state="restored", force=True, shares=cluster.shares, wait_timeout=1)
    with pytest.raises(ModuleFailed, match="to be unsealed with the snapshot's shares"):
        run(wish)


def test_force_is_not_used_where_it_is_not_needed(lab: Lab, cluster: FakeCluster, path: pathlib.Path) -> None:
    run(lab.params(cluster, path=str(path)))
    assert not run(lab.params(cluster, path=str(path), state="restored", force=True))["foreign"]
    assert "snapshot-force" not in cluster.calls


def test_a_server_that_stays_sealed_is_told(lab: Lab, cluster: FakeCluster, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(lab.params(cluster, path=str(path)))
    snapshot = lab.nodes["n1"]._snapshot

    def seals_itself(update: bool, force: bool, raw: bytes) -> t.Any:
        lab.nodes["n2"].sealed = update
        return snapshot(update, force, raw)

    monkeypatch.setattr(lab.nodes["n1"], "_snapshot", seals_itself)
    with pytest.raises(ModuleFailed, match=rf"restored state.*{lab.nodes['n2'].url} is sealed"):
        run(lab.params(cluster, path=str(path), state="restored", wait_timeout=1))
