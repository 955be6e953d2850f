# SPDX-License-Identifier: Apache-2.0
"""OpenBao's snapshot container (raft-api.md 3.1): a gzipped tar of meta.json, state.bin, SHA256SUMS, SHA256SUMS.sealed.

Pure: both ways work on pieces of bytes and keep nothing of state.bin in memory. The reader refuses whatever is not
exactly such an archive, its end included.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

META, STATE, SUMS, SEALED = "meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"
SMALL_LIMIT = 8192  # bytes of every member but state.bin (OpenBao's limit)
_BLOCK = 512
_END_LIMIT = 64 * 1024  # zero bytes accepted after the last member
_GZIP = 31  # zlib: 32 KiB window, gzip framing
_INFLATE_PIECE = 1024 * 1024
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


class SnapshotError(Exception):
    """The archive cannot be used. The text is one sentence without any of its content."""


@dataclass(frozen=True, slots=True)
class SnapshotServer:
    """A server of the configuration in meta.json; `address` is host:port."""

    node_id: str
    address: str
    voter: bool


@dataclass(frozen=True, slots=True)
class Meta:
    """meta.json. `size` is the length of state.bin in bytes."""

    index: int
    term: int
    size: int
    configuration_index: int = 0
    servers: tuple[SnapshotServer, ...] = ()
    snapshot_id: str = "bolt-snapshot"
    version: int = 1

    def to_json(self) -> bytes:
        """The member's bytes, with the field names of the Raft library that OpenBao uses."""
        servers = [
            {"Suffrage": 0 if server.voter else 1, "ID": server.node_id, "Address": server.address}
            for server in self.servers
        ]
        body = {
            "Version": self.version,
            "ID": self.snapshot_id,
            "Index": self.index,
            "Term": self.term,
            "Peers": None,
            "Configuration": {"Servers": servers},
            "ConfigurationIndex": self.configuration_index,
            "Size": self.size,
        }
        return (json.dumps(body, separators=(",", ":")) + "\n").encode("utf-8")

    @classmethod
    def from_json(cls, data: bytes) -> Meta:
        """Raises SnapshotError when a field is missing or of the wrong type."""
        try:
            body: Any = json.loads(data)
            servers = tuple(
                SnapshotServer(str(item["ID"]), str(item["Address"]), item["Suffrage"] == 0)
                for item in (body.get("Configuration") or {}).get("Servers") or ()
            )
            numbers = [body[name] for name in ("Index", "Term", "Size", "Version")]
            numbers.append(body.get("ConfigurationIndex", 0))
            if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
                raise ValueError
            index, term, size, version, configuration_index = numbers
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SnapshotError("meta.json of the snapshot is not valid") from None
        if version != 1:
            raise SnapshotError(f"the snapshot has format version {version}, only version 1 is known")
        return cls(index, term, size, configuration_index, servers, str(body.get("ID", "")), version)


