# SPDX-License-Identifier: Apache-2.0
"""Partitions between servers in network namespaces: no acknowledged write is lost and no old leader answers a read with old data.

Three servers live in three namespaces on a bridge in a fourth, where the clients are; the addresses exist in these namespaces only.
A cut is a blackhole route. Root is needed; without it the tests are skipped and say so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.harness import LocalCluster, Server, wait_for
from tests.process.test_cluster import Writer, put, value_of

CLONE_NEWNET = 0x40000000
HUB = "10.77.0.254"


def ip(*arguments: str, namespace: str = "") -> None:
    prefix = ["ip", "-n", namespace] if namespace else ["ip"]
    done = subprocess.run([*prefix, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join([*prefix, *arguments])}: {done.stderr.strip()}")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's sockets, and the processes it starts, belong to the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, open(f"/var/run/netns/{namespace}", "rb") as target:
        if libc.setns(target.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                os.abort()  # a test run must not go on in the wrong network


class Network:
    """A bridge and one namespace per server; `close` removes everything whatever happened."""

    def __init__(self, count: int) -> None:
        self.hub = f"hf{os.getpid()}hub"
        self.names = {f"n{i}": f"hf{os.getpid()}n{i}" for i in range(1, count + 1)}
        self.addresses = {f"n{i}": f"10.77.0.{i}" for i in range(1, count + 1)}
        try:
            for name in (self.hub, *self.names.values()):
                ip("netns", "add", name)
                ip("link", "set", "lo", "up", namespace=name)
            ip("link", "add", "br0", "type", "bridge", namespace=self.hub)
            ip("addr", "add", f"{HUB}/24", "dev", "br0", namespace=self.hub)
            ip("link", "set", "br0", "up", namespace=self.hub)
            for node_id, name in self.names.items():
                port = f"p-{node_id}"
                ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name, namespace=self.hub)
                ip("link", "set", port, "master", "br0", "up", namespace=self.hub)
                ip("addr", "add", f"{self.addresses[node_id]}/24", "dev", "eth0", namespace=name)
                ip("link", "set", "eth0", "up", namespace=name)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for name in (*self.names.values(), self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def cut(self, source: str, target: str) -> None:
        """Nothing from `source` reaches `target` any more."""
        ip("route", "add", "blackhole", f"{self.addresses[target]}/32", namespace=self.names[source])

    def isolate(self, one: str) -> None:
        for other in self.names:
            if other != one:
                self.cut(one, other)
                self.cut(other, one)

    def heal(self) -> None:
        for name in self.names.values():
            for address in self.addresses.values():
                with contextlib.suppress(OSError):
                    ip("route", "del", "blackhole", f"{address}/32", namespace=name)


class FarServer(Server):
    """A server in a namespace of its own."""

    def __init__(self, folder: Path, node_id: str, network: Network, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(folder, node_id, None, tls)
        self._namespace = network.names[node_id]
        address = network.addresses[node_id]
        self.address = self.address.replace("127.0.0.1", address)
        self.config.write_text(self.config.read_text().replace("127.0.0.1", address))

    def start(self) -> None:
        with inside(self._namespace):
            super().start()
        self._pool.clear()  # its connection came from inside


class FarCluster(LocalCluster):
    def __init__(self, folder: Path, network: Network, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(folder, tls)
        self.network = network

    def add(self, node_id: str, data: Path | None = None) -> Server:
        server = self.servers[node_id] = FarServer(self.folder / node_id, node_id, self.network, self.tls)
        server.token = self.token
        server.start()
        return server


class FarWriter(Writer):
    cluster: FarCluster

    def run(self) -> None:
        with inside(self.cluster.network.hub):
            super().run()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarCluster]:
    try:
        network = Network(3)
        with inside(network.hub):
            pass
    except (OSError, FileNotFoundError) as error:
        pytest.skip(f"network namespaces cannot be made here (root and iproute2 needed): {error}")
    made = FarCluster(tmp_path_factory.mktemp("far"), network)
    try:
        with inside(network.hub):
            made.build(3)
            made.mount()
            yield made
    finally:
        made.close()
        network.close()


@pytest.fixture
def load(cluster: FarCluster) -> Iterator[list[FarWriter]]:
    """Writers all the while; at the end the network is whole and every acknowledged write must be readable everywhere."""
    writers = [FarWriter(cluster, f"{os.urandom(3).hex()}-{i}-") for i in range(2)]
    for writer in writers:
        writer.start()
    wait_for(lambda: all(len(w.acknowledged) > 5 for w in writers), "there is load")
    yield writers
    cluster.network.heal()
    before = sum(len(w.acknowledged) for w in writers)
    wait_for(lambda: sum(len(w.acknowledged) for w in writers) > before + 10, "writes go on after healing", 30)
    for writer in writers:
        writer.halt.set()
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive()
    for server in cluster.servers.values():
        wait_for(lambda server=server: value_of(server, "probe") is not None, "the server answers", 30)  # type: ignore[misc]
        for writer in writers:
            for name in writer.acknowledged:
                assert value_of(server, name) == name, f"{name} is lost at {server.node_id}"


class Reader(threading.Thread):
    """Reads `probe` from one server as fast as it answers, and notes what was read when."""

    def __init__(self, cluster: FarCluster, server: Server) -> None:
        super().__init__(daemon=True)
        self.cluster, self.server = cluster, server
        self.newest = ""  # set by the test once a write is acknowledged
        self.stale: list[tuple[str, str]] = []
        self.answers = 0
        self.halt = threading.Event()

    def run(self) -> None:
        with inside(self.cluster.network.hub):
            while not self.halt.is_set():
                wanted = self.newest  # acknowledged before this read begins
                answer = self.server.get("secret/data/probe", timeout=15)
                if answer.status == 200:
                    self.answers += 1
                    value = answer.data["data"]["v"]
                    if value < wanted:
                        self.stale.append((value, wanted))


def new_leader(cluster: FarCluster, old: Server, value: str) -> Server:
    others = [s for s in cluster.servers.values() if s is not old]
    found: Server = wait_for(
        lambda: next((s for s in others if put(s, "probe", value, timeout=2.0) == 200), None),
        "another leader takes over",
    )
    return found


def test_an_isolated_leader_acknowledges_nothing_and_reads_nothing_old(
    cluster: FarCluster, load: list[FarWriter]
) -> None:
    old = cluster.leader()
    assert put(old, "probe", "1") == 200
    reader = Reader(cluster, old)
    reader.newest = "1"
    reader.start()
    wait_for(lambda: reader.answers > 5, "reads are answered")
    cluster.network.isolate(old.node_id)
    new_leader(cluster, old, "2")
    reader.newest = "2"
    assert put(old, "only-here", "x", timeout=20) != 200
    wait_for(lambda: old.get("sys/health", timeout=2).status != 200, "the old leader steps down")
    assert old.get("secret/data/probe", timeout=20).status != 200
    cluster.network.heal()
    wait_for(lambda: value_of(old, "probe") == "2", "the old leader knows the new state", 30)
    reader.halt.set()
    reader.join(30)
    assert reader.stale == []
    assert value_of(old, "only-here") in (None, "x")  # its outcome was unknown; everybody must agree
    assert len({value_of(s, "only-here") for s in cluster.servers.values()}) == 1


@pytest.mark.parametrize("outgoing", [True, False], ids=["cannot-send", "cannot-hear"])
def test_a_leader_cut_off_one_way_is_replaced(cluster: FarCluster, load: list[FarWriter], outgoing: bool) -> None:
    old = cluster.leader()
    assert put(old, "probe", "3") == 200
    reader = Reader(cluster, old)
    reader.newest = "3"
    reader.start()
    for other in cluster.servers:
        if other != old.node_id:
            cluster.network.cut(*((old.node_id, other) if outgoing else (other, old.node_id)))
    new_leader(cluster, old, "4")
    reader.newest = "4"
    wait_for(lambda: old.get("sys/health", timeout=2).status != 200, "the old leader steps down")
    cluster.network.heal()
    wait_for(lambda: value_of(old, "probe") == "4", "the old leader knows the new state", 30)
    reader.halt.set()
    reader.join(30)
    assert reader.stale == []


def test_one_server_that_sees_both_sides_keeps_the_cluster_going(cluster: FarCluster, load: list[FarWriter]) -> None:
    leader = cluster.leader()
    other = next(s for s in cluster.servers.values() if s is not leader)
    cluster.network.cut(leader.node_id, other.node_id)
    cluster.network.cut(other.node_id, leader.node_id)
    before = sum(len(w.acknowledged) for w in load)
    wait_for(lambda: sum(len(w.acknowledged) for w in load) > before + 15, "writes go on", 30)
    term = _term(cluster)
    wait_for(lambda: sum(len(w.acknowledged) for w in load) > before + 40, "writes go on", 30)
    assert _term(cluster) == term  # nobody is deposed again and again by the one that hears no leader
    assert put(cluster.leader(), "probe", "5") == 200


def _term(cluster: FarCluster) -> int:
    servers = cluster.leader().get("sys/storage/raft/autopilot/state").data["servers"]
    return int(max(s["last_term"] for s in servers.values()))
