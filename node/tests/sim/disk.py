# SPDX-License-Identifier: Apache-2.0
"""A disk that forgets: what was not synced may be lost, torn or kept when the power goes."""

from __future__ import annotations

import random
from collections.abc import Callable

SECTOR = 512


class PowerLoss(Exception):
    """The simulated machine stopped in the middle of a disk call."""


class _File:
    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.writes: list[tuple[int, bytes]] = []


class SimDisk:
    """Implements the Disk port. `crash_after` counts calls down to a PowerLoss; `capacity` is in bytes."""

    def __init__(self, rng: random.Random, capacity: int = 1 << 40) -> None:
        self._rng = rng
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._moves: list[Callable[[dict[str, _File]], None]] = []
        self.crash_after: int | None = None
        self.lose_syncs = False  # a mutant: fdatasync does nothing
        self.capacity = capacity
        self.calls = 0

    def _call(self) -> None:
        self.calls += 1
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                raise PowerLoss

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
        file = _File()
        file.data = bytearray(size)
        file.durable = bytes(size)
        self._move(lambda names: names.__setitem__(name, file))

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._call()
        file = self._names[name]
        if len(file.data) < offset + len(data):
            file.data.extend(bytes(offset + len(data) - len(file.data)))
        file.data[offset : offset + len(data)] = data
        file.writes.append((offset, data))

    def sync(self, name: str) -> None:
        self._call()
        if self.lose_syncs:
            return
        file = self._names[name]
        file.durable = bytes(file.data)
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
        self._moves = []
        self._durable_names = dict(self._names)

    def free(self) -> int:
        return self.capacity - sum(len(f.data) for f in self._names.values())

    def rot(self, name: str, offset: int) -> None:
        """Flip one durable byte."""
        file = self._names[name]
        file.data[offset] ^= 0x5A
        file.durable = bytes(file.data)

    def power_loss(self) -> None:
        """Settle on what a real disk could hold now: a prefix of the renames, any part of the unsynced writes."""
        self.crash_after = None
        names = dict(self._durable_names)
        for move in self._moves[: self._rng.randint(0, len(self._moves))]:
            move(names)
        for file in {id(f): f for f in names.values()}.values():
            data = bytearray(file.durable)
            for offset, written in file.writes:
                if self._rng.random() < 0.4:
                    continue
                for start in range(0, len(written), SECTOR):
                    if self._rng.random() < 0.8:
                        piece = written[start : start + SECTOR]
                        end = offset + start + len(piece)
                        if len(data) < end:
                            data.extend(bytes(end - len(data)))
                        data[offset + start : end] = piece
            file.data, file.durable, file.writes = data, bytes(data), []
        self._names, self._durable_names, self._moves = names, dict(names), []
