# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Check of a snapshot file as Vault, OpenBao and holdfast write it. Private to holdfast.raft.

A gzip stream of one tar with exactly four members: C(meta.json), C(state.bin), C(SHA256SUMS) and C(SHA256SUMS.sealed).
The sealed copy of the sums can be opened by the cluster only; that it is there proves that the writer came to its end.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import tarfile
import typing as t
import zlib

from ansible_collections.holdfast.raft.plugins.module_utils._errors import ArchiveError

MEMBERS = ("meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed")
SMALL = 8192
CHUNK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Archive:
    """What a complete snapshot says of itself. C(state_sha256) is the hash of C(state.bin): equal states, equal hash."""

    index: int
    term: int
    size: int
    state_sha256: str
    servers: tuple[str, ...]


def check(path: str) -> Archive:
    """Reads C(path) to its last byte. Raises ArchiveError when anything is missing, added, or does not match its hash."""
    hashes: dict[str, str] = {}
    small: dict[str, bytes] = {}
    size = 0
    try:
        with gzip.open(path, "rb") as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    if member.name not in MEMBERS or member.name in hashes or not member.isfile():
                        raise ArchiveError(f"{path} is no snapshot: unexpected member {member.name!r}")
                    if member.name == "state.bin":
                        size = member.size
                    hashes[member.name], small[member.name] = _digest(tar, member)
            while stream.read(CHUNK):
                pass  # to the end: only there are length and checksum of the gzip stream compared
    except (EOFError, OSError, tarfile.TarError, zlib.error) as exc:
        raise ArchiveError(f"{path} is no complete snapshot: {exc}") from exc
    missing = [name for name in MEMBERS if name not in hashes or (name != "state.bin" and not small[name])]
    if missing:
        raise ArchiveError(f"{path} is no complete snapshot: {', '.join(missing)} missing")
    _compare(path, small["SHA256SUMS"], hashes)
    return _describe(path, small["meta.json"], size, hashes["state.bin"])


def _digest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, bytes]:
    """Hash of a member, and its bytes unless it is the state."""
    if member.name != "state.bin" and member.size > SMALL:
        raise ArchiveError(f"{member.name} is larger than {SMALL} bytes: no snapshot of this kind")
    source = tar.extractfile(member)
    digest, kept = hashlib.sha256(), b""
    while source is not None:
        block = source.read(CHUNK)
        if not block:
            break
        digest.update(block)
        if member.name != "state.bin":
            kept += block
    return digest.hexdigest(), kept


def _compare(path: str, sums: bytes, hashes: t.Mapping[str, str]) -> None:
    listed = {}
    for line in sums.decode("utf-8", "replace").splitlines():
        digest, _space, name = line.partition("  ")
        listed[name] = digest
    for name in ("meta.json", "state.bin"):
        if listed.get(name) != hashes[name]:
            raise ArchiveError(f"{path} is damaged: the hash of {name} is not the one in SHA256SUMS")


def _describe(path: str, meta: bytes, size: int, state_sha256: str) -> Archive:
    try:
        values = json.loads(meta)
        servers = (values.get("Configuration") or {}).get("Servers") or []
        if values["Size"] != size:
            raise ArchiveError(f"{path} is damaged: state.bin has {size} bytes, meta.json says {values['Size']}")
        return Archive(values["Index"], values["Term"], size, state_sha256, tuple(server["ID"] for server in servers))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ArchiveError(f"{path} is no snapshot: meta.json cannot be read ({exc})") from exc
