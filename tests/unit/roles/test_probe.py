# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role sees of a host: here, the certificate that a listener has loaded."""

from __future__ import annotations

import hashlib
import json
import pathlib
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import Lab, make_tls

PROBE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "node" / "files" / "probe.py"


def probe(state_file: pathlib.Path, listen: str) -> dict[str, t.Any]:
    wish = {"prefix": "/nowhere", "paths": [], "unit": "no-such-unit", "state_file": str(state_file), "listen": listen}
    return t.cast("dict[str, t.Any]", json.loads(subprocess.check_output([sys.executable, str(PROBE), json.dumps(wish)])))


@pytest.fixture
def state_file(tmp_path: pathlib.Path) -> t.Iterator[pathlib.Path]:
    """That of a node which runs, as far as the process table tells."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"supervisor": process.pid, "pid": process.pid}))
    yield path
    process.communicate(b"\n")


def test_the_certificate_that_is_loaded(state_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lab = Lab(make_tls(tmp_path))
    try:
        listen = lab.node("n1").url.removeprefix("https://")
        text = (tmp_path / "server.pem").read_text().split("-----BEGIN CERTIFICATE-----")[1].split("-----END")[0]
        expected = hashlib.sha256("".join(text.split()).encode()).hexdigest()
        assert probe(state_file, listen)["served"] == expected
        assert probe(state_file, f"0.0.0.0:{listen.split(':')[1]}")["served"] == expected
    finally:
        lab.stop()
    assert probe(state_file, listen)["served"] == ""
    assert probe(state_file, "")["served"] == ""
