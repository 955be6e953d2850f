# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of a snapshot file, on a real one of OpenBao and on damaged ones."""

from __future__ import annotations

import gzip
import io
import pathlib
import tarfile

import pytest

from ansible_collections.holdfast.raft.plugins.module_utils._archive import MEMBERS, check
from ansible_collections.holdfast.raft.plugins.module_utils._errors import ArchiveError
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import archive

REAL = pathlib.Path(__file__).parents[1] / "fixtures" / "openbao-2.6.2.snap"


def members() -> dict[str, bytes]:
    with tarfile.open(REAL) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def packed(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_a_real_snapshot() -> None:
    found = check(str(REAL))
    assert found.index > 0
    assert found.term > 0
    assert found.size == len(members()["state.bin"])
    assert found.servers == ("raft1", "raft2", "raft3")


def test_ours(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.snap"
    path.write_bytes(archive(b"state", "key", index=9))
    assert (check(str(path)).index, check(str(path)).size) == (9, 5)


def test_truncated_anywhere(tmp_path: pathlib.Path) -> None:
    """OpenBao takes one that lacks its last byte; a file that is to be kept for years must be whole."""
    path, data = tmp_path / "cut.snap", REAL.read_bytes()
    for length in [*range(0, len(data), 997), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:length])
        with pytest.raises(ArchiveError):
            check(str(path))


def test_flipped_bytes(tmp_path: pathlib.Path) -> None:
    path, data = tmp_path / "bad.snap", bytearray(REAL.read_bytes())
    for position in range(20, len(data), 1499):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(bytes(damaged))
        with pytest.raises(ArchiveError):
            check(str(path))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_is_missing(tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / "less.snap"
    path.write_bytes(packed({key: value for key, value in members().items() if key != name}))
    with pytest.raises(ArchiveError, match=name):
        check(str(path))


def test_what_does_not_belong(tmp_path: pathlib.Path) -> None:
    path, parts = tmp_path / "more.snap", members()
    path.write_bytes(packed({**parts, "../evil": b"x"}))
    with pytest.raises(ArchiveError, match="unexpected member"):
        check(str(path))
    path.write_bytes(packed({**parts, "state.bin": parts["state.bin"] + b"x"}))
    with pytest.raises(ArchiveError, match=r"hash of state\.bin"):
        check(str(path))
    path.write_bytes(packed({**parts, "SHA256SUMS.sealed": b""}))
    with pytest.raises(ArchiveError, match=r"SHA256SUMS\.sealed"):
        check(str(path))
    path.write_bytes(packed({**parts, "meta.json": b"x" * 9000}))
    with pytest.raises(ArchiveError, match="larger than"):
        check(str(path))


@pytest.mark.parametrize("content", [b"", b"garbage", gzip.compress(b"no tar")], ids=["empty", "garbage", "gzip of no tar"])
def test_no_archive_at_all(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "none.snap"
    path.write_bytes(content)
    with pytest.raises(ArchiveError):
        check(str(path))
    with pytest.raises(ArchiveError, match="No such file"):
        check(str(tmp_path / "absent"))
