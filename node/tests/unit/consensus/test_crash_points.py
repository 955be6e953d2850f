# SPDX-License-Identifier: Apache-2.0
"""Power cuts at every disk call of what the real server does beside logging (after ALICE, Pillai et al. 2014).

Compaction (file, record, segments and old file gone, segments reused), installation of a snapshot (part file, rename, reset of the
log), and both after a restart in the middle. One run for every call; each must end with a directory that recovers, with the snapshot
file that its journal names, whole, and with everything that was acknowledged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast.consensus import recovery, wal
from tests.sim import world as sim
from tests.sim.world import Node, World

SEGMENT = 8192
VALUE = 400


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments so small that a few dozen writes begin, drop and reuse several."""
    monkeypatch.setattr("tests.sim.node.SEGMENT", SEGMENT)
    monkeypatch.setattr(
        sim, "TIMING", replace(sim.TIMING, compact_bytes=5000, keep_bytes=1000, chunk=20, sync_bytes=40)
    )
    monkeypatch.setattr(wal, "SLACK", 256)


def write(world: World, count: int, until: Callable[[], bool] = lambda: False) -> None:
    for number in range(count):
        leader = world.leader()
        if leader is not None:
            world.write(leader, f"k{number % 60}", bytes([number % 251]) * VALUE)
        world.run(world.now + 0.03)
        if until():
            return


def check_directory(world: World, node: Node) -> None:
    """What a stopped server's disk says: sound, and with every acknowledged write (of a cluster of one)."""
    _, recovered = recovery.recover(node.disk, SEGMENT)
    base = 1
    if recovered.snapshot is not None:
        data = node.disk.read(recovered.snapshot.file)
        assert hashlib.sha256(data).hexdigest() == recovered.snapshot.sha256
        base = recovered.snapshot.index
    if len(world.nodes) == 1:
        there = {entry.index: entry.command for entry in recovered.entries[1:]}
        for index, command in world.checks.acked.items():
            assert index <= base or there[index] == command


def start(node: Node) -> None:
    if not node.up:
        node.disk.crash_after = None
        node.start()


def test_compaction_and_the_reuse_of_segments() -> None:
    def script(point: int | None) -> tuple[World, int]:
        world = World(4, servers=1)
        node = world.nodes["n0"]
        calls = node.disk.calls
        node.disk.crash_after = point
        write(world, 90, lambda: not node.up)
        return world, node.disk.calls - calls

    whole, calls = script(None)
    disk = whole.nodes["n0"].disk
    assert whole.nodes["n0"].raft.snapshot.index > 40
    assert any(name.startswith(wal.SPARE + "wal-") for name in disk.list())
    tried = 0
    for point in range(0, calls, 2):
        world, _ = script(point)
        node = world.nodes["n0"]
        assert not node.up
        check_directory(world, node)
        start(node)
        before = len(world.checks.acked)
        write(world, 60)
        assert len(world.checks.acked) > before + 5
        files = [n for n in node.disk.list() if n.startswith("snap-")]
        assert len(files) <= 2  # what the crash left behind has gone
        tried += 1
    assert tried > 100


def test_installation_of_a_snapshot_and_what_a_restart_makes_of_it() -> None:
    def script(point: int | None) -> tuple[World, Node, int]:
        world = World(11, servers=3)
        write(world, 10)
        late = next(n for n in world.nodes.values() if n is not world.leader())
        late.crash()
        write(world, 50)
        late.start()
        calls = late.disk.calls
        late.disk.crash_after = point
        for _ in range(60):
            world.run(world.now + 0.05)
            if not late.up or late.raft.snapshot is not None:
                break
        if late.up:  # and some life after it
            write(world, 30, lambda: not late.up)
        return world, late, late.disk.calls - calls

    _, late, calls = script(None)
    assert late.raft.snapshot is not None
    resumed = 0
    for point in range(calls):
        world, late, _ = script(point)
        assert not late.up
        check_directory(world, late)
        part = any(n.startswith("part-") for n in late.disk.list())
        start(late)
        leader = None
        for _ in range(100):
            world.run(world.now + 0.1)
            leader = world.leader()
            if leader is not None and late.raft.applied == leader.raft.log.last and not late.raft._busy:
                break
        assert leader is not None
        assert late.machine.state == leader.machine.state
        assert not [n for n in late.disk.list() if n.startswith("part-")] or part
        resumed += part
    assert resumed > 10


def test_the_log_waits_for_who_is_being_sent_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server that needs longer for a snapshot than the log lasts would get one snapshot after the other for ever."""

    def kept(there: bool) -> int:
        world = World(21, servers=3)
        while world.leader() is None:
            world.run(world.now + 0.1)
        write(world, 10)
        leader = world.leader()
        assert leader is not None
        late = next(n for n in world.nodes.values() if n is not leader)
        late.crash()
        write(world, 60)
        if there:
            with monkeypatch.context() as patch:
                patch.setattr("holdfast.consensus.install.Sender.due", lambda *_: [])  # it never gets on
                late.start()
                write(world, 60)
        else:
            write(world, 60)
        assert world.leader() is leader
        leader.raft.request_snapshot()
        with monkeypatch.context() as patch:
            patch.setattr("holdfast.consensus.install.Sender.due", lambda *_: [])
            world.run(world.now + 1.0)
        size: int = leader.raft.log.bytes
        return size

    assert kept(False) <= sim.TIMING.keep_bytes + VALUE + 60
    assert sim.TIMING.keep_bytes * 2 < kept(True) <= sim.TIMING.keep_bytes * 4 + VALUE + 60
