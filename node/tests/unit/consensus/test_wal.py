# SPDX-License-Identifier: Apache-2.0
"""The journal after a power cut at every point, and with damage everywhere (after ALICE, Pillai et al. 2014).

A workload of flushes (entries, terms, cuts, snapshots, resets) runs on a simulated disk that loses, keeps or tears whatever was not
synced. However it ends, the recovered log must be what some prefix of the records says, and that prefix must contain every record
that was synced.
"""

from __future__ import annotations

import contextlib
import errno
import random
import re
from collections.abc import Callable

import pytest

from holdfast.consensus import recovery, wal
from holdfast.consensus.types import Configuration, Entry, JournalError, Recovered, Snapshot
from tests.sim.disk import PowerLoss, SimDisk

SEGMENT = 2048
CONFIGURATION = Configuration("cl", ())
Say = Callable[["Model"], None]


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slack of real segments would hide rolling and recycling."""
    monkeypatch.setattr(wal, "SLACK", 0)


class Model:
    """What a log must say after each record."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[int, bytes]] = {}
        self.last, self.last_term = 1, 0
        self.term, self.voted = 0, ""
        self.snapshot = 0
        self.history: list[tuple[object, ...]] = [self.picture()]

    def picture(self) -> tuple[object, ...]:
        kept = {i: e for i, e in self.entries.items() if i > self.snapshot}
        return (tuple(sorted(kept.items())), self.last, self.last_term, self.term, self.voted, self.snapshot)

    def note(self) -> None:
        self.history.append(self.picture())


def picture_of(recovered: Recovered) -> tuple[object, ...]:
    base = recovered.snapshot.index if recovered.snapshot else 0
    tail = recovered.entries[-1]
    kept = [(e.index, (e.term, e.command)) for e in recovered.entries[1:] if e.index > base]
    return (tuple(kept), tail.index, tail.term, recovered.term, recovered.voted_for or "", base)


