# SPDX-License-Identifier: Apache-2.0
"""Full disks, damaged files, kills at bad moments: nothing acknowledged is lost, and every refusal is a sentence."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast.consensus import recovery, wal
from holdfast.consensus.disk import FileDisk
from holdfast.consensus.replica import SEGMENT
from holdfast.consensus.types import REGULAR
from holdfast.state import files
from holdfast.state.machine import State
from tests.process.harness import Answer, LocalCluster, Server, free_ports, wait_for
from tests.process.test_cluster import Writer, put, value_of

Make = Callable[[int], LocalCluster]
BIG = "v" * 500_000


def state_on_disk(server: Server) -> tuple[int, Callable[[int], dict[str, tuple[bytes, int]]]]:
    """(commit index, the state up to a given index) as the data directory of a stopped server says."""
    disk = FileDisk(server.data / "raft")
    recovered = recovery.recover(disk, SEGMENT)[1]
    disk.close()

    def at(index: int) -> dict[str, tuple[bytes, int]]:
        state, base = State(), 1
        if recovered.snapshot is not None:
            state = State.load(files.read(server.data / "raft" / recovered.snapshot.file))
            base = recovered.snapshot.index
        assert base <= index
        for entry in recovered.entries[1:]:
            if base < entry.index <= index and entry.command[0] == REGULAR:
                state.apply(entry.index, entry.command[1:])
        return dict(state.freeze())

    return recovered.commit, at


def assert_same_states(cluster: LocalCluster) -> None:
    """Stop all servers; their disks must hold the same state."""
    for server in cluster.servers.values():
        assert server.stop() == 0
    found = [state_on_disk(server) for server in cluster.servers.values()]
    index = min(commit for commit, _ in found)
    states = [at(index) for _, at in found]
    assert all(state == states[0] for state in states)
    assert states[0]


def read_all(server: Server, names: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for name, value in zip(names, pool.map(lambda name: value_of(server, name), names), strict=True):
            assert value == name, f"acknowledged write {name} is lost at {server.node_id}"


# --- full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0700", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"cannot mount a small file system here (root needed): {tried.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


class DiskCluster(LocalCluster):
    """Some servers' data lies elsewhere."""

    def __init__(self, folder: Path, data: dict[str, Path]) -> None:
        super().__init__(folder)
        self._data = data

    def add(self, node_id: str, data: Path | None = None) -> Server:
        return super().add(node_id, data or self._data.get(node_id))


@pytest.fixture
def make_disk_cluster(tmp_path: Path) -> Iterator[Callable[[dict[str, Path], int], DiskCluster]]:
    made: list[DiskCluster] = []

    def build(data: dict[str, Path], count: int) -> DiskCluster:
        cluster = DiskCluster(tmp_path / "cluster", data)
        made.append(cluster)
        cluster.build(count)
        cluster.mount()
        return cluster

    yield build
    for cluster in made:
        cluster.close()


def ballast(mount: Path) -> Path:
    """Leave no room at all."""
    path = mount / "ballast"
    free = os.statvfs(mount)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    return path


def refused(answer: Answer) -> bool:
    if answer.status == 200:
        return False
    assert answer.status in (503, 507), answer.body
    assert "the disk is nearly full: writes are refused until there is room" in answer.json["errors"][0]
    return True


