# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes, driven by the command line and by hvac."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import pytest

from tests.process.harness import free_ports
from tests.process.harness import wait_for as until

from .conftest import Cli, Server, environment


def configuration(path: Path, node_id: str, port: int, cluster_port: int, more: str = "") -> str:
    return (
        f'storage "raft" {{\n  path = "{path}"\n  node_id = "{node_id}"\n{more}}}\n'
        f'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  cluster_address = "127.0.0.1:{cluster_port}"\n'
        f'  tls_disable = true\n}}\napi_addr = "http://127.0.0.1:{port}"\n'
        f'cluster_addr = "https://127.0.0.1:{cluster_port}"\n'
    )


@dataclass
class Cluster:
    servers: list[Server]
    clis: list[Cli]
    keys: list[str]
    token: str

    def peers(self, cli: Cli) -> list[dict[str, Any]]:
        listed = cli("operator", "raft", "list-peers", "-format=json")
        assert listed.returncode == 0, listed.stderr
        found: list[dict[str, Any]] = json.loads(listed.stdout)["data"]["config"]["servers"]
        return found


@pytest.fixture
def cluster(start_server: Callable[..., Server], tmp_path: Path) -> Cluster:
    """Three servers: the second joins by the command line, the third by retry_join."""
    ports = free_ports(6)
    retry = f'  retry_join {{\n    leader_api_addr = "http://127.0.0.1:{ports[0]}"\n  }}\n'
    servers, clis = [], []
    for number in range(3):
        text = configuration(
            tmp_path / f"data{number}", f"n{number}", ports[number], ports[3 + number], retry if number == 2 else ""
        )
        servers.append(start_server(text))
        clis.append(Cli(environment(BAO_ADDR=servers[-1].address, HOME="/nonexistent")))
    made = json.loads(clis[0]("operator", "init", "-n", "3", "-t", "2", "-format=json").stdout)
    keys, token = made["unseal_keys_b64"], made["root_token"]
    for cli in clis:
        cli.environ["BAO_TOKEN"] = token

    def unseal(cli: Cli) -> None:
        for key in keys[:2]:
            done = cli("operator", "unseal", "-", stdin=key)
            assert done.returncode == 0, done.stderr
        until(lambda: cli("status").returncode == 0, "the server is unsealed")

    unseal(clis[0])
    joined = clis[1]("operator", "raft", "join", servers[0].address)
    assert "Joined    true" in joined.stdout, joined.stderr
    unseal(clis[1])
    servers[2].wait_for("retry_join found a cluster")
    unseal(clis[2])
    found = Cluster(servers, clis, keys, token)
    until(lambda: sum(peer["voter"] for peer in found.peers(clis[0])) == 3, "three voters")
    return found


