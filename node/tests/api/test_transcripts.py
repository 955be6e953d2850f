# SPDX-License-Identifier: Apache-2.0
"""Answers recorded from a real OpenBao 2.6.2, replayed: same status, same shape, same error texts.

What only exists with Raft storage (peers, snapshots, joining) is replayed where there is a Raft cluster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRANSCRIPTS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "transcripts.json").read_text(encoding="utf-8")
)
# Keys that our answers have beside OpenBao's.
OURS = {"build_date", "removed_from_cluster"}
# Values that are the server's own: only their type is compared.
FREE = {
    "accessor", "uuid", "nonce", "version", "commit_date", "storage_type", "server_time_utc", "cluster_name",
    "cluster_id", "request_id", "created_time", "updated_time", "deletion_time", "creation_time", "modified", "id",
    "install_time", "encryptions", "running_plugin_version", "client_token", "keys_base64", "keys", "root_token",
    "current_metadata_version",
}  # fmt: skip


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where our body is not like the recorded one."""
    name = path.rsplit(".", 1)[-1]
    if isinstance(theirs, dict):
        if not isinstance(ours, dict):
            return [f"{path}: {ours!r} is no object"]
        found = [f"{path}.{key}: missing" for key in theirs if key not in ours]
        found += [f"{path}.{key}: is not in OpenBao's answer" for key in ours if key not in theirs and key not in OURS]
        for key in theirs:
            if key in ours:
                found += differences(ours[key], theirs[key], f"{path}.{key}")
        return found
    if name in FREE or (isinstance(theirs, str) and theirs.startswith("<")):
        return [] if type(ours) is type(theirs) else [f"{path}: {ours!r} is of another type than {theirs!r}"]
    if isinstance(theirs, list) and name != "errors":
        return [] if isinstance(ours, list) and sorted(ours) == sorted(theirs) else [f"{path}: {ours!r} != {theirs!r}"]
    return [] if ours == theirs else [f"{path}: {ours!r} != {theirs!r}"]


class Replay:
    """Plays records of one server in order, with this run's shares and tokens."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.shares: list[str] = []
        self.root = ""
        self.limited = ""
        self.played = 0

    def _fill(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._fill(item) for key, item in value.items()}
        if isinstance(value, str) and value.startswith("<share "):
            return self.shares[int(value[7:-1]) - 1]
        return value

    def _token(self, record: dict[str, Any]) -> str:
        if not record["request"].get("token"):
            return ""
        if record["note"] in ("allowed", "denied"):
            return self.limited
        return "s.unknownunknownunknownunk" if record["note"] == "bad token" else self.root

    async def play(self, record: dict[str, Any], known: dict[tuple[str, str], str]) -> list[str]:
        request, response = record["request"], record["response"]
        body = self._fill(request["body"])
        if body == "<1 bytes>":
            body = b"{"
        answer = await self.api.call(request["method"], request["path"], body, self._token(record))
        self.played += 1
        if request["path"] == "sys/init" and answer.status == 200 and request["method"] == "PUT":
            self.shares, self.root = answer.body["keys"], answer.body["root_token"]
        if request["path"] == "auth/token/create":
            self.limited = answer.body["auth"]["client_token"]
        found = [] if answer.status == response["status"] else [f"status {answer.status} != {response['status']}"]
        found += differences(answer.body, response["body"])
        if answer.headers["cache-control"] != "no-store":
            found.append("no Cache-Control")
        if answer.body and answer.headers["content-type"] != "application/json":
            found.append(f"Content-Type {answer.headers['content-type']}")
        reason = known.get((request["method"], request["path"]), "")
        return [
            f"{record['scenario']}: {request['method']} {request['path']} {request['body']}: {item}"
            for item in found
            if not reason or reason not in item
        ]


def of(*scenarios: str) -> list[dict[str, Any]]:
    """The records of the first server in `scenarios` that need no Raft."""
    return [
        record
        for record in TRANSCRIPTS
        if "request" in record
        and record["scenario"] in scenarios
        and record["request"].get("node", "raft1") == "raft1"
        and not record["request"]["path"].startswith("sys/storage/raft/")
    ]


async def test_init_seal_and_unseal(api: Any) -> None:
    replay = Replay(api)
    found = []
    for record in of("uninitialised", "init", "sealed", "unseal"):
        found += await replay.play(record, {})
    assert found == []
    assert replay.played == 37


async def test_kv_policies_and_tokens(api: Any) -> None:
    replay = Replay(api)
    keys = (await api.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})).body
    replay.root = keys["root_token"]
    assert (await api.call("PUT", "sys/unseal", {"key": keys["keys"][0]})).body["sealed"] is False
    found = []
    # The reason after this prefix is the HCL parser's own.
    parser_text = {("PUT", "sys/policies/acl/bad"): ".errors: ['failed to parse policy: "}
    for record in of("kv"):
        found += await replay.play(record, parser_text)
    assert found == []
    assert replay.played >= 25


async def test_a_sealed_server_refuses_everything_else(api: Any) -> None:
    keys = (await api.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})).body
    calls = (("GET", "secret/data/a"), ("LIST", "sys/policies/acl"), ("DELETE", "x"), ("PUT", "sys/step-down"))
    for method, path in calls:
        answer = await api.call(method, path, token=keys["root_token"])
        assert (answer.status, answer.body) == (503, {"errors": ["Vault is sealed"]})
