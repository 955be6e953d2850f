# SPDX-License-Identifier: Apache-2.0
"""The recorded OpenBao snapshot, read by a minimal reader of its archive format (raft-api.md 3.1)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session")
def archive() -> dict[str, bytes]:
    """Name and content of every member of the recorded snapshot."""
    with tarfile.open(FIXTURES / "openbao-2.6.2.snap", "r:gz") as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """What is known of the snapshot: keys, threshold, secrets."""
    loaded: dict[str, Any] = json.loads((FIXTURES / "openbao-2.6.2.snap.json").read_text())
    return loaded


@pytest.fixture(scope="session")
def entries(archive: dict[str, bytes]) -> dict[str, bytes]:
    """Key and stored value of every StorageEntry in state.bin."""
    state = archive["state.bin"]
    found = {}
    position = 0
    while position < len(state):
        size, position = _varint(state, position)
        key, value = _entry(state[position : position + size])
        found[key] = value
        position += size
    return found


def _entry(message: bytes) -> tuple[str, bytes]:
    key, value, position = "", b"", 0
    while position < len(message):
        tag, position = _varint(message, position)
        size, position = _varint(message, position)
        if tag & 7 == 0:
            continue
        part = message[position : position + size]
        position += size
        if tag >> 3 == 1:
            key = part.decode()
        elif tag >> 3 == 2:
            value = part
    return key, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
