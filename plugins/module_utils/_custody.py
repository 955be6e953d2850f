# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Where the answer of C(sys/init) (unseal shares, root token) is kept, and where shares and tokens are read from.
Private to holdfast.raft.

C(sys/init) answers once: what is lost then is lost for ever, and the data with it. So the place is prepared before the
call (created, filled, synced, read back), and the answer goes into the open file descriptor in one write.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._errors import CustodyError

ROOM = 1 << 16  # far more than any answer of sys/init; as blank space it keeps the JSON valid
EPHEMERAL_SIGNS = ("AWX_PRIVATE_DATA_DIR", "AWX_ISOLATED_DATA_DIR")
ENTRYPOINT = "/opt/builder/bin/entrypoint"


class FileCustody:
    """A file of mode 0600. While an init is under way its bytes go to C(PATH.pending), which a rename completes."""

    def __init__(self, path: str, allow_ephemeral: bool = False) -> None:
        self.path = path
        self.pending = f"{path}.pending"
        self._allow_ephemeral = allow_ephemeral
        self._fd = -1

    def read(self) -> bytes | None:
        """What is kept, or None. An answer that was written but not renamed (killed between) is completed first."""
        if not os.path.lexists(self.path) and _parsed(_bytes(self.pending)):
            os.replace(self.pending, self.path)
            _sync_directory(self.path)
        return _bytes(self.path)

    def interrupted(self) -> bool:
        """Whether an earlier init was prepared here and its answer never arrived."""
        return os.path.lexists(self.pending) and not os.path.lexists(self.path)

    def prepare(self) -> None:
        """Makes sure that an answer can be written, without asking the server anything yet."""
        if in_execution_environment() and not self._allow_ephemeral:
            raise CustodyError(
                f"{self.path} would be written inside an execution environment, which is thrown away after the job; use "
                "shares_command, pgp_keys with return_shares, or a mounted path with allow_ephemeral"
            )
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pending)
            self._fd = os.open(self.pending, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fchmod(self._fd, 0o600)
            blank = b" " * ROOM
            os.pwrite(self._fd, blank, 0)
            os.fsync(self._fd)
            _sync_directory(self.pending)
            if _bytes(self.pending) != blank:
                raise CustodyError(f"{self.pending} does not read back what was written")
        except OSError as exc:
            raise CustodyError(f"unseal shares could not be kept in {self.path}: {exc.strerror}; nothing was initialised") from exc

    def keep(self, answer: bytes) -> None:
        """Writes the answer into the place prepared, syncs, then gives the file its name."""
        os.pwrite(self._fd, answer, 0)
        os.fsync(self._fd)
        os.ftruncate(self._fd, len(answer))
        os.fsync(self._fd)
        os.close(self._fd)
        os.replace(self.pending, self.path)
        _sync_directory(self.path)

    def abandon(self) -> None:
        """Removes what prepare made: the server refused, so there is no answer to wait for."""
        os.close(self._fd)
        os.unlink(self.pending)


class CommandCustody:
    """A program: C(ARGV store) gets the JSON on standard input, C(ARGV read) prints it (nothing, when there is none)."""

    def __init__(self, argv: t.Sequence[str]) -> None:
        self._argv = list(argv)

    def read(self) -> bytes | None:
        return self._call("read", b"").strip() or None

    def interrupted(self) -> bool:
        return "holdfast_probe" in (_parsed(self.read()) or {})

    def prepare(self) -> None:
        """Stores a probe and reads it back. What is kept already is never overwritten."""
        probe = json.dumps({"holdfast_probe": secrets.token_hex(8)}).encode()
        self._call("store", probe)
        if self.read() != probe:
            raise CustodyError(f"{self._argv[0]} does not give back what it was given; nothing was initialised")

    def keep(self, answer: bytes) -> None:
        self._call("store", answer)

    def abandon(self) -> None:
        """The probe stays: it holds no secret, and the next run replaces it."""

    def _call(self, verb: str, data: bytes) -> bytes:
        try:
            done = subprocess.run([*self._argv, verb], input=data, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "no end within 60 s"
            raise CustodyError(f"{self._argv[0]} {verb} failed: {reason}") from exc
        if done.returncode != 0:
            raise CustodyError(f"{self._argv[0]} {verb} failed with status {done.returncode}")
        return done.stdout


class NoCustody:
    """The answer is returned by the module, and kept nowhere."""

    def read(self) -> bytes | None:
        return None

    def interrupted(self) -> bool:
        return False

    def prepare(self) -> None:
        """Nothing to prepare."""

    def keep(self, answer: bytes) -> None:
        """The caller returns it."""

    def abandon(self) -> None:
        """Nothing was prepared."""


Custody = t.Union[FileCustody, CommandCustody, NoCustody]


def in_execution_environment() -> bool:
    """Whether this process runs in a job's container: AWX says so by variables, ansible-builder's images by their entry point."""
    return any(os.environ.get(sign) for sign in EPHEMERAL_SIGNS) or os.path.exists(ENTRYPOINT)


def shares_in(content: bytes | None) -> list[str]:
    """The unseal shares in the answer of C(sys/init), in the JSON of C(operator init -format=json), or one a line."""
    values = _parsed(content)
    if values is None:
        lines = (content or b"").decode("utf-8", "replace").split()
        return [] if any(line.startswith("{") for line in lines) else lines
    for name in ("keys_base64", "keys", "unseal_keys_b64", "unseal_keys_hex"):
        if values.get(name):
            return [str(share) for share in values[name]]
    return []


def token_in(content: bytes | None) -> str | None:
    """The token in the answer of C(sys/init) or of a login, or the only word of a plain file."""
    values = _parsed(content)
    if values is None:
        words = (content or b"").decode("utf-8", "replace").split()
        return words[0] if len(words) == 1 else None
    return values.get("root_token") or (values.get("auth") or {}).get("client_token")


def read_secret_file(path: str) -> bytes:
    """The content of a file of shares or of a token. Raises CustodyError when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as exc:
        raise CustodyError(f"{path} cannot be read: {exc.strerror}") from exc


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise CustodyError(f"{path} cannot be read: {exc.strerror}") from exc


def _parsed(content: bytes | None) -> dict[str, t.Any] | None:
    try:
        values = json.loads(content or b"")
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
