# SPDX-License-Identifier: Apache-2.0
"""Clients that use kv version 1 and 2 all at once, through any server, and note what they asked and were told, and when."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

import urllib3

from tests.linear import Operation, dump
from tests.linear.operations import CAS, DELETE, READ, WRITE
from tests.process.harness import Answer, LocalCluster, Server

Enter = Callable[[], AbstractContextManager[None]]
TIMEOUT = 3.0  # seconds; then the outcome is unknown
MOUNTS = {"1": "plain", "2": "secret"}  # by version of kv
LEDGER = "plain/ledger"


class History:
    """All that was seen, by all clients. `acknowledged`: names that were written once each, below LEDGER, and taken."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.acknowledged: list[str] = []
        self.done = 0  # acknowledged writes of all kinds
        self._lock = threading.Lock()

    def add(self, operation: Operation) -> None:
        with self._lock:
            self.operations.append(operation)
            self.done += operation.returned is not None and operation.kind != READ

    def acknowledge(self, name: str) -> None:
        with self._lock:
            self.acknowledged.append(name)
            self.done += 1

    @property
    def unknown(self) -> int:
        """Operations whose outcome is unknown."""
        with self._lock:
            return sum(o.returned is None for o in self.operations)


class Connection:
    """HTTP of one client. Its sockets are its own: they belong to the network of the thread that opened them."""

    def __init__(self, cluster: LocalCluster) -> None:
        trust = {"ca_certs": str(cluster.tls[0])} if cluster.tls else {}
        self._pool = urllib3.PoolManager(maxsize=2, retries=False, **trust)
        self._token = cluster.token

    def request(
        self, server: Server, method: str, path: str, body: Any = None, timeout: float = TIMEOUT
    ) -> Answer | None:
        """The answer; status 0 when there was none after the request was sent; None when it was surely never sent."""
        try:
            answer = self._pool.request(
                method,
                f"{server.address}/v1/{path}",
                body=None if body is None else json.dumps(body).encode(),
                headers={"X-Vault-Token": self._token, "X-Vault-Request": "true"},
                redirect=False,
                timeout=timeout,
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            return None
        except urllib3.exceptions.HTTPError:
            return Answer(0, b"")
        return Answer(answer.status, answer.data)

    def close(self) -> None:
        self._pool.clear()


def uncertain(answer: Answer) -> bool:
    """Whether a write may have been done. Every other failure promises that nothing was changed: the judge takes its word."""
    return answer.status == 0 or (answer.status >= 500 and b"outcome" in answer.body)


class Client(threading.Thread):
    """One client. Its choices come from `random` alone."""

    def __init__(
        self, name: str, cluster: LocalCluster, history: History, random: Random, keys: int, enter: Enter
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._cluster, self._history, self._random, self._enter = cluster, history, random, enter
        self._keys = [f"{version}/k{n}" for version in MOUNTS for n in range(keys)]
        self._count = 0
        self._versions: dict[str, int] = {}  # newest seen, for check-and-set
        self._avoid: dict[str, float] = {}  # until when, by server
        self.halt = threading.Event()
        self.error: Exception | None = None
        self.connection = Connection(cluster)
        self.timeout = TIMEOUT

    def close(self) -> None:
        """Its connections."""
        self.connection.close()

    def run(self) -> None:
        try:
            with self._enter():
                while not self.halt.is_set():
                    self.once()
                self.close()
        except Exception as error:
            self.error = error

    def once(self) -> None:
        """One operation on one server."""
        server = self._choose()
        self._count += 1
        value = f"{self.name}.{self._count}"
        kind = self._random.choices((READ, WRITE, CAS, DELETE, "ledger"), (9, 3, 4, 1, 3))[0]
        if kind == "ledger":
            self._append(server, value)
            return
        key = self._random.choice(self._keys)
        if key.startswith("1/"):
            kind = WRITE if kind == CAS else kind
            self.plain(server, key, kind, value)
        else:
            self.versioned(server, key, kind, value)

    def _choose(self) -> Server:
        """Any server, but most of the time none that did not answer a moment ago."""
        now = time.monotonic()
        servers = list(self._cluster.servers.values())
        well = [s for s in servers if self._avoid.get(s.node_id, 0.0) < now]
        return self._random.choice(well if well and self._random.random() < 0.95 else servers)

    def _request(self, server: Server, method: str, path: str, body: Any) -> Answer | None:
        answer = self.connection.request(server, method, path, body, self.timeout)
        if answer is None or answer.status == 0:
            self._avoid[server.node_id] = time.monotonic() + 1.0
        if answer is None:
            self.halt.wait(0.02)  # it is down
        return answer

    def _append(self, server: Server, name: str) -> None:
        answer = self._request(server, "POST", f"{LEDGER}/{name}", {"v": name})
        if answer is not None and answer.status == 204:
            self._history.acknowledge(name)

    def _call(
        self, server: Server, key: str, kind: str, argument: Any, path: str, body: Any, told: Callable[[Answer], Any]
    ) -> None:
        """Ask and note. `told` gives the result of an answer; it raises LookupError when there is none: nothing was done."""
        method = {READ: "GET", DELETE: "DELETE"}.get(kind, "POST")
        invoked = time.monotonic()
        answer = self._request(server, method, path, body)
        returned = time.monotonic()
        if answer is None:
            return
        if uncertain(answer):
            if kind != READ:
                self._history.add(Operation(self.name, key, kind, argument, None, invoked, None))
            return
        with contextlib.suppress(LookupError):
            self._history.add(Operation(self.name, key, kind, argument, told(answer), invoked, returned))

    def look(self, server: Server, number: int) -> None:
        """Read one key; `number` says which."""
        key = self._keys[number % len(self._keys)]
        (self.plain if key.startswith("1/") else self.versioned)(server, key, READ, "")

    def plain(self, server: Server, key: str, kind: str, value: str) -> None:
        """kv version 1: a Register."""

        def told(answer: Answer) -> Any:
            if kind == READ and answer.status == 404:
                return None
            if answer.status != (200 if kind == READ else 204):
                raise LookupError(answer.status)
            return answer.data["v"] if kind == READ else None

        argument = value if kind == WRITE else None
        body = {"v": value} if kind == WRITE else None
        self._call(server, key, kind, argument, f"{MOUNTS['1']}/{key[2:]}", body, told)

    def versioned(self, server: Server, key: str, kind: str, value: str) -> None:
        """kv version 2: Versioned."""
        expected = max(0, self._versions.get(key, 0) - (self._random.random() < 0.1))

        def told(answer: Answer) -> Any:
            if kind == READ and answer.status in (200, 404):
                data = answer.data
                version = data["metadata"]["version"] if data else 0
                self._versions[key] = version
                return (version, data["data"]["v"] if data and data["data"] else None)
            if kind == CAS and answer.status == 400 and b"check-and-set parameter did not match" in answer.body:
                self._versions.pop(key, None)
                return None
            if answer.status != (204 if kind == DELETE else 200):
                raise LookupError(answer.status)
            if kind == DELETE:
                return None
            self._versions[key] = answer.data["version"]
            return answer.data["version"]

        body: Any = {"data": {"v": value}} if kind in (WRITE, CAS) else None
        argument: Any = value if kind == WRITE else None
        if kind == CAS:
            body["options"] = {"cas": expected}
            argument = (expected, value)
        self._call(server, key, kind, argument, f"{MOUNTS['2']}/data/{key[2:]}", body, told)


class Load:
    """Some clients; `with Load(…) as load:` they work, afterwards they are gone."""

    def __init__(
        self, cluster: LocalCluster, seed: int, clients: int = 6, keys: int = 3, enter: Enter = contextlib.nullcontext
    ) -> None:
        self.history = History()
        self.cluster = cluster
        self.enter = enter
        self._clients = [
            Client(f"c{n}", cluster, self.history, Random(f"{seed}/{n}"), keys, enter) for n in range(clients)
        ]
        self._keys = keys

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for client in self._clients:
            client.halt.set()
        for client in self._clients:
            client.join(30)
        if failure is not None:
            print(f"the history so far: {keep(self.history, self.cluster.folder)}")

    def progress(self, count: int = 20, timeout: float = 40.0) -> None:
        """Wait until this many more writes are acknowledged: the cluster serves."""
        before, deadline = self.history.done, time.monotonic() + timeout
        while self.history.done < before + count:
            for client in self._clients:
                if client.error is not None:
                    raise client.error
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"only {self.history.done - before} of {count} writes were acknowledged in {timeout} s"
                )
            time.sleep(0.02)

    def read_everything(self) -> None:
        """One more client reads each key through each server, as part of the history."""
        for client in self._clients:
            assert not client.is_alive()
            if client.error is not None:
                raise client.error
        last = self.client("last")
        with self.enter():
            for server in self.cluster.servers.values():
                for number in range(self._keys * len(MOUNTS)):
                    last.look(server, number)
            last.close()

    def client(self, name: str, timeout: float = TIMEOUT) -> Client:
        """One more client that works only when it is told to."""
        client = Client(name, self.cluster, self.history, Random(0), self._keys, self.enter)
        client.timeout = timeout
        return client


def keep(history: History, folder: Path) -> Path:
    """Write the history to a file, for whoever wants to look at a failure."""
    path = folder / "history.jsonl"
    dump(path, list(history.operations))
    return path
