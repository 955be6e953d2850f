# SPDX-License-Identifier: GPL-3.0-or-later
"""Parsing of real answers, and the pure values."""

from __future__ import annotations

import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._cluster import parse_node, parse_view, role_of, table

Transcripts = t.List[t.Dict[str, t.Any]]


def body(transcripts: Transcripts, path: str, note: str, scenario: str = "cluster") -> dict[str, t.Any]:
    for entry in transcripts:
        if entry["scenario"] == scenario and entry.get("note") == note and entry["request"]["path"] == path:
            return t.cast("dict[str, t.Any]", entry["response"]["body"])
    raise AssertionError(f"no {scenario}/{note}/{path} in the transcripts")


def test_a_real_cluster_with_learners(transcripts: Transcripts) -> None:
    view = parse_view(
        body(transcripts, "sys/storage/raft/configuration", "leader")["data"],
        body(transcripts, "sys/storage/raft/autopilot/state", "leader")["data"],
        body(transcripts, "sys/ha-status", "leader")["data"],
    )
    assert view.summary() == {"raft1": "voter", "raft2": "learner", "raft3": "learner"}
    assert view.leader is not None
    assert view.leader.node_id == "raft1"
    assert view.leader.api_address == "http://127.0.0.1:18210"
    assert view.failure_tolerance == 0
    assert [s.healthy for s in view.servers] == [True, True, True]
    assert view.majority == 1


def test_without_autopilot_nothing_is_guessed(transcripts: Transcripts) -> None:
    view = parse_view(body(transcripts, "sys/storage/raft/configuration", "leader")["data"], None, None)
    assert [s.healthy for s in view.servers] == [True, None, None]
    assert view.failure_tolerance is None
    assert [role_of(s) for s in view.servers] == ["voter", "non-voter", "non-voter"]


def test_nodes(transcripts: Transcripts) -> None:
    leader = parse_node(
        "http://127.0.0.1:18210",
        body(transcripts, "sys/seal-status", "leader"),
        body(transcripts, "sys/health", "leader"),
        body(transcripts, "sys/leader", "leader"),
    )
    assert leader.active
    assert (leader.threshold, leader.shares, leader.applied_index) == (3, 5, 31)
    sealed = parse_node("u", body(transcripts, "sys/seal-status", "", "sealed"), body(transcripts, "sys/health", "", "sealed"), {})
    assert (sealed.initialized, sealed.sealed, sealed.active, sealed.leader_address) == (True, True, False, "")
    fresh = parse_node(
        "u", body(transcripts, "sys/seal-status", "", "uninitialised"), body(transcripts, "sys/health", "", "uninitialised"), {}
    )
    assert (fresh.initialized, fresh.threshold) == (False, 0)


def test_table() -> None:
    assert table([["id", "n"], ["raft1", "1"]]) == ["id     n", "raft1  1"]
    assert table([]) == []