def test_full_disk_refuses_writes_and_recovers(
    make_disk_cluster: Callable[[dict[str, Path], int], DiskCluster], small_disk: Path
) -> None:
    cluster = make_disk_cluster({"n1": small_disk / "data"}, 1)
    server = cluster.leader()
    assert put(server, "before", "before") == 200
    filler = ballast(small_disk)
    wait_for(lambda: refused(server.post("secret/data/no", {"data": {"v": "no"}})), "writes are refused")
    assert value_of(server, "before") == "before"
    assert server.get("sys/health").status == 200
    filler.unlink()
    wait_for(lambda: put(server, "after", "after") == 200, "writes go on when there is room")

    # Fast writers fill the disk with data: the server must stop taking them before the journal hits the wall.
    acknowledged: list[str] = []
    full = threading.Event()

    def fill(worker: int) -> None:
        for number in range(200):
            name = f"w{worker}-{number}"
            answer = server.post(f"secret/data/{name}", {"data": {"v": name, "fill": BIG}})
            if answer.status == 200:
                acknowledged.append(name)
            elif answer.status == 0 or refused(answer):
                full.set()
            if full.is_set():
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(8)))
    assert full.is_set()
    assert not server.ended(), server.log.read_text()[-2000:]
    assert len(acknowledged) > 20
    read_all(server, [*acknowledged, "before", "after"])

    filler = ballast(small_disk)
    server.kill()
    server.start()  # a full disk does not keep a server from starting
    cluster.unseal(server)
    wait_for(lambda: server.get("sys/health").status == 200, "the server leads")
    read_all(server, [*acknowledged, "before", "after"])
    filler.unlink()


def test_a_follower_with_a_full_disk_holds_nobody_up_and_catches_up(
    make_disk_cluster: Callable[[dict[str, Path], int], DiskCluster], small_disk: Path
) -> None:
    cluster = make_disk_cluster({"n3": small_disk / "data"}, 3)
    leader, follower = cluster.leader(), cluster.servers["n3"]
    assert leader is not follower
    filler = ballast(small_disk)
    names = [f"f{n}" for n in range(40)]
    for name in names:
        wait_for(lambda name=name: put(leader, name, name) == 200, "the two others take writes")  # type: ignore[misc]
    assert not follower.ended()

    def counted_out() -> bool:
        return bool(leader.get("sys/storage/raft/autopilot/state").data["failure_tolerance"] == 0)

    wait_for(counted_out, "a follower that takes no entries counts as failed")
    filler.unlink()

    def caught_up() -> bool:
        servers = leader.get("sys/storage/raft/autopilot/state").data["servers"]
        return bool(servers["n3"]["last_index"] >= servers[leader.node_id]["last_index"])

    wait_for(caught_up, "the follower has everything")
    assert_same_states(cluster)


# --- damage ---


