# SPDX-License-Identifier: Apache-2.0
"""Answers of a real OpenBao 2.6.2, replayed in order: same status, same texts, at least the same keys and types.

transcripts.json holds the recorded calls that are the core's business (what is HTTP's alone is left out).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("transcripts.json").read_text())
NEVER_SAME = ("request_id",)
# Where we differ on purpose (conformance notes: better than OpenBao).
OURS = {
    ("cluster", "sys/storage/raft/promote", "nobody"): "an unknown id is a 400 that names it",
    ("kv", "sys/storage/raft/snapshot", None): "streamed by HTTP",
}


def difference(entry: dict[str, Any]) -> tuple[str, str, str | None]:
    """The key of `OURS` for a recorded call."""
    body = entry["request"]["body"] or {}
    return entry["scenario"], entry["request"]["path"], body.get("server_id")


def calls(scenario: str) -> list[dict[str, Any]]:
    found = [entry for entry in RECORDED if entry["scenario"] == scenario]
    assert found
    return found


def check_shape(recorded: Any, ours: Any, where: str) -> None:
    """Every key that OpenBao sends is there with the same type; texts of errors begin the same."""
    if isinstance(recorded, dict):
        assert isinstance(ours, dict), where
        for key, value in recorded.items():
            if key in NEVER_SAME:
                continue
            assert key in ours, f"{where}: {key} is missing"
            check_shape(value, ours[key], f"{where}.{key}")
    elif isinstance(recorded, list):
        assert isinstance(ours, list), where
        for one, two in zip(recorded, ours, strict=False):
            check_shape(one, two, where)
    elif recorded is not None and ours is not None:
        assert type(recorded) is type(ours), where


def check(entry: dict[str, Any], status: int, body: Any) -> None:
    request, response = entry["request"], entry["response"]
    where = f"{entry['scenario']}: {request['method']} {request['path']} ({entry['note']})"
    assert status == response["status"], f"{where}: {body}"
    if isinstance(response["body"], dict) and "errors" in response["body"]:
        for recorded, ours in zip(response["body"]["errors"], body["errors"], strict=True):
            # A parser's own words after "At line:" are its own; joins say the same sentence, then the reason.
            assert ours.startswith(recorded.split(" At ")[0]), where
        return
    check_shape(response["body"], body, where)


async def replay(node: Any, scenario: str, *, tokens: dict[str, str] | None = None) -> int:
    done = 0
    for entry in calls(scenario):
        request = entry["request"]
        if difference(entry) in OURS:
            continue
        body = json.loads(json.dumps(request["body"] or {}))
        key = str(body.get("key", ""))
        if key.startswith("<share "):
            body["key"] = node.keys[int(key[7]) - 1]
        token = None if request["token"] else ""
        token = (tokens or {}).get(entry["note"], token)
        status, answer = await node.call(request["method"], request["path"], body, token)
        check(entry, status, answer)
        if entry["note"] == "limited token" and tokens is not None:
            tokens["allowed"] = tokens["denied"] = answer["auth"]["client_token"]
        done += 1
    return done


async def test_uninitialised_sealed_and_unseal(new_node: Callable[..., Any]) -> None:
    node = new_node("raft1")
    assert await replay(node, "uninitialised") >= 10
    await node.init()
    assert await replay(node, "sealed") >= 5
    assert await replay(node, "unseal") >= 12
    await node.core.shutdown()


async def test_join_errors(new_node: Callable[..., Any]) -> None:
    # The recorded port is nobody's here: an unreachable leader and a sealed one are told apart by our reason only.
    entries = calls("join errors")
    node = new_node("raft2")
    for entry in entries:
        body = dict(entry["request"]["body"])
        if "18210" in str(body.get("leader_api_addr")):
            body["leader_api_addr"] = "http://127.0.0.1:1"
        status, answer = await node.call("POST", "sys/storage/raft/join", body)
        check(entry, status, answer)
    assert len(entries) >= 9


@pytest.fixture
async def three(leader: Any) -> Any:
    """As recorded: the leader and two learners."""
    for name in ("raft2", "raft3"):
        await leader.cluster.add_server(name, f"{name}.test:8201", False)
    return leader


async def test_cluster(three: Any) -> None:
    assert await replay(three, "cluster", tokens={"bad token": "s.bad"}) >= 15


async def test_kv(three: Any) -> None:
    assert await replay(three, "kv", tokens={}) >= 30


def test_the_list_of_differences_is_not_stale() -> None:
    assert set(OURS) <= {difference(entry) for entry in RECORDED}