def test_cluster(cluster: Cluster, tmp_path: Path) -> None:
    second, third = cluster.clis[1:]
    client = hvac.Client(url=cluster.servers[1].address, token=cluster.token)  # a standby
    client.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    kv = client.secrets.kv.v2
    for number in range(20):
        kv.create_or_update_secret(f"app/{number}", {"n": number})
    assert len(kv.list_secrets(path="app")["data"]["keys"]) == 20
    assert client.sys.read_health_status().status_code == 429
    table = third("operator", "raft", "list-peers").stdout.splitlines()
    assert table[0].split() == ["Node", "Address", "State", "Voter"]
    assert sorted(line.split()[0] for line in table[2:]) == ["n0", "n1", "n2"]
    state = json.loads(third("operator", "raft", "autopilot", "state", "-format=json").stdout)
    assert set(state["servers"]) == {"n0", "n1", "n2"}

    # snapshot through a standby's redirect, by both clients
    target = tmp_path / "backup.snap"
    saved = second("operator", "raft", "snapshot", "save", str(target))
    assert saved.returncode == 0, saved.stderr
    assert target.stat().st_mode & 0o777 == 0o600
    shown = json.loads(second("snapshot", "inspect", "-format=json", str(target)).stdout)
    assert {server["node_id"] for server in shown["Meta"]["Servers"]} == {"n0", "n1", "n2"}
    taken = client.sys.take_raft_snapshot()
    assert taken.status_code == 200
    taken_bytes = taken.raw.read() if hasattr(taken, "raw") else taken.content
    (tmp_path / "hvac.snap").write_bytes(taken_bytes)
    assert second("snapshot", "verify", str(tmp_path / "hvac.snap")).returncode == 0

    # what comes after the snapshot is gone once it is restored, on every server
    kv.delete_metadata_and_all_versions("app/3")
    kv.create_or_update_secret("app/later", {"n": 1})
    restored = third("operator", "raft", "snapshot", "restore", str(target))
    assert restored.returncode == 0, restored.stderr
    for server in cluster.servers:
        at = hvac.Client(url=server.address, token=cluster.token).secrets.kv.v2
        assert at.read_secret_version("app/3", raise_on_deleted_version=True)["data"]["data"] == {"n": 3}
        assert "later" not in at.list_secrets(path="app")["data"]["keys"]
    status = hvac.Client(url=cluster.servers[0].address, token=cluster.token).adapter.get(
        "/v1/sys/storage/raft/snapshot-status"
    )
    assert (status["data"]["stage"], status["data"]["last_error"]) == ("done", "")

    # SIGTERM of the leader: exit 0, and the others go on at once
    assert cluster.servers[0].stop() == 0
    leader = until(lambda: client.sys.read_leader_status().get("leader_address"), "a new leader")
    assert leader != cluster.servers[0].address
    kv.create_or_update_secret("app/after", {"n": 1})
    assert "Traceback" not in "".join(server.text() for server in cluster.servers)
    for server in cluster.servers:
        assert cluster.token not in server.text()
        assert not any(key in server.text() for key in cluster.keys)


def test_second_process_on_one_data_directory(start_server: Callable[..., Server], tmp_path: Path) -> None:
    ports = free_ports(4)
    data = tmp_path / "data"
    server = start_server(configuration(data, "n1", ports[0], ports[1]))
    before = sorted(path.name for path in data.iterdir())
    second = tmp_path / "second.hcl"
    second.write_text(configuration(data, "n1", ports[2], ports[3]), encoding="utf-8")
    refused = Cli()("server", f"-config={second}")
    assert refused.returncode == 1
    assert refused.stderr == f"Error: the data directory {data} is in use by another holdfast process\n"
    assert sorted(path.name for path in data.iterdir()) == before
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    again = start_server(configuration(data, "n1", ports[2], ports[3]))
    assert again.stop() == 0


def test_snapshot_of_another_cluster(start_server: Callable[..., Server], tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        ports = free_ports(2)
        server = start_server(configuration(tmp_path / name, name, *ports))
        client = hvac.Client(url=server.address)
        keys = client.sys.initialize(secret_shares=1, secret_threshold=1)
        client.sys.submit_unseal_key(keys["keys"][0])
        client.token = keys["root_token"]
        until(lambda client=client: client.sys.read_health_status().status_code == 200, "the server is active")
        client.sys.enable_secrets_engine("kv", path=f"kv-{name}")
        made.append((Cli(environment(BAO_ADDR=server.address, BAO_TOKEN=keys["root_token"])), client, keys))
    (cli_a, _, keys_a), (cli_b, client_b, _) = made
    snapshot = str(tmp_path / "a.snap")
    assert cli_a("operator", "raft", "snapshot", "save", snapshot).returncode == 0
    refused = cli_b("operator", "raft", "snapshot", "restore", snapshot)
    assert refused.returncode == 2
    assert "could not verify hash file, possibly the snapshot is using a different set of unseal keys" in refused.stderr
    assert "kv-b/" in client_b.sys.list_mounted_secrets_engines()["data"]
    forced = cli_b("operator", "raft", "snapshot", "restore", "-force", snapshot)
    assert forced.returncode == 0, forced.stderr
    until(lambda: client_b.sys.is_sealed(), "the server is sealed")
    client_b.sys.submit_unseal_key(keys_a["keys"][0])
    client_b.token = keys_a["root_token"]
    until(lambda: client_b.sys.read_health_status().status_code == 200, "the server is active again")
    assert "kv-a/" in client_b.sys.list_mounted_secrets_engines()["data"]
