# SPDX-License-Identifier: Apache-2.0
"""State files between servers: loss, repetition, reordering, corruption, restarts of either side."""

from __future__ import annotations

import contextlib
import hashlib
import random
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.consensus.install import Receiver, Sender
from holdfast.consensus.types import Chunk, ChunkAck, Timing
from tests.sim.disk import PowerLoss, SimDisk

TIMING = Timing(chunk=10, chunk_window=3, resend=0.1)
NAME = "snap-1.state"


def disk_with(data: bytes) -> SimDisk:
    disk = SimDisk(random.Random(1))
    disk.create(NAME, 0)
    disk.write(NAME, 0, data)
    return disk


def pair(data: bytes) -> tuple[Sender, Receiver]:
    sha = hashlib.sha256(data).hexdigest()
    return Sender(NAME, len(data), sha), Receiver(NAME, len(data), sha, 32)


def test_window_and_resume() -> None:
    data = bytes(range(100))
    disk, (sender, _) = disk_with(data), pair(data)
    ask = sender.due(disk, 0.0, TIMING)
    assert [c.data for c in ask] == [b""]
    assert sender.due(disk, 0.01, TIMING) == []
    sender.on_ack(ChunkAck(NAME, 40, False), 0.02)  # the receiver kept what came before the break
    assert [c.offset for c in sender.due(disk, 0.03, TIMING)] == [40, 50, 60]
    assert sender.due(disk, 0.04, TIMING) == []
    sender.on_ack(ChunkAck(NAME, 50, False), 0.05)
    assert [c.offset for c in sender.due(disk, 0.06, TIMING)] == [70]
    assert [c.offset for c in sender.due(disk, 0.9, TIMING)] == [50, 60, 70]  # silence: again from what is acknowledged


def test_a_file_with_a_wrong_hash_is_thrown_away_and_begun_again() -> None:
    target = SimDisk(random.Random(2))
    receiver = Receiver(NAME, 4, hashlib.sha256(b"good").hexdigest(), 1 << 20)
    assert receiver.take(target, Chunk(NAME, 4, receiver.sha256, 0, b"evil", zlib.crc32(b"evil")))
    assert not receiver.finish(target)
    assert target.list() == []
    assert receiver.take(target, Chunk(NAME, 4, receiver.sha256, 0, b"good", zlib.crc32(b"good")))
    assert receiver.finish(target)
    assert target.read(NAME) == b"good"


def test_chunks_that_do_not_fit_change_nothing() -> None:
    target = SimDisk(random.Random(2))
    receiver = Receiver(NAME, 4, "", 1 << 20)
    for offset, data, crc in (
        (1, b"b", zlib.crc32(b"b")),
        (0, b"a", 0),
        (0, b"abcde", zlib.crc32(b"abcde")),
        (2**60, b"x", 1),
    ):
        assert not receiver.take(target, Chunk(NAME, 4, "", offset, data, crc))
    assert receiver.offset == 0


def test_absurd_answers_do_not_make_a_sender_read_beyond_the_file() -> None:
    data = b"x" * 35
    disk, (sender, _) = disk_with(data), pair(data)
    sender.on_ack(ChunkAck(NAME, 2**60, False), 0.0)
    for now in (1.0, 2.0, 3.0):
        assert all(c.offset <= 35 and not c.data for c in sender.due(disk, now, TIMING))
    sender.on_ack(ChunkAck(NAME, 0, False), 3.1)
    assert sender.due(disk, 3.4, TIMING)[0].offset == 0


def test_a_late_answer_does_not_send_everything_again_and_a_receiver_that_starts_again_is_heard() -> None:
    data = bytes(range(100))
    disk, (sender, _) = disk_with(data), pair(data)
    sender.on_ack(ChunkAck(NAME, 0, False), 0.0)
    assert len(sender.due(disk, 0.0, TIMING)) == 3
    sender.on_ack(ChunkAck(NAME, 20, False), 0.01)
    assert [c.offset for c in sender.due(disk, 0.01, TIMING)] == [30, 40]
    sender.on_ack(ChunkAck(NAME, 10, False), 0.02)  # it was overtaken
    assert sender.due(disk, 0.02, TIMING) == []
    sender.on_ack(ChunkAck(NAME, 30, False), 0.03)
    assert [c.offset for c in sender.due(disk, 0.03, TIMING)] == [50]
    sender.on_ack(ChunkAck(NAME, 0, False), 0.04)  # it lost what it had, and says nothing else
    assert sender.due(disk, 0.05, TIMING) == []
    assert [c.offset for c in sender.due(disk, 0.3, TIMING)] == [0, 10, 20]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 300))
