# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Where the answer of C(sys/init) (unseal shares, root token) is kept, and where shares and tokens are read from.
Private to holdfast.raft.

C(sys/init) answers once: what is lost then is lost for ever, and the data with it. So the place is locked against other
runs, then prepared before the call (created, filled, synced, read back), and the answer goes into the open file descriptor
in one write. An answer that cannot be kept there goes to another private file, which the error names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._errors import CustodyError

ROOM = 1 << 16  # far more than any answer of sys/init; as blank space it keeps the JSON valid
EPHEMERAL_SIGNS = ("AWX_PRIVATE_DATA_DIR", "AWX_ISOLATED_DATA_DIR")
ENTRYPOINT = "/opt/builder/bin/entrypoint"
STORE_PAUSES = (1, 2, 4, 8)  # seconds between attempts to store an answer that nobody else has
COMMAND_LOCK_PATIENCE = 60.0
BUSY = "another run is initialising this cluster"


class FileCustody:
    """A file of mode 0600. While an init is under way its bytes go to C(PATH.pending), which a rename completes.

    Whoever may change either holds an exclusive lock on C(PATH.lock), which stays there (removing it would let two runs
    lock two different files).
    """

    def __init__(self, path: str, allow_ephemeral: bool = False) -> None:
        self.path = path
        self.pending = f"{path}.pending"
        self._allow_ephemeral = allow_ephemeral
        self._fd = -1
        self._lock = -1
        self._exclusive = False

    def lock(self, change: bool = True) -> None:
        """Shuts other runs out until C(release); with C(change=False) nothing is created, and nothing may be changed.

        Raises CustodyError while another run holds the lock. Where no lock can be made there is no place for shares
        either, which C(prepare) tells if it comes to that.
        """
        if change and self._is_ephemeral():
            return
        try:
            if change:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT if change else os.O_RDONLY
            self._lock = os.open(f"{self.path}.lock", flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, (fcntl.LOCK_EX if change else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            self._exclusive = change
        except BlockingIOError:
            self.release()
            raise CustodyError(f"{BUSY}: it holds {self.path}.lock; run again when it has ended") from None
        except OSError:
            self.release()

    def release(self) -> None:
        """Lets other runs in."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self._exclusive = -1, False

    def read(self) -> bytes | None:
        """What is kept, or None. An answer that was written but not renamed (killed between) counts, and under the lock the
        rename is made up for."""
        if os.path.lexists(self.path):
            return _bytes(self.path)
        waiting = _bytes(self.pending)
        if not _parsed(waiting):
            return None
        if self._exclusive:
            try:
                os.replace(self.pending, self.path)
                _sync_directory(self.path)
            except OSError as exc:
                raise CustodyError(f"{self.pending} holds the unseal shares and could not be renamed: {exc.strerror}") from exc
        return waiting

    def interrupted(self) -> bool:
        """Whether an earlier init was prepared here and its answer never arrived."""
        return os.path.lexists(self.pending) and not os.path.lexists(self.path)

    def prepare(self) -> None:
        """Makes sure that an answer can be written, without asking the server anything yet. Takes the lock if need be."""
        if self._is_ephemeral():
            raise CustodyError(
                f"{self.path} would be written inside an execution environment, which is thrown away after the job; use "
                "shares_command, pgp_keys with return_shares, or a mounted path with allow_ephemeral"
            )
        try:
            if not self._exclusive:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                self.lock()
            if not self._exclusive:
                raise CustodyError(
                    f"unseal shares could not be kept in {self.path}: {self.path}.lock cannot be locked; nothing was initialised"
                )
            if _parsed(_bytes(self.pending)):
                raise CustodyError(f"{self.pending} holds shares already, which are never overwritten; nothing was initialised")
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
            self.abandon()
            raise CustodyError(f"unseal shares could not be kept in {self.path}: {exc.strerror}; nothing was initialised") from exc

    def keep(self, answer: bytes) -> None:
        """Writes the answer into the place prepared, syncs, then gives the file its name.

        Raises CustodyError when that fails; the message names the file that holds the answer then.
        """
        try:
            if os.pwrite(self._fd, answer, 0) != len(answer):
                raise OSError(0, "it was written in part only")
            os.fsync(self._fd)
            os.ftruncate(self._fd, len(answer))
            os.fsync(self._fd)
            held = self._holds_pending()
        except OSError as exc:
            raise _rescued(answer, self._directory, f"{self.pending} could not be written ({exc.strerror})", self.path) from exc
        if not held:
            raise _rescued(answer, self._directory, f"{self.pending} was removed by somebody else", self.path)
        try:
            if os.path.lexists(self.path):
                raise OSError(0, "there is a file of that name already")
            os.replace(self.pending, self.path)
            _sync_directory(self.path)
        except OSError as exc:
            where = self.pending if self._holds_pending() else self.path
            raise CustodyError(
                f"the server is initialised, and its unseal shares and root token are in {where}, which could not be made "
                f"{self.path} for good: {exc.strerror}; keep that file, mend the cause, and run again"
            ) from exc
        finally:
            self._close()

    def abandon(self) -> None:
        """Removes what prepare made: the server refused, so there is no answer to wait for."""
        with contextlib.suppress(OSError):
            if self._holds_pending():
                os.unlink(self.pending)
        self._close()

    @property
    def _directory(self) -> str:
        return os.path.dirname(os.path.abspath(self.path))

    def _is_ephemeral(self) -> bool:
        return in_execution_environment() and not self._allow_ephemeral

    def _holds_pending(self) -> bool:
        """Whether the file of that name is the one that prepare made."""
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.pending))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class CommandCustody:
    """A program: C(ARGV store) gets the JSON on standard input, C(ARGV read) prints it (nothing, when there is none)."""

    def __init__(self, argv: t.Sequence[str]) -> None:
        self._argv = list(argv)
        self._lock = -1

    def lock(self, change: bool = True) -> None:
        """Nothing yet: the program may serve many clusters, so C(prepare) locks it only while one is initialised."""

    def release(self) -> None:
        """Lets other runs in."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def read(self) -> bytes | None:
        return self._call("read", b"").strip() or None

    def interrupted(self) -> bool:
        return "holdfast_probe" in (_parsed(self.read()) or {})

    def prepare(self) -> None:
        """Stores a probe and reads it back. What is kept already is never overwritten, also not what came just now."""
        self._lock_program()
        if shares_in(self.read()):
            raise CustodyError(f"{BUSY}: {self._argv[0]} holds shares that were not there a moment ago; run again")
        probe = json.dumps({"holdfast_probe": secrets.token_hex(8)}).encode()
        self._call("store", probe)
        if self.read() != probe:
            raise CustodyError(f"{self._argv[0]} does not give back what it was given; nothing was initialised")

    def keep(self, answer: bytes) -> None:
        """Stores the answer and reads it back, more than once if need be; at last a private file keeps it, which the
        CustodyError then names."""
        for pause in (*STORE_PAUSES, 0):
            try:
                self._call("store", answer)
                if self.read() == answer.strip():
                    return
                reason = f"{self._argv[0]} does not give back what it was given"
            except CustodyError as exc:
                reason = str(exc)
            time.sleep(pause)
        raise _rescued(answer, os.path.expanduser("~"), reason, f"{self._argv[0]} store")

    def abandon(self) -> None:
        """The probe stays: it holds no secret, and the next run replaces it."""

    def _lock_program(self) -> None:
        """One init at a time on this machine; a program that may not be read is not locked."""
        deadline = time.monotonic() + COMMAND_LOCK_PATIENCE
        try:
            self._lock = os.open(shutil.which(self._argv[0]) or self._argv[0], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CustodyError(f"{BUSY}, or another one, with {self._argv[0]}; run again when it has ended") from None
            except OSError:
                return
            time.sleep(0.1)

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

    def lock(self, change: bool = True) -> None:
        """The server itself answers only one of two."""

    def release(self) -> None:
        """Nothing is locked."""

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


def _rescued(answer: bytes, directory: str, reason: str, place: str) -> CustodyError:
    """The error for an answer that could not go to C(place): it is in a file of mode 0600 now, which the message names."""
    for candidate in (directory, tempfile.gettempdir()):
        try:
            fd, path = tempfile.mkstemp(prefix="holdfast-init-", suffix=".json", dir=candidate)
            with os.fdopen(fd, "wb") as stream:
                stream.write(answer)
                stream.flush()
                os.fsync(fd)
            _sync_directory(path)
        except OSError:
            continue
        return CustodyError(
            f"the server is initialised, but {reason}; its unseal shares and root token are in {path} instead (mode 0600): "
            f"give them to {place}, remove that file, and run again"
        )
    return CustodyError(
        f"the server is initialised, but {reason}, and no other file could be written: nobody has its unseal shares, and it "
        "holds nothing yet; stop it, empty its data directory, start it, and run again"
    )


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
