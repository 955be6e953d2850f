# SPDX-License-Identifier: Apache-2.0
"""The Disk port on a real directory. Files are 0600; sizes are reserved when a file is created."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

_STEP = 32 * 1024 * 1024  # bytes


def _shrink(descriptor: int) -> None:
    """Give the room of a file without a name back in steps: all at once, gigabytes stop the caller and the file system's journal."""
    try:
        for size in range(os.fstat(descriptor).st_size - _STEP, 0, -_STEP):
            os.ftruncate(descriptor, size)
            time.sleep(0.01)
    except OSError:  # what is left goes when the file is closed
        pass
    finally:
        os.close(descriptor)


class FileDisk:
    """One flat directory (0700). Used from the event loop and from the journal's thread."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def _descriptor(self, name: str) -> int:
        with self._lock:
            descriptor = self._open.get(name)
            if descriptor is None:
                descriptor = os.open(self.path / name, os.O_RDWR | os.O_CLOEXEC)
                self._open[name] = descriptor
            return descriptor

    def _forget(self, name: str) -> None:
        with self._lock:
            descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def list(self) -> list[str]:
        """Names in the directory, sorted."""
        return sorted(os.listdir(self.path))

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of a file."""
        descriptor = self._descriptor(name)
        if size is None:
            size = os.fstat(descriptor).st_size - offset
        return os.pread(descriptor, max(0, size), offset)

    def size(self, name: str) -> int:
        """Length of a file in bytes."""
        return os.stat(self.path / name).st_size

    def create(self, name: str, size: int) -> None:
        """A new file with `size` zero bytes reserved; raises OSError (ENOSPC) when they cannot be, leaving nothing."""
        self._forget(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(self.path / name, flags, 0o600)
        try:
            if size:
                os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            os.unlink(self.path / name)
            raise
        with self._lock:
            self._open[name] = descriptor

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""
        descriptor = self._descriptor(name)
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view = view[written:]
            offset += written

    def sync(self, name: str) -> None:
        """fdatasync."""
        os.fdatasync(self._descriptor(name))

    def rename(self, old: str, new: str) -> None:
        """Atomic rename, over an existing file if there is one."""
        self._forget(new)
        os.rename(self.path / old, self.path / new)
        with self._lock:
            if old in self._open:
                self._open[new] = self._open.pop(old)

    def remove(self, name: str) -> None:
        """Delete a file; no error when it is gone already. The name goes at once, the room of a large file bit by bit."""
        self._forget(name)
        try:
            descriptor = os.open(self.path / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        os.unlink(self.path / name)
        if os.fstat(descriptor).st_size > _STEP:
            threading.Thread(target=_shrink, args=(descriptor,), name="remove", daemon=True).start()
        else:
            os.close(descriptor)

    def sync_dir(self) -> None:
        """fsync of the directory."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free(self) -> int:
        """Bytes an unprivileged process may still use."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def total(self) -> int:
        """Size of the file system in bytes."""
        stat = os.statvfs(self.path)
        return stat.f_blocks * stat.f_frsize

    def close(self) -> None:
        """Close every file."""
        for name in list(self._open):
            self._forget(name)
