# SPDX-License-Identifier: GPL-3.0-or-later
"""The fake cluster answers as a real OpenBao did: same status, same keys, same texts."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import FakeNode, Lab

RAFT = "sys/storage/raft"


def recorded(transcripts: list[dict[str, t.Any]], scenario: str, note: str, method: str, path: str) -> tuple[int, t.Any]:
    for entry in transcripts:
        request = entry.get("request") or {}
        if (entry["scenario"], entry.get("note"), request.get("method"), request.get("path")) == (scenario, note, method, path):
            return entry["response"]["status"], entry["response"]["body"]
    raise AssertionError(f"not recorded: {scenario}/{note} {method} {path}")


def answer(node: FakeNode, method: str, path: str, body: dict[str, t.Any] | None = None, token: str = "") -> tuple[int, t.Any]:
    return node.answer(method, path, token, b"" if body is None else json.dumps(body).encode())


def test_states(lab: Lab, transcripts: list[dict[str, t.Any]]) -> None:
    node = lab.node("n1")
    assert answer(node, "GET", "sys/seal-status")[1] == recorded(transcripts, "uninitialised", "", "GET", "sys/seal-status")[1]
    status, reply = answer(node, "PUT", "sys/init", {"secret_shares": 5, "secret_threshold": 3})
    assert (status, set(reply)) == (200, set(recorded(transcripts, "init", "5 of 3", "PUT", "sys/init")[1]))
    assert answer(node, "GET", "sys/seal-status")[1] == recorded(transcripts, "sealed", "", "GET", "sys/seal-status")[1]
    again = answer(node, "PUT", "sys/init", {"secret_shares": 5, "secret_threshold": 3})
    assert (again[0], {"errors": again[1]}) == recorded(transcripts, "sealed", "again", "PUT", "sys/init")
    for share in reply["keys_base64"][:3]:
        status, last = answer(node, "PUT", "sys/unseal", {"key": share})
    assert (status, set(last)) == (200, set(recorded(transcripts, "cluster", "leader", "GET", "sys/seal-status")[1]))
    leader = recorded(transcripts, "cluster", "leader", "GET", "sys/leader")[1]
    assert set(answer(node, "GET", "sys/leader")[1]) == set(leader)


@pytest.mark.parametrize(
    ("note", "path", "body"),
    [
        ("promote", "promote", {"server_id": "nobody"}),
        ("promote", "promote", {}),
        ("", "remove-peer", {"server_id": "nobody"}),
        ("", "remove-peer", {}),
    ],
)
def test_membership_calls(lab: Lab, transcripts: list[dict[str, t.Any]], note: str, path: str, body: dict[str, str]) -> None:
    cluster = lab.cluster("n1", "n2")
    scenario = "cluster" if path == "promote" else "remove-peer"
    entry = next(
        e
        for e in transcripts
        if (e["scenario"], e.get("note")) == (scenario, note) and e["request"]["path"].endswith(path) and e["request"]["body"] == body
    )
    status, errors = answer(lab.nodes["n1"], "POST", f"{RAFT}/{path}", body, cluster.token)
    assert status == entry["response"]["status"]
    assert (entry["response"]["body"] or None) == (None if errors is None else {"errors": errors})


def test_configuration_has_the_same_fields(lab: Lab, transcripts: list[dict[str, t.Any]]) -> None:
    cluster = lab.cluster("n1", "n2")
    real = recorded(transcripts, "cluster", "leader", "GET", f"{RAFT}/configuration")[1]["data"]["config"]["servers"][0]
    ours = answer(lab.nodes["n2"], "GET", f"{RAFT}/configuration", token=cluster.token)[1]["data"]["config"]["servers"][0]
    assert set(ours) == set(real)


def test_snapshot_of_another_cluster(lab: Lab, transcripts: list[dict[str, t.Any]]) -> None:
    cluster, other = lab.cluster("n1"), lab.cluster("m1")
    snapshot = lab.nodes["m1"].answer("GET", f"{RAFT}/snapshot", other.token, b"")[1]
    status, errors = lab.nodes["n1"].answer("POST", f"{RAFT}/snapshot", cluster.token, snapshot)
    assert (status, {"errors": errors}) == recorded(transcripts, "snapshot", "of another cluster", "POST", f"{RAFT}/snapshot")
