# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of local nodes, driven by the collection's playbooks: for the demonstration and the tests of whole plays."""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import time
import typing as t

import requests

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class PlayFailed(Exception):
    """A playbook failed; the text is its output."""


class Recap(t.NamedTuple):
    """What a playbook did."""

    changed: int
    failed: int
    output: str
    seconds: float


class LocalCluster:
    """Up to five nodes below C(state), on ports from C(base) on; inventories/local-grow.yml describes them."""

    def __init__(self, state: pathlib.Path, archive: str = "", base: int = 0) -> None:
        self.state = state
        self.base = base or free_base()
        self.archive = archive
        self.nodes = 3

    @property
    def environment(self) -> dict[str, str]:
        """Of every playbook."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
            "ANSIBLE_HOME": str(self.state / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "HOLDFAST_STATE_DIR": str(self.state / "cluster"),
            "HOLDFAST_BASE_PORT": str(self.base),
            "HOLDFAST_NODE_ARCHIVE": self.archive,
        }

    def command(self, playbook: str, *arguments: str, nodes: int = 0) -> list[str]:
        inventory = ROOT / "inventories" / ("local.yml" if (nodes or self.nodes) == 3 else "local-grow.yml")
        program = str(pathlib.Path(sys.executable).parent / "ansible-playbook")
        return [program, "-i", str(inventory), str(ROOT / "playbooks" / f"{playbook}.yml"), *arguments]

    def play(self, playbook: str, *arguments: str, nodes: int = 0, fails: bool = False) -> Recap:
        """Runs a playbook to its end. Raises PlayFailed when it fails (or, with C(fails), when it does not)."""
        began = time.monotonic()
        command = self.command(playbook, *arguments, nodes=nodes)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        hosts = RECAP.findall(done.stdout)
        recap = Recap(
            changed=sum(int(host[2]) for host in hosts),
            failed=sum(int(host[3]) + int(host[4]) for host in hosts),
            output=done.stdout + done.stderr,
            seconds=time.monotonic() - began,
        )
        if (done.returncode != 0) != fails:
            raise PlayFailed(f"{' '.join(command)}\n{recap.output}")
        return recap

    def url(self, name: str) -> str:
        """The API address of C(n1) to C(n5)."""
        return f"https://127.0.0.1:{self.base + 10 * (int(name[1:]) - 1)}"

    @property
    def shares_file(self) -> pathlib.Path:
        return self.state / "cluster" / "secrets" / "init.json"

    @property
    def ca_cert(self) -> pathlib.Path:
        return self.state / "cluster" / "pki" / "ca.pem"

    def session(self) -> requests.Session:
        """A client with the root token."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca_cert)
        session.headers["X-Vault-Token"] = json.loads(self.shares_file.read_text())["root_token"]
        return session

    def get(self, path: str, name: str = "n1") -> dict[str, t.Any]:
        answer = self.session().get(f"{self.url(name)}/v1/{path}", timeout=20)
        answer.raise_for_status()
        return t.cast("dict[str, t.Any]", answer.json())

    def leader(self, name: str = "n1") -> str:
        """The node_id of the leader."""
        servers = self.get("sys/storage/raft/configuration", name)["data"]["config"]["servers"]
        return next(str(server["node_id"]) for server in servers if server["leader"])

    def members(self, name: str = "n1") -> dict[str, bool]:
        """node_id -> votes."""
        servers = self.get("sys/storage/raft/configuration", name)["data"]["config"]["servers"]
        return {str(server["node_id"]): bool(server["voter"]) for server in servers}

    def pid(self, name: str) -> int:
        """PID of a node's process."""
        return int(json.loads((self.state / "cluster" / "run" / name / "state.json").read_text())["pid"])

    def clean(self) -> Recap:
        """Nothing stays, no process either."""
        return self.play("clean", nodes=5)


def collections_path() -> pathlib.Path:
    """The directory above ansible_collections through which this checkout is reached."""
    if ROOT.parts[-3:] == ("ansible_collections", "holdfast", "raft"):
        return ROOT.parents[2]
    link = ROOT / "build" / "ansible_collections" / "holdfast" / "raft"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to("../../..")
    return ROOT / "build"


def free_base() -> int:
    """A number from which on the ports of five nodes are free."""
    for _attempt in range(200):
        base = random.randrange(20000, 31000, 50)
        try:
            for port in (base + 10 * node + offset for node in range(5) for offset in (0, 1)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise PlayFailed("no free ports found on 127.0.0.1")


def build_archive(cache: pathlib.Path) -> str:
    """The node's archive for this machine, built once from the checkout."""
    files = ROOT / "roles" / "node" / "files"
    wish = json.dumps({"prefix": "/", "paths": [], "unit": "none", "state_file": "/none"})
    probed = json.loads(subprocess.check_output([sys.executable, str(files / "probe.py"), wish]))
    command = [sys.executable, str(files / "build_archive.py"), "--target", probed["target"], "--cache", str(cache)]
    return str(json.loads(subprocess.check_output([*command, "--source", str(ROOT / "node")]))["path"])
