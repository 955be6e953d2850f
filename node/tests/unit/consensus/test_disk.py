# SPDX-License-Identifier: Apache-2.0
"""The Disk port on a real directory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from holdfast.consensus import disk as disk_module
from holdfast.consensus.disk import FileDisk


def test_a_large_file_loses_its_name_at_once_and_its_room_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_STEP", 1000)
    sizes: list[int] = []
    real = os.ftruncate
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: (sizes.append(size), real(fd, size)))
    disk = FileDisk(tmp_path)
    disk.create("big", 0)
    disk.write("big", 0, bytes(4500))
    before = set(os.listdir("/proc/self/fd"))
    disk.remove("big")
    assert disk.list() == []
    disk.create("big", 10)  # the name is free
    for thread in [t for t in threading.enumerate() if t.name == "remove"]:
        thread.join(10)
    assert sizes == [3500, 2500, 1500, 500]
    assert disk.size("big") == 10
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)
    disk.remove("big")
    disk.remove("big")
    disk.close()


def test_an_enospc_while_creating_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    disk = FileDisk(tmp_path)
    with pytest.raises(OSError, match="No space"):
        disk.create("a", 100)
    assert disk.list() == []
