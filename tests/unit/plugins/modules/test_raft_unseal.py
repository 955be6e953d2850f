# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import pathlib
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.modules import raft_unseal
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import FakeCluster, Lab


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_unseal.main, params, check)


@pytest.fixture
def cluster(lab: Lab) -> FakeCluster:
    """Three servers, two of them sealed."""
    found = lab.cluster("n1", "n2", "n3")
    lab.nodes["n2"].sealed = lab.nodes["n3"].sealed = True
    return found


def params(lab: Lab, **extra: t.Any) -> dict[str, t.Any]:
    return lab.params(url=[node.url for node in lab.nodes.values()], **extra)


def test_unseals_what_is_sealed_with_as_many_shares_as_needed(lab: Lab, cluster: FakeCluster) -> None:
    predicted = run(params(lab, shares=cluster.shares), check=True)
    assert lab.nodes["n2"].sealed
    result = run(params(lab, shares=cluster.shares))
    assert result["changed"]
    assert result["unsealed"] == [lab.nodes["n2"].url, lab.nodes["n3"].url]
    assert predicted == result
    assert not any(node.sealed for node in lab.nodes.values())
    assert lab.nodes["n2"].requests.count(("PUT", "sys/unseal")) == 3
    assert lab.nodes["n1"].requests.count(("PUT", "sys/unseal")) == 0
    again = run(params(lab, shares=cluster.shares))
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]


def test_from_a_file_and_from_a_command(lab: Lab, cluster: FakeCluster, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "init.json"
    path.write_text(json.dumps({"keys_base64": cluster.shares, "root_token": "s.x"}))
    assert run(params(lab, shares_file=str(path)))["changed"]
    lab.nodes["n2"].sealed = True
    assert run(params(lab, shares_command=["sh", "-c", f"cat {path}"]))["changed"]
    with pytest.raises(ModuleFailed, match="one place of the shares is enough"):
        run(params(lab, shares_file=str(path), shares=cluster.shares))
    with pytest.raises(ModuleFailed, match="cannot be read: No such file"):
        run(params(lab, shares_file=str(tmp_path / "absent")))
    (tmp_path / "empty").write_text("{}")
    with pytest.raises(ModuleFailed, match="no unseal shares in"):
        run(params(lab, shares_file=str(tmp_path / "empty")))


def test_foreign_progress_is_reset(lab: Lab, cluster: FakeCluster) -> None:
    lab.nodes["n2"].given = ["somebody's", "wrong ones"]
    assert run(params(lab, shares=cluster.shares))["changed"]
    assert not lab.nodes["n2"].sealed


def test_a_server_that_takes_its_time(lab: Lab, cluster: FakeCluster) -> None:
    lab.nodes["n3"].sealed_reads = 3
    assert run(params(lab, shares=cluster.shares))["changed"]
    assert lab.nodes["n3"].sealed_reads == 0


def test_wrong_shares(lab: Lab, cluster: FakeCluster) -> None:
    other = FakeCluster(5, 3)
    with pytest.raises(ModuleFailed, match="refused the unseal shares") as caught:
        run(params(lab, shares=other.shares))
    assert other.shares[0] not in json.dumps(caught.value.result)
    assert lab.nodes["n2"].sealed


def test_too_few_shares_are_told_before_anything_is_sent(lab: Lab, cluster: FakeCluster) -> None:
    with pytest.raises(ModuleFailed, match="needs 3 different unseal shares, 2 were given"):
        run(params(lab, shares=[cluster.shares[0], cluster.shares[1], cluster.shares[0]]))
    assert lab.nodes["n2"].requests.count(("PUT", "sys/unseal")) == 0


def test_not_initialised(lab: Lab, cluster: FakeCluster) -> None:
    lab.node("n4")
    with pytest.raises(ModuleFailed, match="is not initialised: use raft_bootstrap"):
        run(params(lab, shares=cluster.shares))


def test_unreachable(lab: Lab, cluster: FakeCluster) -> None:
    with pytest.raises(ModuleFailed, match=r"no connection to https://127\.0\.0\.1:1"):
        run({**params(lab, shares=cluster.shares), "url": ["https://127.0.0.1:1"]})


def test_left_out(lab: Lab, cluster: FakeCluster) -> None:
    lab.node("n4")
    wish = params(lab, shares=cluster.shares, ignore=["uninitialized", "unreachable"])
    result = run({**wish, "url": [*wish["url"], "https://127.0.0.1:1"]})
    assert result["unsealed"] == [lab.nodes["n2"].url, lab.nodes["n3"].url]
