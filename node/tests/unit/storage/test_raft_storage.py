# SPDX-License-Identifier: Apache-2.0
"""RaftStorage on real disks and sockets in one process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path

import msgpack
import pytest

from holdfast.consensus import wal
from holdfast.consensus.transport import TransportError
from holdfast.state.records import encode_entry
from holdfast.storage.raft import RaftStorage
from holdfast.storage.types import (
    Delete,
    EntryTooLarge,
    MembershipRefused,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    PreconditionFailed,
    Put,
    StorageError,
)

from .conftest import Group, until


async def test_a_new_server_refuses_writes_until_it_is_bootstrapped(group: Group) -> None:
    storage = group.storage("n1")
    await storage.start()
    assert not storage.has_state()
    assert storage.servers() == ()
    assert storage.get("a") is None
    assert storage.list("") == []
    with pytest.raises(NotLeader, match="not a member of a cluster yet"):
        await storage.commit([Put("a", b"1")])
    await storage.bootstrap(group.identity("n1"))
    assert storage.has_state()
    assert storage.is_leader()
    assert [s.node_id for s in storage.servers()] == ["n1"]
    await storage.commit([Put("core/keyring", b"k")])
    with pytest.raises(StorageError, match="already has state"):
        await storage.bootstrap(group.identity("n1"))


async def test_an_initialisation_that_never_finished_is_replaced(group: Group) -> None:
    storage = await group.first()
    await storage.bootstrap(group.identity("n1"))
    assert storage.is_leader()


async def test_commit_preconditions_and_lists(group: Group) -> None:
    storage = await group.first()
    one = await storage.commit([Put("a/b", b"1"), Put("a/c/d", b"2")])
    item = storage.get("a/b")
    assert item is not None
    assert (item.value, item.revision) == (b"1", one)
    two = await storage.commit([Put("a/b", b"3")], {"a/b": one, "new": 0})
    assert two > one
    with pytest.raises(PreconditionFailed, match="a/b has changed"):
        await storage.commit([Put("a/b", b"4"), Delete("a/c/d")], {"a/b": one})
    assert storage.list("a/") == ["b", "c/"]
    assert list(storage.scan("a/")) == ["a/b", "a/c/d"]
    await storage.read_barrier()
    await storage.commit([Delete("a/b"), Delete("a/never")])
    assert storage.get("a/b") is None


async def test_of_concurrent_check_and_sets_exactly_one_wins(group: Group) -> None:
    storage = await group.first()
    results = await asyncio.gather(
        *(storage.commit([Put("k", str(n).encode())], {"k": 0}) for n in range(40)), return_exceptions=True
    )
    won = [n for n, r in enumerate(results) if isinstance(r, int)]
    assert len(won) == 1
    item = storage.get("k")
    assert item is not None
    assert item.value == str(won[0]).encode()
    assert sum(isinstance(r, PreconditionFailed) for r in results) == 39


async def test_everything_is_there_after_a_restart(group: Group) -> None:
    storage = await group.first()
    for number in range(30):
        await storage.commit([Put(f"k{number}", bytes([number]) * 100)])
    term, index = storage.term, storage.commit_index
    await storage.stop()
    again = group.storage("n1")
    await again.start()
    assert again.get("k29") is not None  # applied before `start` returns
    assert (again.term, again.commit_index) == (term, index)
    assert not again.is_leader()
    again.set_eligible(True)
    await until(again.is_leader)
    assert [again.get(f"k{n}").value for n in range(30)] == [bytes([n]) * 100 for n in range(30)]  # type: ignore[union-attr]
    assert again.cluster_id() == "cl"


async def test_too_large(group: Group) -> None:
    storage = await group.first(max_entry_size=1000, max_transaction_size=3000)
    await storage.commit([Put("a", bytes(1000))])
    with pytest.raises(EntryTooLarge, match="got 1001 bytes, max: 1000 bytes"):
        await storage.commit([Put("a", bytes(1001))])
    with pytest.raises(EntryTooLarge, match="key being too large"):
        await storage.commit([Delete("k" * 32769)])
    with pytest.raises(EntryTooLarge, match="the batch is too large"):
        await storage.commit([Put(f"b{n}", bytes(900)) for n in range(4)])
    assert storage.list("") == ["a"]


async def test_restore_of_a_records_file(group: Group, tmp_path: Path) -> None:
    storage = await group.first()
    await storage.commit([Put("old", b"1"), Put("both", b"1")])
    path = tmp_path / "state.bin"
    path.write_bytes(encode_entry("both", b"2") + encode_entry("new/x", b"3"))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    steps: list[str] = []
    index = await storage.restore(path, sha, path.stat().st_size, lambda stage, _done, _total: steps.append(stage))
    assert {k: storage.get(k).value for k in storage.scan("")} == {"both": b"2", "new/x": b"3"}  # type: ignore[union-attr]
    assert storage.get("both").revision == index  # type: ignore[union-attr]
    assert steps[-1] == "done"
    assert not path.exists()
    await storage.commit([Put("after", b"4")])
    await storage.stop()
    again = group.storage("n1")
    await again.start()
    await until(lambda: sorted(again.scan("")) == ["after", "both", "new/x"])  # loading the file takes a moment


async def test_state_of_another_node_id_is_refused(group: Group) -> None:
    storage = await group.first()
    await storage.stop()
    other = group.storage("n2", folder="n1")
    with pytest.raises(StorageError, match="belongs to server n1, not to n2: set node_id"):
        await other.start()


async def test_a_journal_beside_another_identity_is_refused(group: Group) -> None:
    """n2's journal beside n1's identity would vote twice."""
    leader = await group.first()
    two = await group.join("n2", leader)
    await two.stop()
    await leader.stop()
    shutil.rmtree(group.folder / "n1" / "raft")
    shutil.copytree(group.folder / "n2" / "raft", group.folder / "n1" / "raft")
    with pytest.raises(StorageError, match=r"journal belongs to server n2 .* identity beside it to n1"):
        await group.storage("n1").start()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"cluster_id": 1}', "\x00\xff"])
async def test_a_damaged_identity_is_refused_in_words(group: Group, text: str) -> None:
    storage = await group.first()
    await storage.stop()
    (group.folder / "n1" / "identity" / "identity.json").write_text(text)
    with pytest.raises(StorageError, match="identity"):
        await group.storage("n1").start()


async def test_a_damaged_journal_and_a_damaged_snapshot_are_refused_in_words(group: Group) -> None:
    storage = await group.first()
    for number in range(5):
        await storage.commit([Put(f"k{number}", b"x" * 50)])
    assert storage._replica is not None
    storage._replica.raft.request_snapshot()
    raft = group.folder / "n1" / "raft"
    await until(lambda: list(raft.glob("snap-*.state")))
    await until(lambda: storage._replica and storage._replica.raft.snapshot)
    await storage.commit([Put("more", b"y")])
    await storage.stop()
    snapshot = next(raft.glob("snap-*.state"))
    good = snapshot.read_bytes()
    snapshot.write_bytes(good[:30] + b"\xff" + good[31:])
    with pytest.raises(StorageError, match=rf"the snapshot cannot be loaded: {snapshot.name}.*wipe this server"):
        await group.storage("n1").start()
    snapshot.write_bytes(good)
    segment = raft / wal.segment_name(1)
    data = bytearray(segment.read_bytes())
    data[60] ^= 1
    segment.write_bytes(data)
    with pytest.raises(StorageError, match=r"wal-0000000000000001\.seg.*(wipe|restore)"):
        await group.storage("n1").start()


async def test_a_port_in_use_is_said(group: Group) -> None:
    storage = await group.first()
    await storage.stop()
    taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", group.ports["n1"])
    with pytest.raises(StorageError, match=r"Raft cannot start: .*in use"):
        await group.storage("n1").start()
    taken.close()
    await taken.wait_closed()


async def test_no_room_refuses_and_comes_back(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = await group.first()
    running = storage._replica
    assert running is not None
    free = 0
    monkeypatch.setattr(running.disk, "free", lambda: free)
    running._room_checked = float("-inf")
    with pytest.raises(NoSpace, match="the disk is nearly full"):
        await storage.commit([Put("a", b"1")])
    await storage.read_barrier()
    free = 1 << 40
    running._room_checked = float("-inf")
    await storage.commit([Put("a", b"1")])
    assert group.fatal == []


async def test_three_servers_move_leadership_and_remove_the_leader(group: Group) -> None:
    leader = await group.first()
    two = await group.join("n2", leader)
    three = await group.join("n3", leader)
    await leader.commit([Put("a", b"1")])
    await until(lambda: two.get("a") and three.get("a"))
    with pytest.raises(NotLeader):
        await two.commit([Put("b", b"1")])
    with pytest.raises(MembershipRefused, match="belongs to server n2"):
        await leader.add_server("n9", two.cluster_addr, False)
    with pytest.raises(MembershipRefused, match="choose another node_id"):
        await leader.add_server("n1", "127.0.0.1:1", False)
    assert await leader.remove_server("nobody") is False
    await until(
        lambda: len(leader._replica.health()) == 2 and all(h.answered for h in leader._replica.health().values())
    )  # type: ignore[union-attr]
    assert await leader.remove_server("n1") is True
    await until(leader.removed)
    new = await until(lambda: next((s for s in (two, three) if s.is_leader()), None))
    assert {s.node_id for s in new.servers()} == {"n2", "n3"}
    await new.commit([Put("b", b"2")])


async def _ask(storage: RaftStorage, peer: str, body: bytes) -> list[object]:
    assert storage._replica is not None
    await until(lambda: storage._replica and storage._replica.transport.connected(peer))
    answer: list[object] = msgpack.unpackb(await storage._replica.transport.request(peer, body))
    return answer


async def test_requests_of_a_removed_server_are_refused(group: Group) -> None:
    """Its certificate is still good, and the leader's remove and demote verbs are one frame away."""
    leader = await group.first()
    two = await group.join("n2", leader)
    three = await group.join("n3", leader)
    assert await leader.remove_server("n3")
    await until(three.removed)
    for body in (["remove", "n2"], ["demote", "n2"], ["http", "GET", "/v1/sys/health", [], b"", ""]):
        ok, text = await _ask(three, "n1", msgpack.packb(body))
        assert ok is False
        assert "n3 is not a member" in str(text)
    assert {s.node_id for s in leader.servers() if s.voter} == {"n1", "n2"}
    assert two.is_leader() is False


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x90", b"\x05", b"\x91\x01", b"\x91\xa6remove", b"\x92\xa4http\x01", b"\x91\xa4boom"]
)
async def test_malformed_requests_are_answered(group: Group, body: bytes) -> None:
    leader = await group.first()
    two = await group.join("n2", leader)
    ok, text = await _ask(two, "n1", body)
    assert ok is False
    assert isinstance(text, str)
    assert json.dumps(text)
    await leader.commit([Put("still", b"here")])


