# SPDX-License-Identifier: Apache-2.0
"""Three processes of the Raft layer alone on loopback (see server.py): start, kill, command, collect what they acknowledge."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.consensus import identity, replica
from holdfast.consensus.types import Configuration, Member, Role
from holdfast.core.cluster_ca import ClusterCa, new_request
from tests.process.harness import SOURCE, free_ports

CLUSTER = "5a1f3b0c-raft-layer"


class Server:
    """One process."""

    def __init__(self, folder: Path, node_id: str, address: str, told: Callable[[dict[str, int]], None]) -> None:
        self.folder = folder
        self.node_id = node_id
        self.address = address
        self._told = told
        self._answers: queue.Queue[Any] = queue.Queue()
        self._reader: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.fatal = ""

    def start(self) -> None:
        """Start; returns once it has recovered."""
        paths = os.pathsep.join([str(SOURCE), str(SOURCE.parent)])
        self._answers = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.raft.server", str(self.folder), self.node_id, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self._reader = threading.Thread(target=self._read, args=(self.process, self._answers), daemon=True)
        self._reader.start()
        self._next(60.0)

    def _read(self, process: subprocess.Popen[bytes], answers: queue.Queue[Any]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):  # cut off by a kill: nobody was told
                break
            said = json.loads(line)
            if "acked" in said:
                self._told(said["acked"])
            elif "fatal" in said:
                self.fatal = said["fatal"]
            else:
                answers.put(said)
        answers.put(None)

    def _next(self, timeout: float) -> Any:
        answer = self._answers.get(timeout=timeout)
        if answer is None:
            raise RuntimeError(f"{self.node_id} has ended: {self.fatal or 'no reason given'}")
        return answer.get("answer", answer)

    def send(self, do: str, **fields: Any) -> None:
        """Give a command without waiting for its answer."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, do: str, timeout: float = 120.0, **fields: Any) -> Any:
        """Give a command and return its answer. Raises RuntimeError when the process has ended."""
        self.send(do, **fields)
        return self._next(timeout)

    def answer(self, timeout: float = 120.0) -> Any:
        """The answer to an earlier `send`."""
        return self._next(timeout)

    def kill(self) -> None:
        """kill -9; returns when everything it said has been read."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self._reader is not None:
                self._reader.join()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class Cluster:
    """Servers with one CA and one configuration. `acked[writer]` is how many of a writer's keys were acknowledged."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.acked: dict[str, int] = {}
        self._lock = threading.Lock()
        ports = free_ports(count)
        addresses = {f"n{i}": f"127.0.0.1:{port}" for i, port in enumerate(ports)}
        ca = ClusterCa.generate(CLUSTER)
        members = tuple(Member(name, address, Role.VOTER) for name, address in addresses.items())
        configuration = Configuration(CLUSTER, members, (ca.cert_pem,))
        self.servers: dict[str, Server] = {}
        for name, address in addresses.items():
            path = folder / name
            key, request = new_request(name)
            identity.save(path / "identity", CLUSTER, name, ca.cert_pem, ca.sign(request, name), key, addresses)
            replica.create(path, name, CLUSTER, configuration)
            self.servers[name] = Server(path, name, address, self._told)

    def _told(self, acked: dict[str, int]) -> None:
        with self._lock:
            for writer, count in acked.items():
                self.acked[writer] = max(count, self.acked.get(writer, 0))

    @property
    def total(self) -> int:
        """How many writes were acknowledged."""
        with self._lock:
            return sum(self.acked.values())

    def start(self) -> None:
        for server in self.servers.values():
            server.start()

    def leader(self, timeout: float = 30.0) -> Server:
        """The server that leads now."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            leading = []
            for server in self.servers.values():
                if server.process is not None and server.process.poll() is None:
                    status = server.ask("status")
                    if status["leads"]:
                        leading.append((status["term"], server))
            if leading:
                return max(leading, key=lambda pair: pair[0])[1]
            time.sleep(0.01)
        raise AssertionError("nobody leads")

    def agree(self, timeout: float = 120.0) -> None:
        """Wait until every server has applied everything."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = [s.ask("status") for s in self.servers.values()]
            positions = {s[name] for s in states for name in ("applied", "last")}
            if any(s["leads"] for s in states) and len(positions) == 1:
                return
            time.sleep(0.05)
        raise AssertionError("the servers do not agree")

    def lost(self, size: int) -> list[str]:
        """What was acknowledged and is not there, on any server; one sentence for each."""
        problems = []
        for server in self.servers.values():
            found = server.ask("verify", timeout=600.0, size=size)
            if found["wrong"]:
                problems.append(f"{server.node_id} has {found['wrong']} keys with another value")
            for writer, count in self.acked.items():
                there = found["counts"].get(writer, 0)
                if there < count:
                    problems.append(f"{server.node_id} has {there} of {count} acknowledged keys of {writer}")
        return problems

    def close(self) -> None:
        for server in self.servers.values():
            server.kill()
