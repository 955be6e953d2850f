# SPDX-License-Identifier: Apache-2.0
"""The archive format, both ways, against a real OpenBao snapshot and against damage of every kind."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.snapshot.archive import ArchiveReader, ArchiveWriter, Meta, SnapshotError, Verified
from holdfast.snapshot.inspect import inspect, verify
from holdfast.state.records import EntryDecoder, encode_entry


def read(data: bytes, piece: int = 1 << 20, on_state: Any = None) -> Verified:
    reader = ArchiveReader(on_state)
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader.finish()


def tar_of(members: list[tuple[str, bytes]], level: int = 6, kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), level)


def good_members(state: bytes = b"") -> dict[str, bytes]:
    meta = Meta(5, 2, len(state)).to_json()
    sums = f"{hashlib.sha256(meta).hexdigest()}  meta.json\n{hashlib.sha256(state).hexdigest()}  state.bin\n"
    return {"meta.json": meta, "state.bin": state, "SHA256SUMS": sums.encode(), "SHA256SUMS.sealed": b"x"}


@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 1 << 20])
def test_real_snapshot(real_archive: bytes, piece: int) -> None:
    decoder, keys = EntryDecoder(), {}
    verified = read(real_archive, piece, lambda data: keys.update(decoder.feed(data)))
    decoder.finish()
    assert (verified.meta.index, verified.meta.term, verified.state_size) == (69, 3, 28737)
    assert [server.node_id for server in verified.meta.servers] == ["raft1", "raft2", "raft3"]
    assert len(keys) == 82
    assert json.loads(keys["core/seal-config"])["secret_threshold"] == 3


def test_our_archive_is_the_same_format(real_archive: bytes) -> None:
    pieces: list[bytes] = []
    verified = read(real_archive, on_state=pieces.append)
    writer = ArchiveWriter(verified.meta, 0)
    out = writer.start() + b"".join(writer.state(piece) for piece in pieces)
    assert writer.sums() == verified.sums
    out += writer.finish(verified.sealed)
    assert read(out) == verified
    with tarfile.open(fileobj=io.BytesIO(out)) as tar, tarfile.open(fileobj=io.BytesIO(real_archive)) as theirs:
        assert tar.getnames() == theirs.getnames()
        for name in tar.getnames():
            ours, other = tar.extractfile(name), theirs.extractfile(name)
            assert ours is not None
            assert other is not None
            assert ours.read() == other.read()


@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_compression(level: int) -> None:
    assert read(tar_of(list(good_members(b"abc" * 900).items()), level)).state_size == 2700


def test_every_truncation_is_refused(make_archive: Callable[..., bytes]) -> None:
    data = make_archive([("core/keyring", b"v" * 700), ("logical/a", b"w")])
    for length in range(len(data)):
        with pytest.raises(SnapshotError):
            read(data[:length])
    assert read(data).meta.index == 7


def test_every_changed_byte_is_refused_or_harmless(make_archive: Callable[..., bytes]) -> None:
    data = make_archive([("core/keyring", b"v" * 50)])
    good = read(data)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        try:
            verified = read(bytes(damaged))
        except SnapshotError:
            continue
        assert verified == good  # a byte without meaning, such as the time in the gzip header


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.pop("SHA256SUMS.sealed"), "incomplete snapshot, unable to read SHA256SUMS.sealed file"),
        (lambda m: m.pop("state.bin"), "incomplete snapshot, unable to read state.bin file"),
        (lambda m: m.pop("meta.json"), "incomplete snapshot, unable to read meta.json file"),
        (lambda m: m.update({"state.bin": b"other"}), 'hash check failed for "state.bin"'),
        (lambda m: m.update({"meta.json": Meta(6, 2, 0).to_json()}), 'hash check failed for "meta.json"'),
        (lambda m: m.update({"evil": b""}), "unexpected file 'evil' in snapshot"),
        (lambda m: m.update({"SHA256SUMS": m["SHA256SUMS"].splitlines(True)[0]}), 'list missing hash for "state.bin"'),
        (lambda m: m.update({"SHA256SUMS": m["SHA256SUMS"] + b"0" * 64 + b"  more\n"}), "file missing for 'more'"),
        (lambda m: m.update({"SHA256SUMS": b"nonsense\n"}), "SHA256SUMS of the snapshot is not valid"),
        (lambda m: m.update({"SHA256SUMS": b"x" * 9000}), "SHA256SUMS of the snapshot is too large"),
    ],
)
def test_wrong_members(change: Any, text: str) -> None:
    members = good_members()
    change(members)
    with pytest.raises(SnapshotError) as caught:
        read(tar_of(list(members.items())))
    assert str(caught.value) == text


def test_meta_must_fit_and_make_sense() -> None:
    for meta in (b"{}", b"[]", b"null", b"{", b'{"Version":1,"Index":-1,"Term":1,"Size":0}', b"\xff"):
        members = good_members()
        members["meta.json"] = meta
        digest = hashlib.sha256(meta).hexdigest().encode()
        members["SHA256SUMS"] = digest + b"  meta.json\n" + members["SHA256SUMS"].splitlines(True)[1]
        with pytest.raises(SnapshotError, match=r"meta\.json of the snapshot is not valid"):
            read(tar_of(list(members.items())))


def test_duplicates_links_and_trailing_data() -> None:
    members = list(good_members().items())
    with pytest.raises(SnapshotError, match="twice"):
        read(tar_of([members[0], *members]))
    with pytest.raises(SnapshotError, match="unexpected file"):
        read(tar_of(members, kind=tarfile.SYMTYPE))
    with pytest.raises(SnapshotError, match="after the end"):
        read(tar_of(members) + b"more")
    with pytest.raises(SnapshotError, match="after the end"):
        read(gzip.compress(gzip.decompress(tar_of(members)) + b"x"))
    with pytest.raises(SnapshotError, match="empty"):
        read(b"")
    with pytest.raises(SnapshotError, match="not gzip"):
        read(b"garbage" * 100)


def test_a_bomb_is_stopped_early() -> None:
    members = dict(good_members())
    members["SHA256SUMS.sealed"] = bytes(64 * 1024 * 1024)
    with pytest.raises(SnapshotError, match="too large"):
        read(tar_of(list(members.items()), 9))
    with pytest.raises(SnapshotError, match="after the end"):
        read(gzip.compress(gzip.decompress(tar_of(list(good_members().items()))) + bytes(64 * 1024 * 1024), 9))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4000))
def test_garbage_is_never_anything_but_a_snapshot_error(data: bytes) -> None:
    for candidate in (data, gzip.compress(data)):
        with pytest.raises(SnapshotError):
            verify(iter([candidate]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_tar_is_never_anything_but_a_snapshot_error(data: st.DataObject) -> None:
    plain = bytearray(gzip.decompress(tar_of(list(good_members(encode_entry("core/keyring", b"v" * 20)).items()))))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, 6 * 512))
        plain[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SnapshotError):  # any other exception fails the test
        verify(iter([gzip.compress(bytes(plain))]))


def test_inspect(real_archive: bytes) -> None:
    report = inspect(iter([real_archive]), depth=1)
    assert report.keys == 82 == sum(usage.keys for usage in report.prefixes.values())
    assert set(report.prefixes) == {"core", "logical", "sys"}
    assert report.size == sum(usage.size for usage in report.prefixes.values())


def test_state_that_is_no_records_is_refused() -> None:
    with pytest.raises(SnapshotError, match="middle of a record"):
        verify(iter([tar_of(list(good_members(b"\x20abc").items()))]))


def test_writer_refuses_a_state_that_changed_size() -> None:
    writer = ArchiveWriter(Meta(1, 1, 3), 0)
    writer.start()
    writer.state(b"ab")
    with pytest.raises(SnapshotError):
        writer.sums()
    with pytest.raises(SnapshotError):
        writer.state(b"cd")
