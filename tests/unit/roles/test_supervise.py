# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor of hosts without systemd, with real processes."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
import typing as t

import pytest

SUPERVISE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "node" / "files" / "supervise.py"
SERVER = """
import os, signal, socket, sys
print("started", os.environ["HOLDFAST_CONFIG_HASH"], flush=True)
signal.signal(signal.SIGHUP, lambda n, f: print("reloaded", flush=True))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""


class Supervised:
    def __init__(self, directory: pathlib.Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.run_dir, self.log = directory / "run", directory / "log"
        self.run_dir.mkdir()
        self.server = directory / "server.py"
        self.server.write_text(SERVER)

    def call(self, verb: str, *command: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-I", str(SUPERVISE), verb, "--run", str(self.run_dir)]
        if verb == "start":
            arguments += ["--log", str(self.log), "--hash", "abc", "--listen", f"127.0.0.1:{self.port}", "--"]
            arguments += list(command) or [sys.executable, str(self.server), str(self.port)]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)

    def result(self, verb: str, *command: str) -> dict[str, t.Any]:
        done = self.call(verb, *command)
        assert done.returncode == 0, done.stderr
        return t.cast("dict[str, t.Any]", json.loads(done.stdout))

    @property
    def state(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", json.loads((self.run_dir / "state.json").read_text()))


@pytest.fixture
def supervised(tmp_path: pathlib.Path) -> t.Iterator[Supervised]:
    found = Supervised(tmp_path)
    yield found
    found.call("stop")


def until(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_starts_once_and_stops(supervised: Supervised) -> None:
    first = supervised.result("start")
    assert first["changed"]
    assert supervised.state["pid"] == first["pid"]
    assert stat.S_IMODE(supervised.log.stat().st_mode) == 0o600
    assert "started abc" in supervised.log.read_text()
    assert supervised.result("start") == {"changed": False, "pid": first["pid"]}
    supervisor = supervised.state["supervisor"]
    assert supervised.result("stop") == {"changed": True}
    assert not os.path.exists(f"/proc/{first['pid']}")
    until(lambda: not os.path.exists(f"/proc/{supervisor}"))
    assert supervised.result("stop") == {"changed": False}
    assert not (supervised.run_dir / "state.json").exists()


def test_what_is_killed_comes_back(supervised: Supervised) -> None:
    pid = supervised.result("start")["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: supervised.log.read_text().count("started") == 2)
    assert supervised.state["pid"] != pid
    assert supervised.result("start")["changed"] is False


def test_what_ends_at_once_is_told_with_its_last_words(supervised: Supervised) -> None:
    done = supervised.call("start", sys.executable, "-c", "import sys; sys.exit('no such key: storrage')")
    assert done.returncode != 0
    assert "no such key: storrage" in done.stderr
    assert "Traceback" not in done.stderr
    assert supervised.result("stop") == {"changed": False}
    assert supervised.result("start")["changed"]


def test_a_port_in_use(supervised: Supervised) -> None:
    with socket.create_server(("127.0.0.1", supervised.port)):
        done = supervised.call("start")
    assert "something else listens" in done.stderr


def test_reload(supervised: Supervised) -> None:
    assert supervised.result("reload") == {"changed": False}
    supervised.result("start")
    assert supervised.result("reload") == {"changed": True}
    until(lambda: "reloaded" in supervised.log.read_text())


def test_nothing_outlives_its_supervisor(supervised: Supervised) -> None:
    pid = supervised.result("start")["pid"]
    os.kill(supervised.state["supervisor"], signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert supervised.result("start")["changed"]