class Workload:
    """One random run against a `Wal`; `synced` is how many records were durable when it ended."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.model = Model()
        self.synced = 0
        self.noted = 0

    def snapshot(self, index: int, term: int) -> Snapshot:
        return Snapshot(index, term, f"snap-{index}.state", 1, "ab", CONFIGURATION, 0)

    def record(self, log: wal.Wal) -> None:
        rng, model = self.rng, self.model
        kind = rng.random()
        if kind < 0.6 or model.last < 4:
            index, term = model.last + 1, max(model.last_term, model.term)
            command = b"\x00" + rng.randbytes(rng.choice([5, 60, 300]))
            log.entry(Entry(command, index, term))
            model.entries[index] = (term, command)
            model.last, model.last_term = index, term
        elif kind < 0.75:
            model.term += 1
            model.voted = rng.choice("abc")
            log.meta(model.term, model.voted)
        elif kind < 0.85 and model.last > max(model.snapshot, 2):
            index = rng.randint(max(model.snapshot, 1) + 1, model.last)
            before = model.entries.get(index - 1, (0, b""))[0] if index - 1 > 1 else 0
            log.cut(index, before)
            model.entries = {i: e for i, e in model.entries.items() if i < index}
            model.last, model.last_term = index - 1, before
        elif kind < 0.97:
            if model.last <= model.snapshot + 1:
                return
            index = rng.randint(model.snapshot + 1, model.last)
            keep_from = rng.randint(max(2, index - 3), index + 1)
            log.snap(self.snapshot(index, model.entries[index][0] if index > 1 else 0), keep_from)
            model.snapshot = index
        else:
            index, term = model.last + rng.randint(1, 5), max(model.last_term, model.term)
            log.reset(self.snapshot(index, term))
            model.snapshot = model.last = index
            model.last_term = term
            model.entries = {index: (term, b"")}
        model.note()

    def run(self, log: wal.Wal, flushes: int) -> None:
        for _ in range(flushes):
            for _ in range(self.rng.randint(1, 4)):
                self.record(log)
            self.noted = len(self.model.history)
            if log.pending:
                log.write(log.take())
            self.synced = self.noted
            log.prepare()
            if self.rng.random() < 0.1:
                log.capacity(SEGMENT)  # a nearly full disk: the event loop makes the spare


def opened(seed: int) -> tuple[SimDisk, wal.Wal]:
    disk = SimDisk(random.Random(seed))
    wal.create(disk, "cl", "n1", SEGMENT)
    return disk, recovery.recover(disk, SEGMENT)[0]


def test_every_cut_point_leaves_a_prefix_with_everything_that_was_synced() -> None:
    tried = 0
    for seed in range(12):
        disk, log = opened(seed)
        before = disk.calls
        Workload(seed).run(log, 40)
        calls = disk.calls - before
        assert any(name.startswith(wal.SPARE) for name in disk.list()) or seed  # the runs do roll and recycle
        for point in range(calls):
            for luck in range(2):
                disk, log = opened(seed * 7919 + luck)
                work = Workload(seed)
                disk.crash_after = point
                with pytest.raises(PowerLoss):
                    work.run(log, 40)
                disk.power_loss()
                _, recovered = recovery.recover(disk, SEGMENT)
                allowed = work.model.history[max(0, work.synced - 1) :]
                assert picture_of(recovered) in allowed, (seed, point, luck)
                assert (recovered.cluster_id, recovered.node_id) == ("cl", "n1")
                tried += 1
    assert tried > 1500


def test_a_second_power_cut_during_and_after_recovery() -> None:
    for seed in range(150):
        rng = random.Random(seed)
        disk, log = opened(seed)
        work = Workload(seed)
        disk.crash_after = rng.randint(10, 90)
        with pytest.raises(PowerLoss):
            work.run(log, 60)
        disk.power_loss()
        disk.crash_after = rng.randint(0, 2)
        with contextlib.suppress(PowerLoss):
            recovery.recover(disk, SEGMENT)
        disk.power_loss()
        log, recovered = recovery.recover(disk, SEGMENT)
        said = picture_of(recovered)
        assert said in work.model.history[max(0, work.synced - 1) :]
        tail = recovered.entries[-1]
        new = Entry(b"\x00after", tail.index + 1, max(tail.term, recovered.term))
        log.entry(new)
        log.write(log.take())
        disk.power_loss()
        assert recovery.recover(disk, SEGMENT)[1].entries[-1] == new


@pytest.mark.parametrize("lose", [True, False])
def test_the_check_itself_sees_a_disk_that_lies_about_syncs(lose: bool) -> None:
    """With fdatasync doing nothing the same check must fail somewhere, or it proves nothing."""
    lost = 0
    for seed in range(40):
        disk, log = opened(seed)
        disk.lose_syncs = lose
        work = Workload(seed)
        work.run(log, 10)
        disk.power_loss()
        try:
            recovered = recovery.recover(disk, SEGMENT)[1]
        except JournalError:
            lost += 1
            continue
        lost += picture_of(recovered) not in work.model.history[max(0, work.synced - 1) :]
    assert (lost > 5) is lose


def test_creation_is_all_or_nothing() -> None:
    for point in range(8):
        for luck in range(10):
            disk = SimDisk(random.Random(luck))
            disk.crash_after = point
            first = [Entry(b"\x02config", 2, 1)]
            done = False
            try:
                wal.create(disk, "cl", "n1", SEGMENT, first, 1)
                done = True
            except PowerLoss:
                pass
            disk.power_loss()
            assert wal.exists(disk) or not done
            if wal.exists(disk):
                recovered = recovery.recover(disk, SEGMENT)[1]
                assert (recovered.entries[1:], recovered.term) == (first, 1)


# --- damage ---


def several_segments() -> tuple[SimDisk, list[str]]:
    disk, log = opened(3)
    for index in range(2, 90):
        log.entry(Entry(b"\x00" + bytes([index]) * 200, index, 1))
        log.write(log.take())
    names = [n for n in disk.list() if n.startswith("wal-")]
    assert len(names) > 4
    return disk, names


def last_flush(disk: SimDisk, name: str) -> tuple[int, int]:
    """(start of the newest FLUSH record, end of the records) of a segment."""
    start = end = 0
    for offset, kind, _, after in recovery._records(int(name[4:-4]), disk.read(name)):
        start, end = (offset if kind == wal.FLUSH else start), after
    return start, end


def test_bit_rot_in_every_region_is_refused_with_file_and_offset() -> None:
    disk, names = several_segments()
    pristine = {name: disk.read(name) for name in names}
    whole = recovery.recover(disk, SEGMENT)[1].entries
    for name in names:
        flush, end = last_flush(disk, name)
        for offset in range(0, end, 3):
            disk.rot(name, offset)
            if name == names[-1] and offset >= flush:
                # Damage in the newest flush cannot be told from a torn one: it is cut, and nothing before it is lost.
                assert recovery.recover(disk, SEGMENT)[1].entries == whole[:-1]
            else:
                with pytest.raises(JournalError) as caught:
                    recovery.recover(disk, SEGMENT)
                said = str(caught.value)
                assert re.match(r"wal-\d{16}\.seg: offset \d+", said), said
                assert "wipe this server and join it again" in said
            disk.write(name, 0, pristine[name])
    assert recovery.recover(disk, SEGMENT)[1].entries == whole


def test_damage_in_the_only_segment_names_the_offset() -> None:
    disk, log = opened(1)
    for index in range(2, 6):
        log.entry(Entry(b"\x00abc", index, 1))
        log.write(log.take())
    start = next(o for o, kind, _, _ in recovery._records(1, disk.read(wal.segment_name(1))) if kind == wal.ENTRY)
    disk.rot(wal.segment_name(1), start + 12)
    with pytest.raises(JournalError, match=rf"{wal.segment_name(1)}: offset {start} is damaged but was durable up to"):
        recovery.recover(disk, SEGMENT)


def test_a_rotten_head_of_the_newest_segment_is_damage_not_an_unfinished_creation() -> None:
    disk, names = several_segments()
    disk.rot(names[-1], 12)
    with pytest.raises(JournalError, match=f"{names[-1]}: offset 0 is damaged"):
        recovery.recover(disk, SEGMENT)
    assert names[-1] in disk.list()


def test_a_segment_whose_creation_was_cut_off_is_removed_with_a_warning() -> None:
    disk, names = several_segments()
    disk.create(wal.segment_name(int(names[-1][4:-4]) + 1), SEGMENT)
    recovered = recovery.recover(disk, SEGMENT)[1]
    assert [w for w in recovered.warnings if "creation had not finished" in w]
    assert [n for n in disk.list() if n.startswith("wal-")] == names


def test_missing_and_mixed_up_files() -> None:
    disk, names = several_segments()
    content = disk.read(names[2])
    disk.remove(names[2])
    with pytest.raises(JournalError, match=f"{names[3]}: a segment before it is missing"):
        recovery.recover(disk, SEGMENT)
    disk.create(names[2], SEGMENT)
    disk.write(names[2], 0, disk.read(names[1]))
    with pytest.raises(JournalError, match=names[2]):  # its records are seeded with another sequence number
        recovery.recover(disk, SEGMENT)
    disk.write(names[2], 0, content)
    recovery.recover(disk, SEGMENT)
    other, log = opened(9)
    for index in range(2, 90):
        log.entry(Entry(b"\x00other" * 40, index, 9))
        log.write(log.take())
    disk.write(names[2], 0, other.read(names[2]))
    with pytest.raises(JournalError, match="entries are lost"):
        recovery.recover(disk, SEGMENT)


def test_a_segment_of_another_server_is_refused() -> None:
    disk, names = several_segments()
    sequence = int(names[-1][4:-4])
    prev = recovery.recover(disk, SEGMENT)[1].entries[-1]
    head = wal.Head("cl", "n2", prev.index, prev.term)
    new = wal.segment_name(sequence + 1)
    disk.create(new, SEGMENT)
    disk.write(new, 0, wal.record(sequence + 1, wal.HEAD, head.pack(sequence + 1)))
    with pytest.raises(JournalError, match=f"{new}: offset 0: it belongs to another server or cluster"):
        recovery.recover(disk, SEGMENT)


def test_a_newer_format_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk(random.Random(1))
    with monkeypatch.context() as patch:
        patch.setattr(wal, "FORMAT", 7)
        wal.create(disk, "cl", "n1", SEGMENT)
    with pytest.raises(JournalError, match=r"newer version \(format 7\): install that version"):
        recovery.recover(disk, SEGMENT)


def test_no_segments_and_stray_files() -> None:
    disk = SimDisk(random.Random(1))
    with pytest.raises(JournalError, match="no segments"):
        recovery.recover(disk, SEGMENT)
    disk, names = several_segments()
    disk.create(names[0] + ".bak", 0)
    with pytest.raises(JournalError, match=r"\.bak is not a journal file"):
        recovery.recover(disk, SEGMENT)


def test_a_log_whose_snapshot_is_missing_is_refused() -> None:
    disk, names = several_segments()
    for name in names[:2]:
        disk.remove(name)
    with pytest.raises(JournalError, match="no snapshot covers what was before"):
        recovery.recover(disk, SEGMENT)


# --- segments come and go ---


def test_recycled_files_never_bring_old_records_back() -> None:
    disk, log = opened(5)
    index = 1
    for _ in range(300):
        index += 1
        log.entry(Entry(b"\x00" + index.to_bytes(4, "big") * 30, index, 1))
        if index % 10 == 0:
            log.snap(Snapshot(index - 5, 1, f"s{index}", 1, "", CONFIGURATION, 0), index - 4)
        log.write(log.take())
        if index % 7 == 0:
            disk.power_loss()
            log, recovered = recovery.recover(disk, SEGMENT)
            assert recovered.entries[-1].index == index
            assert all(e.command == b"\x00" + e.index.to_bytes(4, "big") * 30 for e in recovered.entries[1:])
    names = disk.list()
    assert len([n for n in names if n.startswith("wal-")]) < 6  # old segments go
    assert 1 <= len([n for n in names if n.startswith(wal.SPARE)]) <= wal.SPARES


def test_a_cut_below_a_segment_that_is_gone() -> None:
    """The cut is in the newest segment, what it cut is in one that a later snapshot has made superfluous."""
    disk, log = opened(6)
    for index in range(2, 12):
        log.entry(Entry(b"\x00" + bytes(250), index, 1))
        log.write(log.take())
    log.cut(5, 1)
    for index in range(5, 30):
        log.entry(Entry(b"\x00new" + bytes(200), index, 2))
        log.write(log.take())
    before = recovery.recover(disk, SEGMENT)[1]
    log.snap(Snapshot(25, 2, "s", 1, "", CONFIGURATION, 0), 24)
    log.write(log.take())
    assert wal.segment_name(1) not in disk.list()
    recovered = recovery.recover(disk, SEGMENT)[1]
    assert recovered.entries[-1] == before.entries[-1]
    assert recovered.entries[0].index <= 23
    assert all(e.command.startswith(b"\x00new") for e in recovered.entries[1:] if e.index >= 5)


def test_reset_replaces_everything() -> None:
    disk, log = opened(7)
    for index in range(2, 20):
        log.entry(Entry(b"\x00" + bytes(150), index, 1))
        log.write(log.take())
    log.reset(Snapshot(100, 4, "s", 1, "", CONFIGURATION, 0))
    log.entry(Entry(b"\x00x", 101, 4))
    log.write(log.take())
    recovered = recovery.recover(disk, SEGMENT)[1]
    assert [(e.index, e.term) for e in recovered.entries] == [(100, 4), (101, 4)]
    assert recovered.commit == 100
    assert recovered.snapshot is not None
    for index in range(102, 140):
        log.entry(Entry(b"\x00" + bytes(150), index, 4))
        log.write(log.take())
    assert recovery.recover(disk, SEGMENT)[1].entries[-1].index == 139


def test_a_batch_larger_than_a_segment_gets_one_of_its_own() -> None:
    disk, log = opened(8)
    log.entry(Entry(b"\x00" + bytes(10 * SEGMENT), 2, 1))
    log.write(log.take())
    assert recovery.recover(disk, SEGMENT)[1].entries[-1].index == 2


def test_removed_and_votes_survive_rolling() -> None:
    disk, log = opened(9)
    log.meta(7, "n3")
    log.mark_removed()
    log.leader_commit(77)
    for index in range(2, 40):
        log.entry(Entry(b"\x00" + bytes(150), index, 7))
        log.snap(Snapshot(index, 7, "s", 1, "", CONFIGURATION, 0), index + 1)
        log.write(log.take())
    recovered = recovery.recover(disk, SEGMENT)[1]
    assert (recovered.term, recovered.voted_for, recovered.removed) == (7, "n3", True)
    assert (recovered.leader_commit, recovered.commit) == (77, 39)  # what a leader said says nothing about this log


class LimitedDisk(SimDisk):
    """Refuses to reserve what it does not have."""

    def create(self, name: str, size: int) -> None:
        if size > self.free():
            raise OSError(errno.ENOSPC, "No space left on device")
        super().create(name, size)


def test_what_capacity_grants_can_be_written_whatever_else_takes_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries come as fast as they are granted, flushes lag, and a snapshot takes and gives back all the room there is."""
    segment = 256 * 1024
    monkeypatch.setattr(wal, "SLACK", 16 * 1024)
    monkeypatch.setattr(wal, "MARGIN", 4 * segment)
    grown = 0
    for seed in range(80):
        rng = random.Random(seed)
        disk = LimitedDisk(rng, capacity=rng.randint(2, 16) * segment)
        wal.create(disk, "cl", "n1", segment)
        log = recovery.recover(disk, segment)[0]
        index = granted = 1
        for _window in range(30):
            reserve = disk.capacity // 20
            left = log.capacity(disk.free() - reserve) - granted if disk.free() >= reserve else 0
            granted = 0
            taken = rng.random() < 0.3 and disk.free() < 4 * segment
            if taken:
                disk.create("snap", disk.free())
            for _ in range(rng.randint(0, 60)):
                size = rng.randint(1, 20_000)
                if size + 256 > left:
                    break
                left -= size + 256
                granted += size + 256
                index += 1
                log.entry(Entry(bytes(size), index, 1))
                if rng.random() < 0.3:
                    log.write(log.take())
            log.write(log.take())
            grown += granted > 0
            if "snap" in disk.list():
                disk.remove("snap")
        assert recovery.recover(disk, segment)[1].entries[-1].index == index
    assert grown > 500


