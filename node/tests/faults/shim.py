# SPDX-License-Identifier: Apache-2.0
"""Compiles shim.c and speaks to it: one `Shim` is one process's disk and clocks."""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
SYNC, WRITE, ALLOCATE = 1, 2, 4
FOREVER = -1
_FIELDS = (
    "delay_us",
    "error",
    "calls",
    "failures",
    "offset_ns",
    "rate_ppm",
    "seen_syncs",
    "seen_failures",
    "seen_after",
)


class NoCompiler(Exception):
    """The shim cannot be made here."""


def build(folder: Path) -> Path:
    """The library, made in `folder`. Raises NoCompiler with the reason."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompiler("there is no C compiler (cc) to make the fault library with: install gcc")
    target = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(target), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoCompiler(f"the fault library cannot be compiled here: {done.stderr.strip()[:500]}")
    return target


class Shim:
    """The control file of one process. `below` is the directory whose disk is bad."""

    def __init__(self, library: Path, control: Path, below: Path) -> None:
        self._library, self._control, self._below = library, control, below
        control.write_bytes(bytes(8 * len(_FIELDS)))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def environment(self) -> dict[str, str]:
        """What the process must be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAULTS_CONTROL": str(self._control),
            "FAULTS_PATH": str(self._below.resolve()),
        }

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            struct.pack_into("<q", self._memory, 8 * _FIELDS.index(name), value)

    def get(self, name: str) -> int:
        """A field of the control structure."""
        value: int = struct.unpack_from("<q", self._memory, 8 * _FIELDS.index(name))[0]
        return value

    def slow(self, seconds: float) -> None:
        """Every sync takes this much longer."""
        self._set(delay_us=int(seconds * 1e6))

    def fail(self, calls: int = SYNC, error: int = errno.EIO, times: int = 1) -> None:
        """The next `times` calls of these kinds fail (FOREVER: all of them)."""
        self._set(failures=0)
        self._set(error=error, calls=calls, seen_failures=0, seen_after=0)
        self._set(failures=times)

    def jump(self, seconds: float) -> None:
        """The wall clock is this much ahead of the true time (or behind, when negative)."""
        self._set(offset_ns=int(seconds * 1e9))

    def rate(self, percent: float) -> None:
        """The monotonic clocks have been running this much faster since the process began. Set it before the start."""
        self._set(rate_ppm=int(percent * 10_000))

    def well(self) -> None:
        """Disk and wall clock are as they should be."""
        self._set(delay_us=0, error=0, calls=0, failures=0, offset_ns=0)
