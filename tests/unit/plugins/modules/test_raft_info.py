# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import pathlib
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.modules import raft_info
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import Lab


def run(params: dict[str, t.Any]) -> dict[str, t.Any]:
    return run_module(raft_info.main, params)


def test_everything_in_one_call(lab: Lab) -> None:
    cluster = lab.cluster("n1", "n2", "n3")
    result = run(lab.params(cluster))
    assert not result["changed"]
    assert result["leader"] == lab.nodes["n1"].url
    assert (result["initialized"], result["sealed"], result["not_answering"]) == (True, [], [])
    assert result["failure_tolerance"] == 1
    assert result["autopilot"]["max_trailing_logs"] == 1000
    assert [(m["node_id"], m["state"], m["role"], m["applied_index"]) for m in result["members"]] == [
        ("n1", "leader", "voter", 10),
        ("n2", "follower", "voter", 10),
        ("n3", "follower", "voter", 10),
    ]
    assert result["table"][0].split() == ["node_id", "address", "state", "voter", "applied_index", "healthy", "api_address"]
    assert cluster.token not in json.dumps(result)


def test_nothing_is_a_failure(lab: Lab) -> None:
    cluster = lab.cluster("n1", "n2")
    lab.node("n3")
    lab.nodes["n2"].sealed = True
    urls = [node.url for node in lab.nodes.values()]
    result = run(lab.params(cluster, url=[*urls, "https://127.0.0.1:1"]))
    assert result["not_answering"] == ["https://127.0.0.1:1"]
    assert result["sealed"] == urls[1:]
    assert [n["reachable"] for n in result["nodes"]] == [True, True, True, False]
    assert len(result["members"]) == 2


def test_without_token_and_without_leader(lab: Lab) -> None:
    lab.cluster("n1")
    url = lab.nodes["n1"].url
    result = run(lab.params(url=[url]))
    assert (result["leader"], result["members"]) == (url, [])
    assert "permission denied" in result["membership_error"]
    lab.nodes["n1"].sealed = True
    result = run(lab.params(url=[url]))
    assert result["leader"] == ""
    assert "sealed" in result["membership_error"]


def test_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    cluster = lab.cluster("n1", "n2")
    monkeypatch.setenv("VAULT_ADDR", "https://127.0.0.1:1")
    monkeypatch.setenv("BAO_ADDR", ",".join(node.url for node in lab.nodes.values()))
    monkeypatch.setenv("VAULT_CACERT", str(lab.tls / "ca.pem"))
    monkeypatch.setenv("VAULT_TOKEN", cluster.token)
    monkeypatch.setenv("BAO_CLIENT_TIMEOUT", "7s")
    assert len(run({})["members"]) == 2
    monkeypatch.delenv("VAULT_CACERT")
    assert len(run({})["not_answering"]) == 2
    monkeypatch.setenv("VAULT_SKIP_VERIFY", "true")
    assert len(run({})["members"]) == 2


def test_token_file(lab: Lab, tmp_path: pathlib.Path) -> None:
    cluster = lab.cluster("n1")
    path = tmp_path / "init.json"
    path.write_text(json.dumps({"root_token": cluster.token}))
    assert run(lab.params(cluster, token=None, token_file=str(path)))["members"]
    assert run(lab.params(cluster, token_command=["sh", "-c", f"cat {path}"]))["members"]
    path.write_text("{}")
    for place in (path, tmp_path / "absent"):
        result = run(lab.params(cluster, token=None, token_file=str(place)))
        assert result["members"] == []
        assert f"there is no token in {place}" in result["membership_error"]
