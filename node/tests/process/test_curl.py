# SPDX-License-Identifier: Apache-2.0
"""The calls of the API page for sys/storage/raft, as curl makes them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.harness import LocalCluster, wait_for

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str) -> tuple[int, bytes]:
    """(HTTP status, body)."""
    done = subprocess.run(
        ["curl", "--silent", "--write-out", "\n%{http_code}", *arguments], capture_output=True, check=True
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


def test_the_calls_of_the_api_page(make_cluster: Callable[[int], LocalCluster], tmp_path: Path) -> None:
    cluster = make_cluster(2)
    cluster.mount()
    leader = cluster.leader()
    assert leader.post("secret/data/a", {"data": {"v": "1"}}).status == 200
    token = ("--header", f"X-Vault-Token: {cluster.token}")
    base = f"{leader.address}/v1/sys/storage/raft"
    payload, snapshot = tmp_path / "payload.json", tmp_path / "raft.snap"

    joiner = cluster.add("n3")
    payload.write_text(
        json.dumps(
            {
                "leader_api_addr": leader.address,
                "leader_ca_cert": "",
                "leader_client_cert": "",
                "leader_client_key": "",
                "leader_tls_servername": "",
                "retry": False,
                "non_voter": False,
            }
        )
    )
    join = f"{joiner.address}/v1/sys/storage/raft/join"
    assert curl("--request", "POST", "--data", f"@{payload}", join) == (200, b'{"joined":true}\n')
    cluster.unseal(joiner)
    cluster.wait_voters(3)

    status, body = curl(*token, f"{base}/configuration")
    assert status == 200
    servers = {s["node_id"]: s for s in json.loads(body)["data"]["config"]["servers"]}
    assert set(servers) == {"n1", "n2", "n3"}
    assert servers["n3"]["address"] == f"127.0.0.1:{joiner.cluster_port}"
    assert servers["n3"]["protocol_version"] == "3"

    payload.write_text('{"server_id": "n2"}')
    assert curl(*token, "--request", "POST", "--data", f"@{payload}", f"{base}/remove-peer") == (204, b"")
    assert set(cluster.configuration()) == {"n1", "n3"}

    assert curl(*token, "--request", "GET", "--output", str(snapshot), f"{base}/snapshot")[0] == 200
    assert leader.request("DELETE", "secret/metadata/a").status == 204
    assert curl(*token, "--request", "POST", "--data-binary", f"@{snapshot}", f"{base}/snapshot") == (204, b"")
    assert leader.get("secret/data/a").data["data"] == {"v": "1"}
    assert leader.request("DELETE", "secret/metadata/a").status == 204
    assert curl(*token, "--request", "POST", "--data-binary", f"@{snapshot}", f"{base}/snapshot-force") == (204, b"")
    wait_for(lambda: leader.get("secret/data/a").status == 200, "the restored secret is there")

    assert curl("--request", "POST", f"{base}/bootstrap")[0] == 500
    assert curl(f"{base}/configuration")[0] == 403
    assert curl("--header", "X-Vault-Token: wrong", f"{base}/configuration")[0] == 403
