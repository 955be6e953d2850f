# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pathlib
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.modules import raft_join
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import FakeCluster, FakeNode, Lab, Member


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_join.main, params, check)


@pytest.fixture
def cluster(lab: Lab) -> FakeCluster:
    return lab.cluster("n1")


@pytest.fixture
def joiner(lab: Lab, cluster: FakeCluster) -> FakeNode:
    return lab.node("n2")


@pytest.fixture
def params(lab: Lab, cluster: FakeCluster, joiner: FakeNode) -> dict[str, t.Any]:
    leader = lab.nodes["n1"].url
    return lab.params(cluster, url=joiner.url, node_id="n2", leader_api_addr=leader, shares=cluster.shares, wait_timeout=15)


def test_both_phases_in_one_call(cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    joiner.sealed_reads = 2
    predicted = run(params, check=True)
    assert not joiner.initialized
    result = run(params)
    assert result["changed"]
    assert result["diff"]["before"] == {"initialized": False, "sealed": True, "role": "absent"}
    assert result["state"] == {"initialized": True, "sealed": False, "role": "voter"}
    assert predicted["diff"] == result["diff"]
    assert cluster.members["n2"].voter
    again = run(params)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]


def test_phase_one_only(joiner: FakeNode, params: dict[str, t.Any]) -> None:
    result = run({**params, "shares": None})
    assert result["state"] == {"initialized": True, "sealed": True, "role": "absent"}
    assert joiner.pending
    finished = run(params)
    assert finished["state"]["role"] == "voter"


def test_without_a_token_the_membership_stays_unknown(joiner: FakeNode, params: dict[str, t.Any]) -> None:
    result = run({**params, "token": None})
    assert result["state"] == {"initialized": True, "sealed": False, "role": "unknown"}
    assert not run({**params, "token": None})["changed"]


def test_retry_is_waited_for(joiner: FakeNode, params: dict[str, t.Any]) -> None:
    assert run({**params, "retry": True})["state"]["role"] == "voter"


@pytest.mark.parametrize("loses", [True, False])
def test_non_voter(cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any], loses: bool) -> None:
    """OpenBao loses non_voter under Shamir; then it is demoted."""
    joiner.loses_non_voter = loses
    assert run({**params, "non_voter": True})["state"]["role"] == "non-voter"
    assert cluster.calls.count("demote n2") == int(loses)
    assert not run({**params, "non_voter": True})["changed"]


def test_a_non_voter_becomes_a_voter(cluster: FakeCluster, params: dict[str, t.Any]) -> None:
    run({**params, "non_voter": True})
    result = run(params)
    assert (result["changed"], result["state"]["role"]) == (True, "voter")
    assert "promote n2" in cluster.calls


def test_wrong_shares_leave_it_joinable(cluster: FakeCluster, params: dict[str, t.Any]) -> None:
    with pytest.raises(ModuleFailed, match="refused the unseal shares"):
        run({**params, "shares": FakeCluster(5, 3).shares})
    assert run(params)["state"]["role"] == "voter"


