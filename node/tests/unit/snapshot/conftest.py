# SPDX-License-Identifier: Apache-2.0
"""Archives to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from holdfast.snapshot.archive import ArchiveWriter, Meta, SnapshotServer
from holdfast.state.records import encode_entry

REAL = Path(__file__).parents[2] / "fixtures" / "openbao-2.6.2.snap"


def build_archive(entries: Iterable[tuple[str, bytes]], sealed: bytes = b"sealed") -> bytes:
    state = b"".join(encode_entry(key, value) for key, value in entries)
    writer = ArchiveWriter(Meta(7, 3, len(state), 2, (SnapshotServer("n1", "127.0.0.1:8201", True),)), 0)
    out = writer.start() + writer.state(state)
    return out + writer.finish(sealed)


@pytest.fixture(scope="session")
def real_archive() -> bytes:
    """A snapshot of a real OpenBao 2.6.2."""
    return REAL.read_bytes()


@pytest.fixture(scope="session")
def make_archive() -> Callable[..., bytes]:
    """`make_archive([(key, value), …])`."""
    return build_archive
