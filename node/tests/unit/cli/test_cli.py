# SPDX-License-Identifier: Apache-2.0
"""Arguments, settings and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.arguments import normalise
from holdfast.cli.client import Client, ClientError, Settings
from holdfast.cli.main import run
from holdfast.cli.output import table
from holdfast.cli.status import leader_rows, seal_rows


def test_single_dash_options() -> None:
    assert normalise(["server", "-config=/a", "-dev", "--x", "-h", "-", "-n", "5", "-key-shares", "3"]) == [
        "server", "--config=/a", "--dev", "--x", "-h", "-", "-n", "5", "--key-shares", "3",
    ]  # fmt: skip
    assert normalise(["a", "--", "-format=json"]) == ["a", "--", "-format=json"]
    assert normalise(["-5", "-min-quorum=3"]) == ["-5", "--min-quorum=3"]


def test_table() -> None:
    assert table(("Node", "Voter"), [("raft1", True), ("r", None)]) == (
        "Node     Voter\n----     -----\nraft1    true\nr        n/a"
    )


def test_status_rows() -> None:
    seal = {"type": "shamir", "initialized": True, "sealed": True, "n": 5, "t": 3, "progress": 1, "nonce": "x"}
    assert ("Unseal Progress", "1/3") in seal_rows(seal)
    assert leader_rows({}, True) == [("HA Enabled", False)]
    rows = dict(leader_rows({"ha_enabled": True, "leader_address": "http://a", "raft_applied_index": 7}, False))
    assert (rows["HA Mode"], rows["Active Node Address"], rows["Raft Applied Index"]) == ("standby", "http://a", 7)


def test_settings(monkeypatch: Any, tmp_path: Path) -> None:
    for name in ("ADDR", "TOKEN", "CACERT", "SKIP_VERIFY", "CLIENT_TIMEOUT", "NAMESPACE"):
        monkeypatch.delenv(f"BAO_{name}", raising=False)
        monkeypatch.delenv(f"VAULT_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_environment() == Settings()
    (tmp_path / ".vault-token").write_text("from-file\n")
    monkeypatch.setenv("VAULT_ADDR", "https://vault:1")
    monkeypatch.setenv("BAO_SKIP_VERIFY", "true")
    monkeypatch.setenv("VAULT_CLIENT_TIMEOUT", "5s")
    found = Settings.from_environment(address=None, skip_verify=False)
    assert (found.address, found.token, found.skip_verify, found.timeout) == ("https://vault:1", "from-file", True, 5)
    monkeypatch.setenv("BAO_ADDR", "https://bao:1")
    monkeypatch.setenv("BAO_TOKEN", "t")
    assert Settings.from_environment().address == "https://bao:1"
    assert Settings.from_environment(address="https://given:1").address == "https://given:1"
    assert "zzz" not in repr(Settings(token="zzz"))
    monkeypatch.setenv("BAO_CLIENT_TIMEOUT", "soon")
    with pytest.raises(ClientError, match="BAO_CLIENT_TIMEOUT"):
        Settings.from_environment()


@pytest.mark.parametrize("address", ["", "a:1", "ftp://a", "http://"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ClientError, match="is not a URL"):
        Client(Settings(address=address))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["version"], 0), (["-h"], 0), (["nonsense"], 1), (["server"], 1), (["server", "-config=/nope"], 1)],
)
def test_exit_statuses(arguments: list[str], status: int, capsys: Any) -> None:
    assert run(arguments) == status
    assert "Traceback" not in capsys.readouterr().err