def test_killed_between_the_phases(lab: Lab, cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    joiner.answer("POST", "sys/storage/raft/join", "", f'{{"leader_api_addr": "{lab.nodes["n1"].url}"}}'.encode())
    assert run(params)["state"]["role"] == "voter"


def test_killed_in_the_middle_of_phase_two(cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    """The leader lists a learner whose server came up empty again: it never voted, so it is removed and joins anew."""
    cluster.members["n2"] = Member(joiner.address, healthy=False)
    assert run(params)["state"]["role"] == "voter"
    assert cluster.calls[0] == "remove-peer n2"


def test_an_empty_server_is_not_the_voter_of_its_name(cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    cluster.members["n2"] = Member(joiner.address, voter=True, healthy=False)
    with pytest.raises(ModuleFailed, match="is a voter of this cluster already") as caught:
        run(params)
    assert not joiner.initialized
    assert "holdfast.raft.shrink -e holdfast_remove=n2 -e holdfast_wipe=false" in str(caught.value)


def test_replace(lab: Lab, cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    for name in ("n3", "n4"):
        other = lab.node(name)
        other.cluster, other.sealed = cluster, False
        cluster.members[name] = Member(other.address, voter=True)
    cluster.members["n2"] = Member(joiner.address, voter=True, healthy=False)
    assert run({**params, "replace": True})["state"]["role"] == "voter"
    assert cluster.calls[0] == "remove-peer n2"


def test_a_name_in_use(lab: Lab, cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    other = lab.node("n9")
    other.cluster, other.sealed = cluster, False
    cluster.members["n9"] = Member(other.address, rounds=10**6)
    with pytest.raises(ModuleFailed, match=f"n9 is in use by the server at {other.url}"):
        run({**params, "node_id": "n9"})
    assert not joiner.initialized


def test_a_server_of_another_cluster(lab: Lab, params: dict[str, t.Any]) -> None:
    lab.cluster("m1")
    with pytest.raises(ModuleFailed, match=r"another cluster.*empty its data directory"):
        run({**params, "url": lab.nodes["m1"].url, "node_id": "m1"})


def test_a_removed_server(cluster: FakeCluster, joiner: FakeNode, params: dict[str, t.Any]) -> None:
    joiner.cluster, joiner.removed = cluster, True
    with pytest.raises(ModuleFailed, match=r"was removed from its cluster.*empty its data directory"):
        run(params)


def test_an_unreachable_leader(joiner: FakeNode, params: dict[str, t.Any]) -> None:
    with pytest.raises(ModuleFailed, match="failed to get raft challenge") as caught:
        run({**params, "leader_api_addr": "https://127.0.0.1:1"})
    assert caught.value.result["status"] == 500


def test_a_member_is_not_told_to_go_when_no_leader_answers(params: dict[str, t.Any]) -> None:
    run(params)
    with pytest.raises(ModuleFailed, match=r"no leader reached: https://127\.0\.0\.1:1: ") as caught:
        run({**params, "leader_api_addr": "https://127.0.0.1:1", "wait_timeout": 1})
    assert "empty its data directory" not in str(caught.value)


def test_a_token_that_may_not_look_is_no_reason_to_wipe(cluster: FakeCluster, params: dict[str, t.Any]) -> None:
    run(params)
    with pytest.raises(ModuleFailed, match="permission denied") as caught:
        run({**params, "token": "s.another"})
    assert "empty its data directory" not in str(caught.value)


def test_all_parameters_are_sent(lab: Lab, joiner: FakeNode, params: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, t.Any]] = []
    join = joiner.join
    monkeypatch.setattr(joiner, "join", lambda body: (sent.append(body), join(body))[1])
    (pathlib.Path(lab.tls) / "client.pem").write_text("CLIENT")
    run(
        {
            **params,
            "leader_ca_cert_file": str(lab.tls / "ca.pem"),
            "leader_client_cert": "CERT",
            "leader_client_key": "KEY",
            "leader_tls_servername": "holdfast.test",
            "auto_join_scheme": "https",
            "auto_join_port": 8200,
        }
    )
    assert sent == [
        {
            "leader_api_addr": lab.nodes["n1"].url,
            "auto_join_scheme": "https",
            "auto_join_port": 8200,
            "leader_tls_servername": "holdfast.test",
            "leader_ca_cert": (lab.tls / "ca.pem").read_text(),
            "leader_client_cert": "CERT",
            "leader_client_key": "KEY",
        }
    ]


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"leader_client_cert": "x"}, "belong together"),
        ({"auto_join": "provider=x"}, "mutually exclusive"),
        ({"leader_ca_cert_file": "/no/such"}, "cannot be read"),
        ({"shares": ["share a", "share b"]}, "needs 3 different"),
    ],
)
def test_bad_input(joiner: FakeNode, params: dict[str, t.Any], extra: dict[str, t.Any], text: str) -> None:
    with pytest.raises(ModuleFailed, match=text):
        run({**params, **extra})


def test_too_few_shares_leave_the_join_pending_but_say_so(joiner: FakeNode, params: dict[str, t.Any]) -> None:
    with pytest.raises(ModuleFailed, match="2 were given"):
        run({**params, "shares": ["share a", "share b"]})
    assert run(params)["state"]["role"] == "voter"