def test_a_file_arrives_whole_over_a_bad_network(seed: int, size: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(size)
    source, target = disk_with(data), SimDisk(random.Random(seed))
    sender, receiver = pair(data)
    wire: list[Chunk | ChunkAck] = []
    now, done = 0.0, False
    for turn in range(6000):
        now += 0.01
        rough = turn < 400
        wire.extend(sender.due(source, now, TIMING))
        if rough and rng.random() < 0.01:
            sender.lost()
            wire.clear()
        if rough and rng.random() < 0.01 and not done:
            receiver = pair(data)[1]  # the receiver restarts with nothing
        while wire and (not rough or rng.random() < 0.7):
            message = wire.pop(rng.randrange(len(wire)) if rough else 0)
            if rough and rng.random() < 0.15:
                continue
            if rough and rng.random() < 0.15:
                wire.append(message)
            if isinstance(message, ChunkAck):
                sender.on_ack(message, now)
                continue
            if rough and message.data and rng.random() < 0.1:
                message = message._replace(data=bytes([message.data[0] ^ 1]) + message.data[1:])
            if not done and receiver.take(target, message):
                done = receiver.finish(target)
            wire.append(ChunkAck(NAME, size if done else receiver.offset, done))
        if sender.complete:
            break
    assert sender.complete
    assert target.read(NAME) == data
    assert target.list() == [NAME]
    assert sender.due(source, now + 9, TIMING) == []


# --- part files that an earlier process left ---

CHUNK, SYNC = 50, 200


def receive(disk: SimDisk, data: bytes, sha: str) -> tuple[int, int]:
    """One process receives `data` in chunks, going on with what it finds: (bytes found, attempts)."""
    receiver = Receiver(NAME, len(data), sha, SYNC)
    receiver.find(disk)
    while receiver.resuming:
        receiver.resume(disk)
    found = receiver.offset
    for attempt in range(1, 4):
        while True:
            piece = data[receiver.offset : receiver.offset + CHUNK]
            if receiver.take(disk, Chunk(NAME, len(data), sha, receiver.offset, piece, zlib.crc32(piece))):
                break
        if receiver.finish(disk):
            return found, attempt
    raise AssertionError("never whole")


def test_a_transfer_cut_off_at_any_disk_call_is_resumed_and_arrives_whole() -> None:
    """kill -9 keeps what was written, power loss tears it: the file that gets its name is right in every case."""
    data = random.Random(5).randbytes(1530)
    sha = hashlib.sha256(data).hexdigest()
    calls = 0
    counting = SimDisk(random.Random(0))
    receive(counting, data, sha)
    calls = counting.calls
    resumed = again = 0
    for point in range(calls):
        for luck in range(6):
            disk = SimDisk(random.Random(point * 100 + luck))
            disk.crash_after = point
            with contextlib.suppress(PowerLoss):
                receive(disk, data, sha)
            if luck:
                disk.power_loss()
            disk.crash_after = None
            assert NAME not in disk.list() or disk.read(NAME) == data
            if NAME in disk.list():
                continue
            part = f"part-{NAME}"
            held = disk.size(part) if part in disk.list() else 0
            found, attempts = receive(disk, data, sha)
            if luck == 0:  # killed: nothing was lost, so at most one interval of syncs is sent again
                assert held - found <= SYNC
                assert attempts == 1
            resumed += found > 0
            again += attempts - 1
            assert disk.read(NAME) == data
            assert disk.list() == [NAME]
    assert resumed > 50
    assert again <= resumed // 10  # what a power cut left of a synced part is nearly always good


def test_a_part_file_that_is_longer_or_rotten_costs_a_new_transfer_only() -> None:
    data = random.Random(6).randbytes(1000)
    sha = hashlib.sha256(data).hexdigest()
    for left in (data + b"x", bytes(700), data[:100], b""):
        disk = SimDisk(random.Random(1))
        disk.create(f"part-{NAME}", 0)
        disk.write(f"part-{NAME}", 0, left)
        receive(disk, data, sha)
        assert disk.read(NAME) == data
        assert disk.list() == [NAME]