def test_what_is_on_its_way_to_a_slow_disk_counts_for_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that takes longer than the time between two looks: what it writes would be granted twice."""
    segment = 256 * 1024
    monkeypatch.setattr(wal, "SLACK", 16 * 1024)
    disk = LimitedDisk(random.Random(1), capacity=segment + 1000)
    wal.create(disk, "cl", "n1", segment)
    log = recovery.recover(disk, segment)[0]
    log.entry(Entry(bytes(150_000), 2, 1))
    slow = log.take()
    granted = log.capacity(disk.free())
    assert granted > 50_000
    log.entry(Entry(bytes(granted - 256), 3, 1))
    log.write(slow)
    log.write(log.take())  # else a new segment is begun, for which there is no room
    assert recovery.recover(disk, segment)[1].entries[-1].index == 3


def test_capacity_comes_back_with_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = 256 * 1024
    disk = LimitedDisk(random.Random(1), capacity=3 * segment)
    wal.create(disk, "cl", "n1", segment)
    log = recovery.recover(disk, segment)[0]
    disk.create("ballast", 2 * segment)
    index = 1
    while log.capacity(disk.free()) > 20_000:
        index += 1
        log.entry(Entry(bytes(10_000), index, 1))
        log.write(log.take())
    assert index > 10
    disk.remove("ballast")
    assert log.capacity(disk.free()) == segment // 2
    assert [n for n in disk.list() if n.startswith(wal.SPARE)]
