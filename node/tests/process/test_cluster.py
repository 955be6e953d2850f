# SPDX-License-Identifier: Apache-2.0
"""Clusters of real processes: what a user does with them, and what goes wrong."""

from __future__ import annotations

import base64
import shutil
import signal
import threading
from collections.abc import Callable

import pytest

from tests.process.harness import LocalCluster, Server, wait_for

Make = Callable[[int], LocalCluster]


def put(server: Server, name: str, value: str, timeout: float = 5.0) -> int:
    return server.post(f"secret/data/{name}", {"data": {"v": value}}, timeout=timeout).status


def value_of(server: Server, name: str) -> str | None:
    data = server.get(f"secret/data/{name}").data.get("data")
    return data["v"] if data else None


class Writer(threading.Thread):
    """Writes to whichever server takes it and remembers what was acknowledged."""

    def __init__(self, cluster: LocalCluster, prefix: str) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.prefix = prefix
        self.acknowledged: list[str] = []
        self.halt = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.halt.is_set():
            for server in self.cluster.running():
                name = f"{self.prefix}{number}"
                if put(server, name, name, timeout=2.0) == 200:
                    self.acknowledged.append(name)
                number += 1


def test_restart_of_everything_waits_for_keys_but_not_for_replication(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader = cluster.leader()
    assert put(leader, "a", "before") == 200
    followers = [s for s in cluster.servers.values() if s is not leader]
    assert followers[0].stop() == 0
    followers[0].start()
    assert followers[0].get("sys/seal-status").json["sealed"] is True

    def tolerant() -> bool:
        return bool(leader.get("sys/storage/raft/autopilot/state").data.get("failure_tolerance") == 1)

    wait_for(tolerant, "failure tolerance is 1 while a server is sealed")
    for server in cluster.servers.values():
        server.kill()
    for server in cluster.servers.values():
        server.start()
        assert server.get("sys/leader").status == 503
    cluster.unseal(followers[1])
    assert value_of(cluster.leader(), "a") == "before"
    for server in (leader, followers[0]):
        cluster.unseal(server)
    assert value_of(leader, "a") == "before"


def test_the_leader_knows_where_every_servers_api_is(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    nodes = cluster.leader().get("sys/ha-status").data["nodes"]
    assert {n["api_address"] for n in nodes} == {s.address for s in cluster.servers.values()}
    assert [n["active_node"] for n in nodes] == [True, False, False]


def test_kill_of_leaders_loses_no_acknowledged_write(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    writers = [Writer(cluster, f"w{i}-") for i in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(3):
        before = sum(len(w.acknowledged) for w in writers)
        wait_for(lambda before=before: sum(len(w.acknowledged) for w in writers) > before + 50, "writes go on")
        leader = cluster.leader()
        leader.kill()
        leader.start()
        cluster.unseal(leader)
    for writer in writers:
        writer.halt.set()
    for writer in writers:
        writer.join(30)
    leader = cluster.leader()
    for writer in writers:
        for name in writer.acknowledged:
            assert value_of(leader, name) == name


def test_leader_that_is_paused_is_replaced_and_steps_down(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    old = cluster.leader()
    assert put(old, "x", "1") == 200
    old.signal(signal.SIGSTOP)
    others = [s for s in cluster.servers.values() if s is not old]
    wait_for(lambda: any(put(s, "x", "2", timeout=1.0) == 200 for s in others), "another leader takes writes")
    old.signal(signal.SIGCONT)
    for server in cluster.servers.values():
        wait_for(lambda server=server: value_of(server, "x") is not None, "the server answers")
        assert value_of(server, "x") == "2"


def test_snapshot_restored_into_same_and_new_cluster(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader = cluster.leader()
    for number in range(30):
        assert put(leader, f"s{number}", str(number)) == 200
    standby = next(s for s in cluster.servers.values() if s is not leader)
    redirect = standby.get("sys/storage/raft/snapshot")
    assert redirect.status == 307
    assert redirect.headers["location"] == f"{leader.address}/v1/sys/storage/raft/snapshot"
    archive = leader.get("sys/storage/raft/snapshot").body
    for number in range(30):
        assert leader.request("DELETE", f"secret/metadata/s{number}").status == 204
    assert value_of(leader, "s3") is None
    for bad in (b"", b"garbage", archive[: len(archive) // 2], archive[:-1]):
        answer = leader.post("sys/storage/raft/snapshot", bad)
        assert answer.status == 400, answer.body
    assert leader.post("sys/storage/raft/snapshot", archive).status == 204
    for server in cluster.servers.values():
        wait_for(lambda server=server: value_of(server, "s29") == "29", "the restored secrets are there")
        assert [value_of(server, f"s{n}") for n in range(30)] == [str(n) for n in range(30)]

    other = make_cluster(3)
    target = other.leader()
    answer = target.post("sys/storage/raft/snapshot", archive)
    assert answer.status == 400
    assert "could not verify hash file" in answer.json["errors"][0]
    assert target.post("sys/storage/raft/snapshot-force", archive).status == 204
    for server in other.servers.values():
        wait_for(lambda server=server: server.get("sys/seal-status").json["sealed"], "the servers seal")
    other.keys, other.token = cluster.keys, cluster.token
    for server in other.servers.values():
        server.token = cluster.token
        other.unseal(server)
    assert value_of(other.leader(), "s29") == "29"
    for server in other.servers.values():
        server.kill()
        server.start()
        other.unseal(server)
    assert value_of(other.leader(), "s7") == "7"


def test_removed_servers_know_it_and_come_back_after_a_wipe(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    old = cluster.leader()
    assert old.post("sys/storage/raft/remove-peer", {"server_id": "nobody"}).status == 204
    assert set(cluster.configuration()) == {"n1", "n2", "n3"}
    assert old.post("sys/storage/raft/remove-peer", {"server_id": old.node_id}).status == 204
    assert old.node_id not in cluster.configuration()
    wait_for(lambda: old.get("sys/seal-status").json["removed_from_cluster"], "the old leader knows that it is out")
    assert old.get("sys/health").status == 530
    assert old.get("secret/data/x").status in (503, 530)
    again = old.post("sys/storage/raft/join", {"leader_api_addr": cluster.leader().address})
    assert again.status >= 400
    assert "wipe" in again.body.decode()
    old.stop()
    shutil.rmtree(old.data)
    old.start()
    cluster.join(old, cluster.leader())
    cluster.wait_voters(3)


def test_last_voter_cannot_be_removed(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    answer = cluster.leader().post("sys/storage/raft/remove-peer", {"server_id": "n1"})
    assert answer.status == 400
    assert "voter" in answer.json["errors"][0]


def test_a_removal_that_would_leave_no_majority_is_refused(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader = cluster.leader()
    alive, dead = (s for s in cluster.servers.values() if s is not leader)
    dead.kill()
    answer = leader.post("sys/storage/raft/remove-peer", {"server_id": alive.node_id}, timeout=30.0)
    assert answer.status == 400
    reach = "only 1 of 2 voters would be reachable"
    assert answer.json["errors"] == [f"{reach}: bring {dead.node_id} back, or remove it first"]
    assert put(leader, "a", "still served") == 200
    for server in (dead, alive):
        assert leader.post("sys/storage/raft/remove-peer", {"server_id": server.node_id}, timeout=30.0).status == 204
    assert put(leader, "a", "alone") == 200


def test_non_voter_stays_one_and_wrong_shares_leave_the_joiner_joinable(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    leader = cluster.leader()
    server = cluster.add("n2")
    body = {"leader_api_addr": leader.address, "non_voter": True}
    assert server.post("sys/storage/raft/join", body).json == {"joined": True}
    wrong = [base64.b64encode(bytes([n]) * 32 + bytes([n])).decode() for n in (1, 2)]
    assert server.post("sys/unseal", {"key": wrong[0]}).status == 200
    answer = server.post("sys/unseal", {"key": wrong[1]})
    assert answer.status == 400, answer.body
    assert set(cluster.configuration()) == {"n1"}
    cluster.unseal(server)
    wait_for(lambda: "n2" in cluster.configuration(), "the server is a member")
    state = wait_for(lambda: leader.get("sys/storage/raft/autopilot/state").data, "autopilot knows the servers")
    assert state["servers"]["n2"]["node_type"] == "non-voter"
    assert cluster.configuration()["n2"]["voter"] is False
    assert leader.post("sys/storage/raft/promote", {"server_id": "n2"}).status == 204
    cluster.wait_voters(2)


def test_join_of_a_member_of_another_cluster_is_refused(make_cluster: Make) -> None:
    cluster, other = make_cluster(1), make_cluster(1)
    stranger = other.leader()
    stranger.stop()
    stranger.start()
    answer = stranger.post("sys/storage/raft/join", {"leader_api_addr": cluster.leader().address})
    assert answer.status >= 400, answer.body
    assert "wipe" in answer.body.decode()


def test_second_process_on_a_data_directory_refuses(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    server = cluster.leader()
    twin = Server(cluster.folder / "twin", "n1", data=server.data)
    with pytest.raises(AssertionError, match="in use by another holdfast process"):
        twin.start()
    assert twin.ended()
    assert server.get("sys/health").status == 200


def test_a_server_whose_directory_is_gone_stops_and_counts_as_failed(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader = cluster.leader()
    lost = next(s for s in cluster.servers.values() if s is not leader)
    shutil.rmtree(lost.data)
    wait_for(lost.ended, "the server without a disk stops")
    assert "cannot be read any more" in lost.log.read_text()
    assert put(leader, "a", "still works") == 200

    def noticed() -> bool:
        state = leader.get("sys/storage/raft/autopilot/state").data
        return bool(state["failure_tolerance"] == 0 and not state["servers"][lost.node_id]["healthy"])

    wait_for(noticed, "autopilot has noticed", 30)