class ArchiveWriter:
    """Builds an archive, in this order: `start`, any number of `state`, `sums`, `finish`; each returns its bytes."""

    def __init__(self, meta: Meta, mtime: int) -> None:
        """`mtime` is Unix time in seconds, for the tar headers."""
        self._meta = meta
        self._mtime = mtime
        # Ciphertext does not get smaller: store only (OpenBao 2.6 does the same).
        self._gzip = zlib.compressobj(0, zlib.DEFLATED, _GZIP)
        self._hash = hashlib.sha256()
        self._written = 0
        self._sums = b""

    def start(self) -> bytes:
        """meta.json and the header of state.bin."""
        meta = self._meta.to_json()
        if len(meta) > SMALL_LIMIT:
            raise SnapshotError("the cluster has too many servers for meta.json")
        line = f"{hashlib.sha256(meta).hexdigest()}  {META}\n"
        self._sums = line.encode("ascii")
        return self._gzip.compress(self._member(META, meta) + self._header(STATE, self._meta.size))

    def state(self, data: bytes) -> bytes:
        """The next piece of state.bin."""
        self._written += len(data)
        if self._written > self._meta.size:
            raise SnapshotError("the state is larger than was counted")
        self._hash.update(data)
        return self._gzip.compress(data)

    def sums(self) -> bytes:
        """The content of SHA256SUMS, once all of state.bin has been given; this is what gets sealed."""
        if self._written != self._meta.size:
            raise SnapshotError("the state is smaller than was counted")
        return self._sums + f"{self._hash.hexdigest()}  {STATE}\n".encode("ascii")

    def finish(self, sealed: bytes) -> bytes:
        """The rest of the archive. `sealed` is the sealed content of SHA256SUMS (protobuf BlobInfo)."""
        sums = self.sums()
        rest = bytes(-self._written % _BLOCK) + self._member(SUMS, sums) + self._member(SEALED, sealed)
        return self._gzip.compress(rest + bytes(2 * _BLOCK)) + self._gzip.flush()

    def _header(self, name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, self._mtime
        # USTAR is what every reader knows; only a state of 8 GiB and more needs the GNU size field.
        return info.tobuf(tarfile.USTAR_FORMAT if size < 8**11 else tarfile.GNU_FORMAT)

    def _member(self, name: str, data: bytes) -> bytes:
        return self._header(name, len(data)) + data + bytes(-len(data) % _BLOCK)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a complete archive contained. `sums` and `sealed` are the members' exact bytes; `state_sha256` is hex."""

    meta: Meta
    sums: bytes
    sealed: bytes = field(repr=False)
    state_sha256: str = ""
    state_size: int = 0


class ArchiveReader:
    """Takes an archive in pieces (`feed`), hands state.bin on in pieces, and checks everything (`finish`)."""

    def __init__(self, on_state: Callable[[bytes], object] | None = None) -> None:
        """`on_state` gets every piece of state.bin in order; what it raises passes through `feed`."""
        self._on_state = on_state
        self._inflate = zlib.decompressobj(_GZIP)
        self._fed = False
        self._buffer = bytearray()
        self._member = ""  # the member being read; "" between members
        self._left = 0  # bytes of it still to come
        self._padding = 0
        self._ended = False
        self._end_bytes = 0
        self._small: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}
        self._state_size = 0
        self._state_hash = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        """Process the next piece. Raises SnapshotError as soon as something is wrong."""
        if data:
            self._fed = True
        while data:
            if self._inflate.eof:
                raise SnapshotError("there is data after the end of the snapshot")
            try:
                piece = self._inflate.decompress(data, _INFLATE_PIECE)
            except zlib.error:
                raise SnapshotError("failed to decompress snapshot: this is not gzip data, or it is damaged") from None
            data = self._inflate.unused_data or self._inflate.unconsumed_tail
            self._tar(piece)

    def finish(self) -> Verified:
        """Check that the archive is complete and that all hashes fit. Raises SnapshotError."""
        if not self._fed:
            raise SnapshotError("the snapshot is empty")
        # Output that did not fit into the last piece.
        while not self._inflate.eof:
            try:
                piece = self._inflate.decompress(b"", _INFLATE_PIECE)
            except zlib.error:
                raise SnapshotError("failed to decompress snapshot: the data is damaged") from None
            if not piece:
                raise SnapshotError("the snapshot is incomplete: it ends too early")
            self._tar(piece)
        if not self._ended:
            raise SnapshotError("the snapshot is incomplete: it ends too early")
        for name in (META, SUMS, SEALED):
            if name not in self._small:
                raise SnapshotError(f"incomplete snapshot, unable to read {name} file")
        if STATE not in self._hashes:
            raise SnapshotError(f"incomplete snapshot, unable to read {STATE} file")
        self._check_sums()
        meta = Meta.from_json(self._small[META])
        if meta.size != self._state_size:
            raise SnapshotError("state.bin has another size than meta.json says")
        return Verified(meta, self._small[SUMS], self._small[SEALED], self._hashes[STATE], self._state_size)

    def _check_sums(self) -> None:
        listed: dict[str, str] = {}
        try:
            lines = self._small[SUMS].decode("ascii").splitlines()
        except UnicodeDecodeError:
            raise SnapshotError("SHA256SUMS of the snapshot is not valid") from None
        for line in lines:
            match = _SUM_LINE.fullmatch(line)
            if match is None or match[2] in listed:
                raise SnapshotError("SHA256SUMS of the snapshot is not valid")
            listed[match[2]] = match[1]
        for name in (META, STATE):
            if name not in listed:
                raise SnapshotError(f'list missing hash for "{name}"')
            if listed[name] != self._hashes[name]:
                raise SnapshotError(f'hash check failed for "{name}"')
        if extra := set(listed) - {META, STATE}:
            raise SnapshotError(f"file missing for {sorted(extra)[0][:40]!r}")

    # tar, as a state machine over pieces
    def _tar(self, data: bytes) -> None:
        if self._member == STATE and not self._buffer:  # the bulk goes through without being copied
            data = self._take_state(data)
        if not data:
            return
        self._buffer += data
        while self._step():
            pass

    def _take_state(self, data: bytes) -> bytes:
        """Consume what belongs to state.bin from `data` and return the rest."""
        piece = data[: self._left]
        self._left -= len(piece)
        self._state_size += len(piece)
        self._state_hash.update(piece)
        if piece and self._on_state is not None:
            self._on_state(piece)
        if self._left == 0:
            self._hashes[STATE] = self._state_hash.hexdigest()
            self._member = ""
        return data[len(piece) :]

    def _step(self) -> bool:
        """Consume one thing from the buffer; False when more data is needed."""
        buffer = self._buffer
        if self._member == STATE:
            rest = self._take_state(bytes(buffer))
            del buffer[: len(buffer) - len(rest)]
            return bool(rest)
        if self._member:
            if len(buffer) < self._left:
                return False
            content = bytes(buffer[: self._left])
            del buffer[: self._left]
            self._small[self._member] = content
            self._hashes[self._member] = hashlib.sha256(content).hexdigest()
            self._member = ""
            return True
        if self._ended:
            self._end_bytes += len(buffer)
            if buffer.count(0) != len(buffer) or self._end_bytes > _END_LIMIT:
                raise SnapshotError("there is data after the end of the snapshot")
            buffer.clear()
            return False
        if self._padding:
            if len(buffer) < self._padding:
                return False
            del buffer[: self._padding]
            self._padding = 0
            return True
        if len(buffer) < _BLOCK:
            return False
        header = bytes(buffer[:_BLOCK])
        del buffer[:_BLOCK]
        self._begin(header)
        return True

    def _begin(self, header: bytes) -> None:
        if header.count(0) == _BLOCK:
            self._ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.TarError, ValueError, IndexError, OverflowError):
            raise SnapshotError("failed to read snapshot file: the archive is damaged") from None
        name = info.name
        if name not in (META, STATE, SUMS, SEALED) or not info.isreg():
            raise SnapshotError(f"unexpected file {name[:60]!r} in snapshot")
        if name in self._small or name in self._hashes:
            raise SnapshotError(f"the snapshot contains {name} twice")
        if info.size < 0 or (name != STATE and info.size > SMALL_LIMIT):
            raise SnapshotError(f"{name} of the snapshot is too large")
        self._member, self._left = name, info.size
        self._padding = -info.size % _BLOCK
        if name == STATE and info.size == 0:
            self._hashes[STATE] = self._state_hash.hexdigest()
            self._member = ""