async def test_a_request_fails_with_its_connection_although_there_is_another(group: Group) -> None:
    """Both servers dial: often there are two. Waiting for an answer on the other one took 90 s."""
    leader = await group.first()
    two = await group.join("n2", leader)
    assert leader._replica is not None
    assert two._replica is not None
    transport = two._replica.transport
    await until(lambda: transport.connected("n1"))
    await transport._dial("n1", leader.cluster_addr)
    await until(lambda: len(transport._connections["n1"]) > 1)
    asked = asyncio.Event()

    async def never(_peer: str, _body: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    leader._replica.transport.on_request = never
    task = asyncio.create_task(transport.request("n1", b"?"))
    await asked.wait()
    transport._connections["n1"][0].transport.abort()
    await until(task.done)
    with pytest.raises(TransportError, match="broke") as failure:
        await task
    assert failure.value.sent
    assert not transport._answers


async def test_a_removal_by_the_next_leader_that_may_have_happened_is_not_called_refused(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await group.first()
    two = await group.join("n2", leader)
    three = await group.join("n3", leader)

    async def lost(_node_id: str) -> bool:
        raise OutcomeUnknown("leadership moved: the change may or may not take effect")

    for other in (two, three):
        monkeypatch.setattr(other, "_remove_here", lost)
    await until(
        lambda: len(leader._replica.health()) == 2 and all(h.answered for h in leader._replica.health().values())
    )  # type: ignore[union-attr]
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await leader.remove_server("n1")
