# SPDX-License-Identifier: Apache-2.0
"""Real server processes for real clients."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"


def environment(**more: str) -> dict[str, str]:
    """The environment without anybody's BAO_* and VAULT_* settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))}
    return kept | {"PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"} | more


@dataclass
class Server:
    """A running `holdfast server`; its output goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str
    config: Path

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, pattern: str, seconds: float = 15.0) -> re.Match[str]:
        """The first match of `pattern` in the output."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.text()):
                return found
            if self.process.poll() is not None and not re.search(pattern, self.text()):
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} never appeared; output:\n{self.text()}")

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@dataclass
class Cli:
    """Runs `holdfast` commands against one server."""

    environ: dict[str, str] = field(default_factory=environment)

    def __call__(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            input=stdin,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


def start(tmp_path: Path, text: str, *arguments: str) -> Server:
    """Start a server with the configuration `text` ("": only `arguments`) and wait for its banner."""
    config = tmp_path / "server.hcl"
    log = tmp_path / "server.log"
    if text:
        config.write_text(text, encoding="utf-8")
        arguments = (f"-config={config}", *arguments)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "server", *arguments], stdout=out, stderr=out, env=environment()
        )
    server = Server(process, log, "", config)
    try:
        found = server.wait_for(r'Listener 1: tcp \(addr: "([^"]+)", tls: "(\w+)"\)')
    except BaseException:
        process.kill()
        process.wait()
        raise
    server.address = ("http://" if found[2] == "disabled" else "https://") + found[1]
    return server


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`start_server(configuration text, *arguments)`; stopped at the end."""
    running: list[Server] = []

    def begin(text: str, *arguments: str) -> Server:
        directory = tmp_path / f"server{len(running)}"
        directory.mkdir()
        running.append(start(directory, text, *arguments))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """An uninitialised server in memory."""
    return start_server(
        'storage "inmem" {}\nlistener "tcp" {\n  address = "127.0.0.1:0"\n  tls_disable = true\n}\n'
        'api_addr = "http://127.0.0.1:1"\n'
    )


@pytest.fixture
def cli(server: Server) -> Cli:
    """The command line, with BAO_ADDR set to `server`."""
    return Cli(environment(BAO_ADDR=server.address, HOME="/nonexistent"))
