# SPDX-License-Identifier: Apache-2.0
"""State files: whole or refused."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.state import files

ITEMS = {f"key/{n}": (bytes([n]) * (n * 7), n + 1) for n in range(40)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=9), st.tuples(st.binary(max_size=40), st.integers(0, 2**60)), max_size=20))
def test_round_trip(tmp_path: Path, items: dict[str, tuple[bytes, int]]) -> None:
    path = tmp_path / "s.state"
    size, sha = files.write(path, items.items())
    assert dict(files.read(path)) == items
    assert size == path.stat().st_size
    assert sha == hashlib.sha256(path.read_bytes()).hexdigest()


def test_private_and_in_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "s.state"
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    big = {f"{n}": (os.urandom(100_000), n) for n in range(12)}
    files.write(path, big.items(), pause)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pauses >= 5
    assert dict(files.read(path)) == big


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "s.state"
    files.write(path, ITEMS.items())
    return path


def test_every_cut_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for length in range(len(data)):
        saved.write_bytes(data[:length])
        with pytest.raises(files.StateFileError, match=r"s\.state"):
            dict(files.read(saved))


def test_every_flipped_bit_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    rng = random.Random(1)
    for offset in range(len(data)):
        broken = bytearray(data)
        broken[offset] ^= 1 << rng.randrange(8)
        saved.write_bytes(broken)
        with pytest.raises(files.StateFileError, match=r"s\.state"):
            dict(files.read(saved))


def test_bytes_after_the_end_and_repeated_blocks_are_refused(saved: Path) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data + b"\x00")
    with pytest.raises(files.StateFileError, match="goes on after its end"):
        dict(files.read(saved))
    body, end = data[len(files.MAGIC) : -8], data[-8:]
    saved.write_bytes(files.MAGIC + end)
    with pytest.raises(files.StateFileError, match="lacks entries"):
        dict(files.read(saved))
    saved.write_bytes(files.MAGIC + body + struct.pack("<II", 0, len(ITEMS) + 1))
    with pytest.raises(files.StateFileError, match="lacks entries"):
        dict(files.read(saved))


def test_a_length_of_gigabytes_is_refused_before_memory_is_asked_for(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(saved.read_bytes())
    data[len(files.MAGIC) : len(files.MAGIC) + 4] = b"\xff\xff\xff\xff"
    saved.write_bytes(data)
    asked: list[int] = []
    real = Path.open

    class Watched:
        def __init__(self, file: object) -> None:
            self._file = file

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()  # type: ignore[attr-defined]

        def read(self, size: int) -> bytes:
            asked.append(size)
            return self._file.read(size)  # type: ignore[attr-defined, no-any-return]

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    monkeypatch.setattr(Path, "open", lambda path, *a: Watched(real(path, *a)))
    with pytest.raises(files.StateFileError, match="damaged near offset"):
        dict(files.read(saved))
    assert max(asked) < 1 << 20
