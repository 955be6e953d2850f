# SPDX-License-Identifier: Apache-2.0
"""Clusters for the fault tests, and what is done to them."""

from __future__ import annotations

import ipaddress
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.faults.client import MOUNTS, Load
from tests.faults.judge import TOTALS
from tests.faults.shim import Shim
from tests.process.harness import LocalCluster, Server, wait_for


def certificate(folder: Path, addresses: list[str]) -> tuple[Path, Path]:
    """Certificate and key of the API at these addresses, self-signed, valid for a month before and after now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(a)) for a in addresses])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "api.crt", folder / "api.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*encoding))
    return paths


def mount_both(cluster: LocalCluster) -> None:
    """kv version 1 and 2."""
    for version, path in MOUNTS.items():
        answer = cluster.leader().post(f"sys/mounts/{path}", {"type": "kv", "options": {"version": version}})
        assert answer.status == 204, answer.body


def configure(server: Server, options: dict[str, Any]) -> None:
    """Set options of storage "raft" of a server that does not run yet."""
    config = json.loads(server.config.read_text())
    config["storage"]["raft"] |= options
    server.config.write_text(json.dumps(config))


class FaultCluster(LocalCluster):
    """Servers with a shim each, when there is a library of it."""

    def __init__(
        self,
        folder: Path,
        tls: tuple[Path, Path],
        library: Path | None,
        rates: dict[str, float] | None = None,
        data: dict[str, Path] | None = None,
        raft: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, tls)
        self._raft = raft or {}  # options of storage "raft"
        self._data = data or {}  # directories elsewhere, by server
        self._library = library
        self._rates = rates or {}  # of the clocks: percent too fast, by server
        self.shims: dict[str, Shim] = {}

    def add(self, node_id: str, data: Path | None = None) -> Server:
        data = data or self._data.get(node_id)
        server = self.servers[node_id] = Server(self.folder / node_id, node_id, data, self.tls)
        configure(server, self._raft)
        if self._library is not None:
            shim = self.shims[node_id] = Shim(self._library, server.folder / "faults", server.data / "raft")
            shim.rate(self._rates.get(node_id, 0.0))
            server.environment = shim.environment()
        server.token = self.token
        server.start()
        return server

    def mount(self) -> None:
        mount_both(self)

    def followers(self) -> list[Server]:
        leader = self.leader()
        return [s for s in self.servers.values() if s is not leader]


def kill(*servers: Server) -> None:
    """kill -9, all at the same moment."""
    for server in servers:
        server.signal(signal.SIGKILL)
        TOTALS.faults += 1
    for server in servers:
        assert server.process is not None
        server.process.wait()


def restart(cluster: LocalCluster, *servers: Server) -> None:
    """Start what is down, then unseal it."""
    for server in servers:
        server.start()
    for server in servers:
        cluster.unseal(server)


def pause(server: Server) -> None:
    """SIGSTOP."""
    server.signal(signal.SIGSTOP)
    TOTALS.faults += 1


def resume(server: Server) -> None:
    """SIGCONT."""
    server.signal(signal.SIGCONT)


def another_leads(cluster: LocalCluster, old: Server) -> Server:
    """Wait until one that is not `old` leads."""

    def find() -> Server | None:
        others = [s for s in cluster.running() if s is not old]
        return next((s for s in others if s.get("sys/health", timeout=1.0).status == 200), None)

    found: Server = wait_for(find, "another server leads", 40)
    return found


def sleep_and_answer(load: Load, old: Server, asleep: Callable[[], None] = lambda: None) -> None:
    """The leader sleeps; others write. Reads that reach it meanwhile are the first thing it sees when it wakes.

    It believes for a moment that it still leads; the reads are part of the history. `asleep` is done as soon as it sleeps.
    """
    readers = [load.client(f"patient{n}", timeout=20.0) for n in range(6)]
    with load.enter():
        for number, reader in enumerate(readers):
            reader.look(old, number)  # the connection is there before it sleeps
        pause(old)
        asleep()
        another_leads(load.cluster, old)
        load.progress(30)
        with ThreadPoolExecutor(len(readers)) as pool:

            def read(number: int) -> None:
                with load.enter():
                    readers[number].look(old, number)

            waiting = [pool.submit(read, number) for number in range(len(readers))]
            time.sleep(0.1)  # they are sent, to a process that does not run
            resume(old)
            for future in waiting:
                future.result()
    for reader in readers:
        reader.close()


def term(cluster: LocalCluster) -> int:
    """The highest term of the last entries of all servers."""
    servers = wait_for(
        lambda: cluster.leader().get("sys/storage/raft/autopilot/state", timeout=5.0).data.get("servers"),
        "autopilot knows the servers",
    )
    return int(max(s["last_term"] for s in servers.values()))
