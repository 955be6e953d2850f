# SPDX-License-Identifier: Apache-2.0
"""Whole-system figures of a local cluster of three (TLS for clients, mTLS between servers, fdatasync on).

`python bench/bench.py [--seconds N] [--only NAME,…]`, run by `make bench`. Load comes from `wrk -t1` on the same machine, so look at
ratios within one run, not at absolute figures. With `BAO_BIN` naming a real `bao`, the same work is done on it in the same run.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "node"))

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.process.harness import LocalCluster, Server, wait_for

VALUE = "x" * 1024


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1: (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "api.crt", folder / "api.key"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret


def wrk(server: Server, connections: int, seconds: int, script: str, folder: Path) -> dict[str, float]:
    """Run wrk; requests per second and latencies in ms."""
    path = folder / "wrk.lua"
    path.write_text(script)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(path), server.address]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {"rps": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])}  # type: ignore[index]
    for name in ("50", "99"):
        number, unit = re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr]
        found["p" + name] = float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    found["errors"] = float(bad[1]) if bad else 0.0
    return found


def lua(token: str, path: str, write: bool) -> str:
    """A wrk script that reads or writes keys below `path`."""
    body = json.dumps({"data": {"v": VALUE}} if "/data/" in path else {"v": VALUE})
    method = "POST" if write else "GET"
    return f"""
local n = 0
request = function()
  n = n + 1
  return wrk.format("{method}", "/v1/{path}" .. (n % 1000), {{["X-Vault-Token"] = "{token}"}}, {f"'{body}'" if write else "nil"})
end
"""


def memory(server: Server) -> int:
    """Resident MiB."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


def processor_time(server: Server) -> float:
    """Seconds of processor time that a server has used; steadier than rates on a machine that others use too."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """One cluster and its table of results."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self.folder = folder
        self.seconds = seconds
        self.cluster = LocalCluster(folder, certificate(folder))
        self.rows: list[tuple[str, str]] = []

    def row(self, name: str, value: str) -> None:
        print(f"  {name}: {value}", flush=True)
        self.rows.append((name, value))

    def build(self) -> None:
        started = time.monotonic()
        first = self.cluster.add("n1")
        self.row("process start until it answers", f"{time.monotonic() - started:.2f} s")
        first.stop()
        shutil.rmtree(first.folder)
        started = time.monotonic()
        self.cluster = LocalCluster(self.folder / "c", self.cluster.tls)
        self.cluster.build(2)
        third = self.cluster.add("n3")
        joining = time.monotonic()
        self.cluster.join(third, self.cluster.leader())
        self.row("join of a third server until unsealed", f"{time.monotonic() - joining:.2f} s")
        self.cluster.wait_voters(3)
        self.row("three servers built", f"{time.monotonic() - started:.2f} s")
        self.row("memory idle", " / ".join(f"{memory(s)} MiB" for s in self.cluster.servers.values()))
        self.cluster.mount()
        assert self.cluster.leader().post("sys/mounts/kv1", {"type": "kv"}).status == 204

    def load(self) -> None:
        leader = self.cluster.leader()
        for path in ("kv1/", "secret/data/"):
            for number in range(1000):
                body = {"data": {"v": VALUE}} if "data" in path else {"v": VALUE}
                assert leader.post(f"{path}{number}", body).status in (200, 204)
        for path, kind in (("secret/data/", "kv2"), ("kv1/", "kv1")):
            for write in (False, True):
                for connections in (1, 64):
                    script = lua(self.cluster.token, path, write)
                    before = processor_time(leader)
                    got = wrk(leader, connections, self.seconds, script, self.folder)
                    used = (processor_time(leader) - before) / max(1.0, got["rps"] * self.seconds)
                    verb = "write" if write else "read"
                    text = f"{got['rps']:,.0f}/s p50 {got['p50']:.2f} ms p99 {got['p99']:.1f} ms, {used * 1e6:.0f} µs of processor"
                    self.row(f"{kind} {verb}, {connections} connection(s)", text + (" ERRORS" if got["errors"] else ""))
        self.row("memory after load", " / ".join(f"{memory(s)} MiB" for s in self.cluster.servers.values()))

    def snapshot(self) -> None:
        leader = self.cluster.leader()
        started = time.monotonic()
        archive = leader.get("sys/storage/raft/snapshot", timeout=300.0).body
        took = time.monotonic() - started
        self.row(f"snapshot save, {len(archive) / 1e6:.0f} MB", f"{took:.2f} s")
        copy = self.folder / "archive"
        copy.write_bytes(archive)
        started = time.monotonic()
        subprocess.run(["sh", "-c", f"cp {copy} {copy}.2 && sha256sum {copy}.2 >/dev/null"], check=True)
        self.row("cp and sha256sum of it", f"{time.monotonic() - started:.2f} s")
        started = time.monotonic()
        answer = leader.post("sys/storage/raft/snapshot", archive, timeout=300.0)
        assert answer.status == 204, answer.body
        wait_for(lambda: leader.get("secret/data/1").status == 200, "the secrets are back")
        self.row("snapshot restore until visible", f"{time.monotonic() - started:.2f} s")

    def failover(self) -> None:
        times = []
        for _ in range(5):
            leader = self.cluster.leader()
            others = [s for s in self.cluster.servers.values() if s is not leader]
            leader.kill()
            times.append(self._until_written(others))
            leader.start()
            self.cluster.unseal(leader)
            self.cluster.wait_voters(3)
        self.row("failover after kill -9", self._spread(times))
        leader = self.cluster.leader()
        others = [s for s in self.cluster.servers.values() if s is not leader]
        started = time.monotonic()
        assert leader.process is not None
        leader.process.terminate()
        took = self._until_written(others, started)
        leader.process.wait(20)
        leader.start()
        self.cluster.unseal(leader)
        self.row("failover after SIGTERM", f"{took:.2f} s")

    @staticmethod
    def _until_written(servers: list[Server], started: float | None = None) -> float:
        started = started or time.monotonic()
        while True:
            for server in servers:
                if server.post("secret/data/failover", {"data": {"v": "1"}}, timeout=1.0).status == 200:
                    return time.monotonic() - started

    @staticmethod
    def _spread(times: list[float]) -> str:
        return f"median {statistics.median(times):.2f} s, max {max(times):.2f} s"

    def restart(self) -> None:
        for server in self.cluster.servers.values():
            server.kill()
        started = time.monotonic()
        for server in self.cluster.servers.values():
            server.start()
        for server in self.cluster.servers.values():
            self.cluster.unseal(server)
        took = self._until_written(list(self.cluster.servers.values()), started)
        self.row("all three killed and restarted until a write succeeds", f"{took:.2f} s")


def main() -> int:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", default="")
    options: Any = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: apt-get install wrk", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.seconds)
        try:
            print("holdfast, three servers on this machine:")
            bench.build()
            for step in ("load", "snapshot", "failover", "restart"):
                if not options.only or step in options.only.split(","):
                    getattr(bench, step)()
        finally:
            bench.cluster.close()
        print("\n| work | holdfast |\n|---|---|")
        for work, value in bench.rows:
            print(f"| {work} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