def test_a_damaged_journal_keeps_the_server_from_starting(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    cluster.mount()
    server = cluster.leader()
    assert put(server, "a", "1") == 200
    assert server.stop() == 0
    segment = server.data / "raft" / wal.segment_name(1)
    content = bytearray(segment.read_bytes())
    content[400] ^= 0x10
    segment.write_bytes(content)
    server.log.write_bytes(b"")
    with pytest.raises(AssertionError):
        server.start()
    assert server.process is not None
    assert server.process.wait(10) == 1
    said = [line for line in server.log.read_text().splitlines() if line.startswith("Error:")]
    assert len(said) == 1
    assert segment.name in said[0]
    assert "offset" in said[0]
    assert "wipe this server and join it again" in said[0]
    assert "Traceback" not in server.log.read_text()
    content[400] ^= 0x10
    segment.write_bytes(content)
    server.start()
    cluster.unseal(server)
    assert value_of(cluster.leader(), "a") == "1"


# --- kills ---


def test_kills_during_a_restore_leave_the_old_state_or_the_new_one(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader = cluster.leader()
    for number in range(50):
        assert leader.post(f"secret/data/r{number}", {"data": {"v": str(number), "fill": BIG}}).status == 200
    archive = leader.get("sys/storage/raft/snapshot").body
    assert put(leader, "marker", "later") == 200
    for victim_leads in (False, True):
        leader = cluster.leader()
        victim = leader if victim_leads else next(s for s in cluster.servers.values() if s is not leader)
        others = [s for s in cluster.servers.values() if s is not leader]
        seen = {s.node_id: set(os.listdir(s.data / "raft")) for s in others}
        restore = threading.Thread(target=leader.post, args=("sys/storage/raft/snapshot", archive), daemon=True)
        restore.start()

        def begun(others: list[Server] = others, seen: dict[str, set[str]] = seen) -> bool:
            new = {n for s in others for n in set(os.listdir(s.data / "raft")) - seen[s.node_id]}
            return any("restore-" in name for name in new)

        wait_for(begun, "the file is on its way to the members", 60)
        victim.kill()
        restore.join(60)
        assert not restore.is_alive()
        victim.start()
        cluster.unseal(victim)
        now = cluster.leader()
        wait_for(lambda now=now: now.get("secret/data/r49").status == 200, "the cluster serves")  # type: ignore[misc]
        assert value_of(now, "marker") in ("later", None)
        assert [value_of(now, f"r{n}") for n in range(50)] == [str(n) for n in range(50)]
        if not victim_leads:
            assert put(now, "marker", "later") == 200
    leader = cluster.leader()
    answer = leader.post("sys/storage/raft/snapshot", archive, timeout=60)
    assert answer.status == 204, answer.body
    for server in cluster.servers.values():
        wait_for(lambda server=server: server.get("secret/data/r0").status == 200, "the server answers")  # type: ignore[misc]
        assert value_of(server, "marker") is None
        assert value_of(server, "r49") == "49"


def test_without_a_majority_writes_are_refused_in_bounded_time(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader = cluster.leader()
    assert put(leader, "a", "1") == 200
    followers = [s for s in cluster.servers.values() if s is not leader]
    for server in followers:
        server.kill()
    answer = leader.post("secret/data/a", {"data": {"v": "2"}}, timeout=20)
    assert answer.status >= 500, answer.body
    assert answer.json["errors"]
    assert wait_for(lambda: leader.get("sys/health", timeout=5).status in (429, 503, 473, 472), "it no longer leads")
    read = leader.get("secret/data/a", timeout=20)
    assert read.status >= 500, "a read without a majority may be stale"
    for server in followers:
        server.start()
    wait_for(lambda: leader.get("sys/health").status == 200, "the unsealed server leads again")
    assert value_of(leader, "a") in ("1", "2")
    assert put(leader, "b", "3") == 200
    for server in followers:
        cluster.unseal(server)
        assert value_of(server, "b") == "3"


def test_a_server_that_missed_a_compaction_catches_up_by_snapshot(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    leader, late = cluster.leader(), cluster.servers["n3"]
    assert leader is not late
    assert put(leader, "early", "early") == 200
    late.kill()

    def write(number: int) -> None:
        # On a busy machine leadership may move in between: written is what was acknowledged.
        body = {"data": {"v": f"c{number}", "fill": BIG}}
        wait_for(lambda: leader.post(f"secret/data/c{number}", body).status == 200, "the write is acknowledged", 60)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(150)))
    wait_for(lambda: list((leader.data / "raft").glob("snap-*.state")), "the leader has compacted its log")
    first = min(p.name for p in (leader.data / "raft").glob("wal-*"))
    wait_for(
        lambda: min(p.name for p in (leader.data / "raft").glob("wal-*")) >= first != wal.segment_name(1),
        "old log goes",
    )
    late.start()
    cluster.unseal(late)
    wait_for(lambda: list((late.data / "raft").glob("snap-*.state")), "the snapshot has arrived")

    def caught_up() -> bool:
        state = leader.get("sys/storage/raft/autopilot/state").data
        servers = state["servers"]
        return bool(servers["n3"]["last_index"] >= servers[state["leader"]]["last_index"])

    def late_leads() -> bool:
        if late.get("sys/health").status == 200:
            return True
        leader.request("PUT", "sys/step-down")
        return False

    wait_for(caught_up, "the late server has everything")
    wait_for(late_leads, "the late server leads", 60)
    read_all(late, ["early", *(f"c{n}" for n in range(150))])
    assert_same_states(cluster)


def test_kill_of_all_servers_under_load_loses_nothing(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    names: list[str] = []
    for turn in range(2):
        writers = [Writer(cluster, f"all{turn}-{i}-") for i in range(4)]
        for writer in writers:
            writer.start()
        wait_for(lambda writers=writers: sum(len(w.acknowledged) for w in writers) > 150, "there is load")  # type: ignore[misc]
        for server in cluster.servers.values():
            server.signal(signal.SIGKILL)
        for writer in writers:
            writer.halt.set()
        for writer in writers:
            writer.join(30)
            names += writer.acknowledged
        for server in cluster.servers.values():
            assert server.process is not None
            server.process.wait()
            server.start()
        for server in cluster.servers.values():
            cluster.unseal(server)
        cluster.leader()
        for server in cluster.servers.values():
            wait_for(lambda server=server, name=names[0]: value_of(server, name) is not None, "the server answers")  # type: ignore[misc]
            read_all(server, names)
    assert_same_states(cluster)


def test_sigterm_of_the_leader_hands_over(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.mount()
    writers = [Writer(cluster, f"term-{i}-") for i in range(2)]
    for writer in writers:
        writer.start()
    wait_for(lambda: all(len(w.acknowledged) > 20 for w in writers), "there is load")
    old = cluster.leader()
    others = [s for s in cluster.servers.values() if s is not old]
    assert old.stop() == 0
    assert "leadership was not handed over" not in old.log.read_text()
    # It was handed over before the process ended: nobody has to wait for an election time-out.
    assert wait_for(lambda: any(put(s, "next", "1", timeout=1.0) == 200 for s in others), "writes go on", 3.0)
    before = sum(len(w.acknowledged) for w in writers)
    wait_for(lambda: sum(len(w.acknowledged) for w in writers) > before + 20, "the writers go on")
    for writer in writers:
        writer.halt.set()
    for writer in writers:
        writer.join(30)
        read_all(cluster.leader(), writer.acknowledged)


# --- joining through TLS that cannot be trusted ---


def _certificate(folder: Path, days: int) -> tuple[Path, Path]:
    """Certificate and key of an API server at 127.0.0.1, self-signed."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    end = datetime.now(UTC) + timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=30))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{days}.crt", folder / f"{days}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*encoding))
    return paths


@pytest.fixture
def expired_server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address, certificate PEM) of something that speaks TLS with an expired certificate."""
    import socket

    certificate, key = _certificate(tmp_path, -2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    port = free_ports(1)[0]
    listener = socket.create_server(("127.0.0.1", port))
    halt = threading.Event()

    def serve() -> None:
        while not halt.is_set():
            try:
                raw, _ = listener.accept()
                context.wrap_socket(raw, server_side=True).close()
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{port}", certificate.read_text()
    halt.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_a_join_through_untrusted_tls_says_why(tmp_path: Path, expired_server: tuple[str, str]) -> None:
    address, expired = expired_server
    (tmp_path / "other").mkdir()
    good, foreign = _certificate(tmp_path, 20), _certificate(tmp_path / "other", 20)
    secure = LocalCluster(tmp_path / "secure", good)
    plain = LocalCluster(tmp_path / "plain")
    try:
        secure.build(1)
        joiner = plain.add("n2")
        for target, ca, reason in (
            (secure.leader().address, foreign[0].read_text(), "certificate"),
            (secure.leader().address, "", "certificate"),
            (address, expired, "expired"),
        ):
            body = {"leader_api_addr": target, "leader_ca_cert": ca} if ca else {"leader_api_addr": target}
            answer = joiner.post("sys/storage/raft/join", body)
            assert answer.status == 500, answer.body
            said = answer.json["errors"][0]
            assert said.startswith("failed to join raft cluster: failed to get raft challenge")
            assert target in said
            assert reason in said.lower()
        body = {"leader_api_addr": secure.leader().address, "leader_ca_cert": good[0].read_text()}
        assert joiner.post("sys/storage/raft/join", body).json == {"joined": True}  # it is still joinable
    finally:
        secure.close()
        plain.close()
