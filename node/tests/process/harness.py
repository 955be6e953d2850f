# SPDX-License-Identifier: Apache-2.0
"""Real server processes on loopback: start, kill, pause, and talk to them as a client would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

SOURCE = Path(__file__).parents[2] / "src"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """Poll until `condition()` is true and return its value; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"timed out waiting until {what}")
        time.sleep(0.03)


class Answer:
    """Status, headers and body of an answer; status 0 when there was none."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers or {}

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def data(self) -> Any:
        return self.json.get("data") or {}


class Server:
    """One holdfast process."""

    def __init__(
        self, folder: Path, node_id: str, data: Path | None = None, tls: tuple[Path, Path] | None = None
    ) -> None:
        self.node_id = node_id
        self.folder = folder
        self.data = data or folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        self.api_port, self.cluster_port = free_ports(2)
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.api_port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.token = ""
        self.environment: dict[str, str] = {}  # beside this process's own
        self.config = folder / "config.json"
        self.log = folder / "log"
        trust = {"ca_certs": str(tls[0])} if tls else {}
        self._pool = urllib3.PoolManager(maxsize=32, retries=False, **trust)
        listener: dict[str, Any] = {
            "address": f"127.0.0.1:{self.api_port}",
            "cluster_address": f"127.0.0.1:{self.cluster_port}",
        }
        if tls:
            listener |= {"tls_cert_file": str(tls[0]), "tls_key_file": str(tls[1])}
        else:
            listener["tls_disable"] = True
        self.config.write_text(
            json.dumps(
                {
                    "storage": {"raft": {"path": str(self.data), "node_id": node_id}},
                    "listener": {"tcp": listener},
                    "api_addr": self.address,
                    "cluster_addr": f"https://127.0.0.1:{self.cluster_port}",
                }
            )
        )

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast", "server", f"-config={self.config}"],
                stdout=log,
                stderr=log,
                env=environment,
            )
        wait_for(lambda: self.get("sys/seal-status").status == 200 or self.ended(), f"{self.node_id} answers")
        assert not self.ended(), self.log.read_text()[-2000:]

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def request(
        self, method: str, path: str, body: Any = None, token: str | None = None, timeout: float = 30.0
    ) -> Answer:
        headers = {"X-Vault-Request": "true"}
        if token or (token is None and self.token):
            headers["X-Vault-Token"] = token or self.token
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            answer = self._pool.request(
                method, f"{self.address}/v1/{path}", body=data, headers=headers, redirect=False, timeout=timeout
            )
        except urllib3.exceptions.HTTPError:
            return Answer(0, b"")
        return Answer(answer.status, answer.data, {k.lower(): v for k, v in answer.headers.items()})

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return self.request("POST", path, body, **more)


class LocalCluster:
    """Servers that form one cluster; shares and root token are kept here."""

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None) -> None:
        self.folder = folder
        self.tls = tls
        self.servers: dict[str, Server] = {}
        self.keys: list[str] = []
        self.threshold = 2
        self.token = ""

    def add(self, node_id: str, data: Path | None = None) -> Server:
        server = self.servers[node_id] = Server(self.folder / node_id, node_id, data, self.tls)
        server.token = self.token
        server.start()
        return server

    def build(self, count: int = 3) -> LocalCluster:
        first = self.add("n1")
        answer = first.post("sys/init", {"secret_shares": 3, "secret_threshold": self.threshold})
        assert answer.status == 200, answer.body
        self.keys, self.token = answer.json["keys"], answer.json["root_token"]
        first.token = self.token
        self.unseal(first)
        wait_for(lambda: first.get("sys/health").status == 200, "the first server leads")
        for number in range(2, count + 1):
            self.join(self.add(f"n{number}"), first)
        self.wait_voters(count)
        return self

    def unseal(self, server: Server) -> None:
        for key in self.keys[: self.threshold]:
            answer = server.post("sys/unseal", {"key": key})
            assert answer.status == 200, answer.body
        wait_for(lambda: not server.get("sys/seal-status").json["sealed"], f"{server.node_id} is unsealed")

    def join(self, server: Server, leader: Server, **more: Any) -> None:
        answer = server.post("sys/storage/raft/join", {"leader_api_addr": leader.address, **self._trust(), **more})
        assert answer.json == {"joined": True}, answer.body
        self.unseal(server)

    def _trust(self) -> dict[str, str]:
        return {"leader_ca_cert": self.tls[0].read_text()} if self.tls else {}

    def running(self) -> list[Server]:
        return [s for s in self.servers.values() if not s.ended()]

    def leader(self, timeout: float = 20.0) -> Server:
        def find() -> Server | None:
            for server in self.running():
                if server.get("sys/health", timeout=2.0).status == 200:
                    return server
            return None

        found: Server = wait_for(find, "there is an active server", timeout)
        return found

    def configuration(self) -> dict[str, Any]:
        answer = self.leader().get("sys/storage/raft/configuration")
        return {s["node_id"]: s for s in answer.data["config"]["servers"]}

    def wait_voters(self, count: int) -> None:
        def voters() -> bool:
            return sum(s["voter"] for s in self.configuration().values()) == count

        wait_for(voters, f"there are {count} voters")

    def mount(self) -> None:
        answer = self.leader().post("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        assert answer.status == 204, answer.body

    def close(self) -> None:
        for server in self.servers.values():
            if server.process is not None and server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.process.kill()
                server.process.wait()
