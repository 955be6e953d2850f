# SPDX-License-Identifier: Apache-2.0
"""State files between servers, for snapshots and restores: repairs fault B9.

Chunks carry offset and CRC, the receiver's answers say how far it is (so a broken connection resumes), at most a window of
them is under way, and a file counts only when its sha256 is right and it is durable. Both sides hold one chunk at a time.
"""

from __future__ import annotations

import hashlib
import zlib

from holdfast.consensus.ports import Disk
from holdfast.consensus.types import Chunk, ChunkAck, Timing

_REREAD = 4 * 1024 * 1024  # bytes of an earlier part file that are hashed in one step


class Sender:
    """One file on its way to one server."""

    def __init__(self, file: str, size: int, sha256: str) -> None:
        self.file = file
        self.size = size
        self.sha256 = sha256
        self.acked = -1  # -1: the receiver has not said yet how far it is
        self.sent = 0
        self.complete = False
        self.begun = False  # the receiver holds some of it
        self._sent_at = float("-inf")
        self._fallen: int | None = None  # it said less than before: it started again, or an old answer came late

    def due(self, disk: Disk, now: float, timing: Timing) -> list[Chunk]:
        """The chunks to send now."""
        if self.complete:
            return []
        stalled = now - self._sent_at >= timing.resend * 2
        if stalled and self._fallen is not None:
            self.acked, self._fallen = self._fallen, None
        if self.acked < 0 or self.acked >= self.size:
            # Ask how far the receiver is, or whether it has verified the whole file meanwhile.
            if not stalled:
                return []
            self._sent_at = now
            return [Chunk(self.file, self.size, self.sha256, self.size if self.acked > 0 else 0, b"", 0)]
        if stalled:
            self.sent = self.acked
        chunks = []
        while self.sent < self.size and self.sent - self.acked < timing.chunk * timing.chunk_window:
            data = disk.read(self.file, self.sent, timing.chunk)
            if not data:
                break
            chunks.append(Chunk(self.file, self.size, self.sha256, self.sent, data, zlib.crc32(data)))
            self.sent += len(data)
        if chunks:
            self._sent_at = now
        return chunks

    def on_ack(self, ack: ChunkAck, now: float) -> None:
        """The receiver said how far it is."""
        if ack.complete:
            self.complete = True
        self.begun = self.begun or ack.offset > 0
        if 0 <= ack.offset < self.acked:
            # Believed when nothing else comes: going back at once makes a flood of answers that come out of order.
            self._fallen = ack.offset
            return
        self._fallen = None
        if ack.offset != self.acked:
            if self.acked < 0 or ack.offset > self.sent:
                self.sent = ack.offset  # the receiver knows more
            self.acked = ack.offset
            self._sent_at = now

    def lost(self) -> None:
        """The connection broke: ask again."""
        self.acked, self._fallen = -1, None
        self._sent_at = float("-inf")


class Receiver:
    """One file on its way in. The part file is renamed only when it is verified and durable.

    A part file that an earlier process left is gone on with: `resume` hashes it again, a piece at a time. What it holds beyond the
    last sync is not trusted, and should the rest be wrong the hash of the whole says so.
    """

    def __init__(self, file: str, size: int, sha256: str, sync_bytes: int) -> None:
        self.file = file
        self.size = size
        self.sha256 = sha256
        self.offset = 0
        self._sync_bytes = sync_bytes
        self._hash = hashlib.sha256()
        self._created = False
        self._synced = 0
        self._left = 0  # bytes of an earlier part file that are to be hashed again

    @property
    def part(self) -> str:
        """The name while it is incomplete."""
        return f"part-{self.file}"

    @property
    def resuming(self) -> bool:
        """True while it is not known yet how much of the file is here."""
        return self._left > 0

    def find(self, disk: Disk) -> None:
        """Look for a part file to go on with. The last sync was before the newest `sync_bytes` began."""
        held = disk.size(self.part) if self.part in disk.list() else 0
        if 0 < held <= self.size:
            self._left = (held - 1) // self._sync_bytes * self._sync_bytes
            self._created = self._left > 0

    def resume(self, disk: Disk) -> None:
        """Hash the next piece of what was found."""
        data = disk.read(self.part, self.offset, min(self._left, _REREAD))
        if not data:  # the file has become shorter
            self._left = 0
            return
        self._hash.update(data)
        self.offset += len(data)
        self._left -= len(data)
        self._synced = self.offset

    def take(self, disk: Disk, chunk: Chunk) -> bool:
        """Write a chunk that fits exactly; others change nothing. True when the file is whole (not yet verified)."""
        if not self._created:
            disk.create(self.part, 0)
            disk.sync_dir()  # else a power cut takes the name, and with it all that was synced
            self._created = True
        fits = chunk.offset == self.offset and self.offset + len(chunk.data) <= self.size
        if chunk.data and fits and zlib.crc32(chunk.data) == chunk.crc:
            disk.write(self.part, self.offset, chunk.data)
            self._hash.update(chunk.data)
            self.offset += len(chunk.data)
            if self.offset - self._synced >= self._sync_bytes:
                disk.sync(self.part)
                self._synced = self.offset
        return self.offset == self.size

    def finish(self, disk: Disk) -> bool:
        """Verify, sync, rename. False: the file was wrong and is gone; start again from 0."""
        if self._hash.hexdigest() != self.sha256:
            disk.remove(self.part)
            self.offset, self._synced, self._hash, self._created = 0, 0, hashlib.sha256(), False
            return False
        disk.sync(self.part)
        disk.rename(self.part, self.file)
        disk.sync_dir()
        return True
