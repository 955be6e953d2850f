# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one process running where systemd does not: laptops, containers, CI. Standard library only.

    python3 -I supervise.py start --run DIR --log FILE --hash HASH [--listen HOST:PORT] [--user NAME] -- COMMAND...
    python3 -I supervise.py stop --run DIR
    python3 -I supervise.py reload --run DIR

C(start) leaves a supervisor in the background that starts COMMAND, and starts it again, ever later, when it fails.
It returns when COMMAND listens, or, when it ends before that, fails with the last lines of its log. The lock on DIR/supervisor.lock tells whether a
supervisor runs; DIR/state.json holds its PID and that of COMMAND. Each prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import sys
import time
import typing as t

PATIENCE = 60.0
STOP_PATIENCE = 40.0
LONGEST_PAUSE = 30.0
STEADY = 60.0
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """Ends the run with one sentence."""


class Place:
    """The run directory of one instance."""

    def __init__(self, run: pathlib.Path) -> None:
        self.lock = run / "supervisor.lock"
        self.state = run / "state.json"

    def supervisor(self) -> int:
        """PID of the supervisor, 0 when none runs."""
        try:
            with open(self.lock, "r+") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(stream.read() or 0)
        except (FileNotFoundError, ValueError):
            return 0
        return 0

    def read(self) -> dict[str, t.Any]:
        try:
            return t.cast("dict[str, t.Any]", json.loads(self.state.read_text()))
        except (OSError, ValueError):
            return {}

    def write(self, values: dict[str, t.Any]) -> None:
        partial = self.state.with_suffix(".new")
        partial.write_text(json.dumps(values))
        os.replace(partial, self.state)


def start(options: argparse.Namespace) -> dict[str, t.Any]:
    place = Place(options.run)
    if place.supervisor():
        return {"changed": False, "pid": place.read().get("pid", 0)}
    if options.listen and listening(options.listen):
        raise Failed(f"something else listens on {options.listen} already")
    place.state.unlink(missing_ok=True)
    size = options.log.stat().st_size if options.log.exists() else 0
    if os.fork() == 0:
        detach(options, place)
    os.wait()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = place.read()
        if state.get("failed"):
            raise Failed(f"it ended at once: {last_lines(options.log, size)}")
        if state.get("ready"):
            return {"changed": True, "pid": state["pid"]}
        time.sleep(0.05)
    raise Failed(f"it does not listen on {options.listen} after {PATIENCE:g} s: {last_lines(options.log, size)}")


def stop(options: argparse.Namespace) -> dict[str, t.Any]:
    place = Place(options.run)
    pid = place.supervisor()
    if not pid:
        return {"changed": False}
    child = place.read().get("pid", 0)
    deadline = time.monotonic() + STOP_PATIENCE
    os.kill(pid, signal.SIGTERM)
    while place.supervisor() == pid:
        if time.monotonic() > deadline:
            for process in (pid, child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    return {"changed": True}


def reload(options: argparse.Namespace) -> dict[str, t.Any]:
    place = Place(options.run)
    if not place.supervisor():
        return {"changed": False}
    os.kill(place.read()["pid"], signal.SIGHUP)
    return {"changed": True}


def detach(options: argparse.Namespace, place: Place) -> t.NoReturn:
    """The background: a session of its own, no terminal, no inherited pipes."""
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    lock = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(0)  # another start was faster
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    status = 1
    try:
        supervise(options, place)
        status = 0
    finally:
        os._exit(status)


def supervise(options: argparse.Namespace, place: Place) -> None:
    """COMMAND that never came to listen has a fault that starting it again does not mend; one that did is kept running."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pause, was_ready = 1.0, False
    while not asked:
        began = time.monotonic()
        child = spawn(options)
        state = {"supervisor": os.getpid(), "pid": child.pid, "hash": options.hash, "ready": was_ready}
        place.write(state)
        while child.poll() is None and not asked and not was_ready:
            was_ready = not options.listen or listening(options.listen)
            time.sleep(0.05)
        place.write({**state, "ready": was_ready})
        status = wait(child, asked)
        if asked or status == 0:
            break
        if not was_ready:
            place.write({"supervisor": os.getpid(), "failed": True})
            return
        pause = 1.0 if time.monotonic() - began > STEADY else min(pause * 2, LONGEST_PAUSE)
        until = time.monotonic() + pause
        while not asked and time.monotonic() < until:
            time.sleep(0.05)
    place.state.unlink(missing_ok=True)


def spawn(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    account = pwd.getpwnam(options.user) if options.user and os.getuid() == 0 else None
    try:
        if account:
            os.fchown(log, account.pw_uid, account.pw_gid)
        libc = ctypes.CDLL(None)

        def dies_with_its_supervisor() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        return subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HOLDFAST_CONFIG_HASH": options.hash},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
            preexec_fn=dies_with_its_supervisor,
        )
    finally:
        os.close(log)


def wait(child: subprocess.Popen[bytes], asked: list[int]) -> int:
    """The status of C(child); a stop that was asked for is passed on, at last by force."""
    told = 0.0
    while True:
        status = child.poll()
        if status is not None:
            return status
        if asked and not told:
            told = time.monotonic()
            child.terminate()
        if told and time.monotonic() - told > STOP_PATIENCE - 10:
            child.kill()
        time.sleep(0.05)


def listening(address: str) -> bool:
    host, _colon, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1", "": "127.0.0.1"}.get(host, host.strip("[]"))
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def last_lines(log: pathlib.Path, after: int) -> str:
    try:
        with open(log, "rb") as stream:
            stream.seek(after)
            lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return " | ".join(lines[-3:]) or "it left no log"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["start", "stop", "reload"])
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("--hash", default="")
    parser.add_argument("--listen", default="")
    parser.add_argument("--user", default="")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    options.command = arguments[split + 1 :]
    options.run = options.run.absolute()
    try:
        result = {"start": start, "stop": stop, "reload": reload}[options.verb](options)
    except (Failed, OSError) as exc:
        sys.exit(f"{options.verb} failed: {exc}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
