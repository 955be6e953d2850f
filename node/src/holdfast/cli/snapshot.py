# SPDX-License-Identifier: Apache-2.0
"""Snapshot files: save (verified, atomic, 0600), restore, inspect, verify."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from holdfast.cli.client import Client
from holdfast.cli.options import client_command, format_option
from holdfast.cli.output import key_value, show_json, table
from holdfast.snapshot import inspect as inspection
from holdfast.snapshot.archive import SnapshotError, Verified

_MIB = 1024 * 1024


def _terminal() -> bool:
    return sys.stderr.isatty()


def _counted(pieces: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    """The same pieces, with a progress display on stderr when that is a terminal."""
    if not _terminal():
        yield from pieces
        return
    if length:
        with click.progressbar(length=length, label="Saving", file=sys.stderr, show_eta=True) as bar:
            for piece in pieces:
                yield piece
                bar.update(len(piece))
        return
    done = 0
    for piece in pieces:
        done += len(piece)
        click.echo(f"\rSaving {done / _MIB:.1f} MiB", nl=False, err=True)
        yield piece
    click.echo("", err=True)


class _Reading:
    """A file that reports how far it has been read."""

    def __init__(self, file: BinaryIO, bar: Any) -> None:
        self._file, self._bar = file, bar

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bar.update(len(data))
        return data

    def seek(self, position: int) -> int:
        self._bar.update(position - self._bar.pos)
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


@click.command("save", short_help="Save a snapshot of the cluster to a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@client_command
def save(client: Client, file: Path) -> None:
    """Save a snapshot to FILE. It is complete and verified, or FILE is left as it was."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as out:
            pieces, length = client.download("sys/storage/raft/snapshot")
            verified = inspection.verify(_counted(pieces, length), out.write)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
        _sync_directory(file.parent)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    except SnapshotError as error:
        raise click.ClickException(f"the server's snapshot is not usable, {file} was not written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    click.echo(f"Success! Snapshot of index {verified.meta.index} saved to {file}.")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(file: Path) -> BinaryIO:
    try:
        return open(file, "rb")
    except OSError as error:
        raise click.ClickException(f"cannot read {file}: {error.strerror}") from None


def _checked(file: Path) -> Verified:
    with _open(file) as source:
        try:
            return inspection.verify(inspection.pieces_of(source))
        except SnapshotError as error:
            raise click.ClickException(f"{file}: {error}") from None


@click.command("restore", short_help="Replace the cluster's data by a snapshot.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Also take a snapshot of another cluster or of older unseal keys.")
@client_command
def restore(client: Client, file: Path, force: bool) -> None:
    """Replace all data of the cluster by the snapshot in FILE, which is verified before anything is sent."""
    _checked(file)
    path = "sys/storage/raft/snapshot-force" if force else "sys/storage/raft/snapshot"
    with _open(file) as source, contextlib.ExitStack() as stack:
        upload: Any = source
        if _terminal():
            size = os.fstat(source.fileno()).st_size
            bar = stack.enter_context(click.progressbar(length=size, label="Restoring", file=sys.stderr))
            upload = _Reading(source, bar)
        client.upload(path, upload)
    click.echo("Success! The snapshot is restored.")
    if force:
        click.echo("If it came from another cluster, the servers are sealed now; that cluster's unseal keys open them.")


@click.command("inspect", short_help="Show what a snapshot file contains.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--depth", type=click.IntRange(1, 16), default=2, show_default=True, help="Path segments to group by.")
@format_option
def inspect_file(file: Path, depth: int, as_json: bool) -> None:
    """Verify FILE and show its index, servers, and the number and size of keys below each prefix."""
    with _open(file) as source:
        try:
            report = inspection.inspect(inspection.pieces_of(source), depth)
        except SnapshotError as error:
            raise click.ClickException(f"{file}: {error}") from None
    meta = report.verified.meta
    if as_json:
        show_json(
            {
                "Meta": {
                    "ID": meta.snapshot_id,
                    "Size": meta.size,
                    "Index": meta.index,
                    "Term": meta.term,
                    "Version": meta.version,
                    "Servers": [
                        {"node_id": server.node_id, "address": server.address, "voter": server.voter}
                        for server in meta.servers
                    ],
                },
                "StatsKV": {
                    name: {"Name": name, "Count": usage.keys, "Size": usage.size}
                    for name, usage in report.prefixes.items()
                },
                "TotalCountKV": report.keys,
                "TotalSizeKV": report.size,
            }
        )
        return
    pairs = [("ID", meta.snapshot_id), ("Size", meta.size), ("Index", meta.index), ("Term", meta.term)]
    pairs += [("Version", meta.version), ("Servers", ", ".join(server.node_id for server in meta.servers) or "none")]
    click.echo(key_value(pairs) + "\n")
    rows = [(name, usage.keys, usage.size) for name, usage in report.prefixes.items()]
    click.echo(table(("Key Name", "Count", "Size"), [*rows, ("Total", report.keys, report.size)]))


@click.command("verify", short_help="Check a snapshot file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def verify_file(file: Path) -> None:
    """Check that FILE is complete and undamaged. (Whose unseal keys it needs can only be told by a server.)"""
    verified = _checked(file)
    click.echo(f"{file}: complete, index {verified.meta.index}, {verified.state_size} bytes of state.")


@click.group("snapshot", short_help="Look into snapshot files.")
def snapshot() -> None:
    """Look into snapshot files, without a server."""


snapshot.add_command(inspect_file)
snapshot.add_command(verify_file)
