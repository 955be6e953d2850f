# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pathlib
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.modules import raft_peer
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import FakeCluster, Lab, Member


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_peer.main, {"wait_timeout": 10, **params}, check)


@pytest.fixture
def cluster(lab: Lab) -> FakeCluster:
    return lab.cluster("n1", "n2", "n3", "n4", "n5")


def test_removes_two_the_leader_among_them(lab: Lab, cluster: FakeCluster) -> None:
    wish = lab.params(cluster, node_ids=["n1", "n4"], state="absent")
    predicted = run(wish, check=True)
    assert list(cluster.members) == ["n1", "n2", "n3", "n4", "n5"]
    result = run(wish)
    assert result["steps"] == predicted["steps"] == ["remove n4", "transfer n1", "remove n1"]
    assert result["changed"]
    assert result["members"] == {"n2": "voter", "n3": "voter", "n5": "voter"}
    assert result["diff"] == predicted["diff"]
    assert cluster.calls == ["remove-peer n4", "step-down", "remove-peer n1"]
    again = run(lab.params(cluster, node_ids=["n1", "n4"], state="absent"))
    assert not again["changed"]
    assert again["steps"] == []


def test_started_at_a_server_that_is_removed(lab: Lab, cluster: FakeCluster) -> None:
    """Only the leader's address is given; the others are learnt on the way."""
    result = run(lab.params(cluster, url=[lab.nodes["n1"].url], node_ids=["n1"], state="absent"))
    assert "n1" not in result["members"]


def test_an_unknown_server_is_no_change(lab: Lab, cluster: FakeCluster) -> None:
    result = run(lab.params(cluster, node_ids=["n9"], state="absent"))
    assert not result["changed"]
    assert cluster.calls == []


def test_dead_before_live(lab: Lab, cluster: FakeCluster) -> None:
    cluster.members["n5"].healthy = False
    result = run(lab.params(cluster, node_ids=["n2", "n5"], state="absent"))
    assert result["steps"] == ["remove n5", "remove n2"]


def test_refused_before_anything_is_done(lab: Lab, cluster: FakeCluster) -> None:
    """The second removal would be unsafe, so the first is not done either."""
    cluster.members["n4"].healthy = cluster.members["n5"].healthy = False
    with pytest.raises(ModuleFailed, match="no majority"):
        run(lab.params(cluster, node_ids=["n2", "n3"], state="absent"))
    assert cluster.calls == []
    run(lab.params(cluster, node_ids=["n2"], state="absent", force=True))
    assert cluster.calls == ["remove-peer n2"]


def test_the_last_voter(lab: Lab) -> None:
    alone = lab.cluster("m1")
    for force in (False, True):
        with pytest.raises(ModuleFailed, match="last voter"):
            run(lab.params(alone, node_ids=["m1"], state="absent", force=force))


def test_learners_are_waited_for(lab: Lab, cluster: FakeCluster) -> None:
    node = lab.node("n6")
    node.cluster, node.sealed = cluster, False
    cluster.members["n6"] = Member(node.address, rounds=5)
    result = run(lab.params(cluster, node_ids=["n1", "n6"]))
    assert result["steps"] == ["wait n6"]
    assert result["members"]["n6"] == "voter"
    assert not run(lab.params(cluster, node_ids=["n1", "n6"]))["changed"]


def test_promote_and_demote(lab: Lab, cluster: FakeCluster) -> None:
    demoted = run(lab.params(cluster, node_ids=["n5"], role="non_voter"))
    assert (demoted["changed"], demoted["members"]["n5"]) == (True, "non-voter")
    assert not run(lab.params(cluster, node_ids=["n5"], role="non_voter"))["changed"]
    promoted = run(lab.params(cluster, node_ids=["n5"], role="voter"))
    assert promoted["steps"][0] == "promote n5"
    assert promoted["members"]["n5"] == "voter"


def test_a_server_without_promote(lab: Lab, cluster: FakeCluster) -> None:
    for node in lab.nodes.values():
        node.extensions = False
    with pytest.raises(ModuleFailed, match="does not support demote"):
        run(lab.params(cluster, node_ids=["n5"], role="non_voter"))


def test_a_stranger_must_join_first(lab: Lab, cluster: FakeCluster) -> None:
    with pytest.raises(ModuleFailed, match="not a member of this cluster: n8, n9"):
        run(lab.params(cluster, node_ids=["n1", "n9", "n8"]))


def test_autopilot_knows_nothing_right_after_an_election(lab: Lab, cluster: FakeCluster) -> None:
    cluster.silent_readings = 3
    assert run(lab.params(cluster, node_ids=["n4"], state="absent"))["changed"]


def test_leadership_that_does_not_move(lab: Lab, cluster: FakeCluster) -> None:
    cluster.transferable = False
    with pytest.raises(ModuleFailed, match="the effect of transfer n1"):
        run(lab.params(cluster, node_ids=["n1"], state="absent", wait_timeout=1))
    assert "n1" in cluster.members


def test_one_address_of_many_is_enough(lab: Lab, cluster: FakeCluster) -> None:
    lab.nodes["n2"].sealed = True
    urls = ["https://127.0.0.1:1", lab.nodes["n2"].url, lab.nodes["n3"].url]
    assert run(lab.params(cluster, url=urls, node_ids=["n4"], state="absent"))["changed"]
    with pytest.raises(ModuleFailed, match=r"no leader found:.*127\.0\.0\.1:1.*sealed or not initialised"):
        run(lab.params(cluster, url=urls[:2], node_ids=["n5"], state="absent", wait_timeout=1))


def test_bad_token(lab: Lab, cluster: FakeCluster) -> None:
    with pytest.raises(ModuleFailed, match="permission denied") as caught:
        run(lab.params(cluster, node_ids=["n4"], state="absent", token="s.wrong"))
    assert caught.value.result["status"] == 403


def test_no_token_where_one_is_needed(lab: Lab, cluster: FakeCluster, tmp_path: pathlib.Path) -> None:
    wish = lab.params(cluster, token=None, token_file=str(tmp_path / "empty"), node_ids=["n4"], state="absent")
    with pytest.raises(ModuleFailed, match="cannot be read: No such file"):
        run(wish)
    (tmp_path / "empty").write_text("{}")
    with pytest.raises(ModuleFailed, match="no token in what"):
        run(wish)
