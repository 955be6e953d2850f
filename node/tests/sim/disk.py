# SPDX-License-Identifier: Apache-2.0
"""A disk that forgets: what was not synced may be lost, torn or kept when the power goes.

It also fails: a write or a creation beyond `capacity` is refused (ENOSPC), and a call may fail with EIO. After a failed fdatasync
any part of what was written since the last good one may have reached the disk, the page cache still shows all of it, and a
later fdatasync succeeds without writing it (Linux marks the dirty pages clean). A process that dies leaves the page cache alone.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

SECTOR = 512


class PowerLoss(Exception):
    """The simulated machine stopped in the middle of a disk call."""


class _File:
    def __init__(self, size: int = 0) -> None:
        self.data = bytearray(size)  # the page cache
        self.durable = bytearray(size)
        self.writes: list[tuple[int, bytes]] = []  # dirty


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset + len(piece):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset : offset + len(piece)] = piece


class SimDisk:
    """Implements the Disk port. `crash_after` counts calls down to a PowerLoss, `error_after` to an EIO; `capacity` is in bytes."""

    def __init__(self, rng: random.Random, capacity: int = 1 << 40) -> None:
        self._rng = rng
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._moves: list[Callable[[dict[str, _File]], None]] = []
        self.crash_after: int | None = None
        self.error_after: int | None = None
        self.lose_syncs = False  # a mutant: fdatasync does nothing
        self.capacity = capacity
        self.calls = 0
        self.errors = 0  # OSErrors raised so far

    def _call(self) -> None:
        self.calls += 1
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                raise PowerLoss

    def _error(self, number: int) -> OSError:
        self.errors += 1
        return OSError(number, os.strerror(number))

    def _broken(self) -> bool:
        """True when this call is the one that fails."""
        if self.error_after is None:
            return False
        self.error_after -= 1
        if self.error_after >= 0:
            return False
        self.error_after = None
        return True

    def _move(self, change: Callable[[dict[str, _File]], None]) -> None:
        change(self._names)
        self._moves.append(change)

    def list(self) -> list[str]:
        return sorted(self._names)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        if name not in self._names:
            raise FileNotFoundError(name)
        data = self._names[name].data
        return bytes(data[offset:] if size is None else data[offset : offset + size])

    def size(self, name: str) -> int:
        return len(self._names[name].data)

    def create(self, name: str, size: int) -> None:
        self._call()
        if self._broken():
            raise self._error(errno.EIO)
        if size > self.free() + (len(self._names[name].data) if name in self._names else 0):
            self._move(lambda names: names.pop(name, None) and None)
            raise self._error(errno.ENOSPC)
        file = _File(size)
        self._move(lambda names: names.__setitem__(name, file))

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._call()
        file = self._names[name]
        room = max(0, self.free() + len(file.data) - offset)
        failure = errno.EIO if self._broken() else errno.ENOSPC if len(data) > room else None
        if failure is not None:  # a part of it may be written
            data = data[: self._rng.randint(0, min(room, len(data)))]
        _put(file.data, offset, data)
        file.writes.append((offset, data))
        if failure is not None:
            raise self._error(failure)

    def sync(self, name: str) -> None:
        self._call()
        if self.lose_syncs:
            return
        file = self._names[name]
        if self._broken():
            self._settle(file)
            raise self._error(errno.EIO)
        for offset, data in file.writes:
            _put(file.durable, offset, data)
        file.writes = []

    def rename(self, old: str, new: str) -> None:
        self._call()

        def change(names: dict[str, _File]) -> None:
            if old in names:
                names[new] = names.pop(old)

        self._move(change)

    def remove(self, name: str) -> None:
        self._call()
        self._move(lambda names: names.pop(name, None) and None)

    def sync_dir(self) -> None:
        self._call()
        if self._broken():
            raise self._error(errno.EIO)
        self._moves = []
        self._durable_names = dict(self._names)

    def free(self) -> int:
        return self.capacity - sum(len(f.data) for f in self._names.values())

    def rot(self, name: str, offset: int) -> None:
        """Flip one durable byte."""
        file = self._names[name]
        file.data[offset] ^= 0x5A
        file.durable[offset] ^= 0x5A

    def _settle(self, file: _File) -> None:
        """Some of the dirty sectors reach the disk, the others never will."""
        for offset, written in file.writes:
            if self._rng.random() < 0.4:
                continue
            for start in range(0, len(written), SECTOR):
                if self._rng.random() < 0.8:
                    _put(file.durable, offset + start, written[start : start + SECTOR])
        file.writes = []

    def power_loss(self) -> None:
        """Settle on what a real disk could hold now: a prefix of the renames, any part of the unsynced writes."""
        self.crash_after = self.error_after = None
        names = dict(self._durable_names)
        for move in self._moves[: self._rng.randint(0, len(self._moves))]:
            move(names)
        for file in {id(f): f for f in names.values()}.values():
            self._settle(file)
            file.data = bytearray(file.durable)
        self._names, self._durable_names, self._moves = names, dict(names), []
