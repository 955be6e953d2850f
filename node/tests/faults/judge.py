# SPDX-License-Identifier: Apache-2.0
"""Was all that the clients saw what one copy of the data would have shown them, and is it all on every disk?"""

from __future__ import annotations

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.client import LEDGER, TIMEOUT, Connection, History, Load, keep
from tests.linear import Model, Register, Versioned, check
from tests.process.harness import LocalCluster, Server, wait_for
from tests.process.test_faults import state_on_disk


@dataclass(slots=True)
class Totals:
    """What a run has tried, for its last lines."""

    operations: int = 0
    unknown: int = 0
    keys: int = 0
    acknowledged: int = 0
    faults: int = 0
    clusters: int = 0

    def __str__(self) -> str:
        return (
            f"{self.clusters} clusters, {self.faults} faults, {self.operations} operations "
            f"({self.unknown} with unknown outcome) in histories of {self.keys} keys, {self.acknowledged} writes "
            "looked for on every server afterwards"
        )


TOTALS = Totals()


def linearizable(history: History, folder: Path) -> None:
    """Raises AssertionError with the counterexample."""
    path = keep(history, folder)
    models: dict[str, Model] = {"1/": Register(), "2/": Versioned()}
    for prefix, model in models.items():
        operations = [o for o in history.operations if o.key.startswith(prefix)]
        assert operations
        found = check(model, operations)
        assert found is None, f"{found}\nthe whole history: {path}"
    TOTALS.operations += len(history.operations)
    TOTALS.unknown += history.unknown
    TOTALS.keys += len({o.key for o in history.operations})


def present(cluster: LocalCluster, server: Server, names: list[str]) -> None:
    """Every acknowledged name is readable through this server."""

    def read(part: list[str]) -> list[str]:
        connection = Connection(cluster)
        missing = []
        for name in part:
            answer = connection.request(server, "GET", f"{LEDGER}/{name}", timeout=5 * TIMEOUT)
            if answer is None or answer.status != 200 or answer.data != {"v": name}:
                missing.append(f"{name} ({answer and answer.status})")
        connection.close()
        return missing

    with ThreadPoolExecutor(4) as pool:
        missing = [name for part in pool.map(read, [names[n::4] for n in range(4)]) for name in part]
    assert not missing, (
        f"{len(missing)} of {len(names)} acknowledged writes are lost at {server.node_id}: {missing[:20]}"
    )


def lead(cluster: LocalCluster, server: Server) -> None:
    """Have this one of three servers lead: its leader steps down while the third is asleep."""

    def leads() -> bool:
        leader = cluster.leader(30.0)
        if leader is server:
            return True
        third = next(s for s in cluster.servers.values() if s not in (leader, server))
        third.signal(signal.SIGSTOP)
        try:
            leader.request("PUT", "sys/step-down", timeout=15.0)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: server.get("sys/health", timeout=2.0).status == 200, "it takes over", 2.0)
        finally:
            third.signal(signal.SIGCONT)
        return False

    assert len(cluster.servers) == 3
    wait_for(leads, f"{server.node_id} leads", 60)


def _same_disks(cluster: LocalCluster) -> None:
    """Stop all; every disk holds the whole log of the leader, and the same state."""

    def level() -> bool:
        state = cluster.leader().get("sys/storage/raft/autopilot/state", timeout=5.0).data
        servers = state.get("servers", {}).values()
        return len(servers) == len(cluster.servers) and len({(s["last_index"], s["last_term"]) for s in servers}) == 1

    wait_for(level, "every server has all of the log", 60)
    for server in cluster.servers.values():
        assert server.stop() == 0, server.log.read_text()[-2000:]
    found = {server.node_id: state_on_disk(server) for server in cluster.servers.values()}
    index = min(commit for commit, _ in found.values())
    states = {node_id: at(index) for node_id, (_, at) in found.items()}
    first = next(iter(states.values()))
    assert first
    differing = [node_id for node_id, state in states.items() if state != first]
    assert not differing, f"the disks of {differing} hold another state at index {index}"


def settle(load: Load, folder: Path, *, lead_each: bool = False) -> None:
    """The end of every test, when the load is over and the faults are gone: judge everything.

    `lead_each`: every acknowledged write is read from each server while it leads.
    """
    cluster, history = load.cluster, load.history
    wait_for(lambda: cluster.leader(40.0), "there is a leader", 60)
    for server in cluster.servers.values():
        wait_for(lambda s=server: s.get(f"{LEDGER}/none", timeout=5.0).status == 404, "the server answers", 60)  # type: ignore[misc]
    load.read_everything()
    linearizable(history, folder)
    assert history.acknowledged
    for server in cluster.servers.values():
        if lead_each:
            lead(cluster, server)
        present(cluster, server, history.acknowledged)
    _same_disks(cluster)
    TOTALS.acknowledged += len(history.acknowledged)
    TOTALS.clusters += 1
