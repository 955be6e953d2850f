# SPDX-License-Identifier: Apache-2.0
"""The command line against a real server process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).parents[1] / "fixtures" / "openbao-2.6.2.snap"


def test_init_unseal_status_seal(cli: Any) -> None:
    before = cli("operator", "init", "-status")
    assert (before.returncode, before.stdout) == (2, "Vault is not initialized\n")
    made = cli("operator", "init", "-key-shares=2", "-key-threshold=2", "-format=json")
    keys = json.loads(made.stdout)
    assert (len(keys["unseal_keys_b64"]), keys["unseal_threshold"]) == (2, 2)
    assert cli("operator", "init", "-status").returncode == 0
    again = cli("operator", "init")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "Error: PUT sys/init was answered with 400: Vault is already initialized\n"
    status = cli("status")
    assert status.returncode == 2
    assert "Unseal Progress    0/2" in status.stdout
    first = cli("operator", "unseal", "-", stdin=keys["unseal_keys_b64"][0] + "\n")
    assert "Unseal Progress    1/2" in first.stdout
    last = cli("operator", "unseal", "-format=json", keys["unseal_keys_hex"][1])
    assert json.loads(last.stdout)["sealed"] is False
    status = cli("status", "-format", "json")
    assert (status.returncode, json.loads(status.stdout)["sealed"]) == (0, False)
    refused = cli("operator", "seal")
    assert refused.returncode == 2
    assert "permission denied" in refused.stderr
    assert cli("operator", "seal", VAULT_TOKEN=keys["root_token"]).returncode == 0
    assert cli("status").returncode == 2


def test_wrong_share_is_one_sentence(cli: Any) -> None:
    cli("operator", "init", "-key-shares=1", "-key-threshold=1")
    wrong = cli("operator", "unseal", "00" * 32)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "unable to retrieve stored keys" in wrong.stderr
    assert "00" * 32 not in wrong.stderr


def test_token_file_and_variables(cli: Any, tmp_path: Path) -> None:
    keys = json.loads(cli("operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json").stdout)
    cli("operator", "unseal", "-", stdin=keys["unseal_keys_b64"][0])
    (tmp_path / ".vault-token").write_text(keys["root_token"] + "\n", encoding="utf-8")
    assert cli("operator", "seal", HOME=str(tmp_path), BAO_TOKEN="wrong").returncode == 2
    assert cli("operator", "seal", HOME=str(tmp_path)).returncode == 0


def test_errors_are_one_sentence(cli: Any) -> None:
    nobody = cli("status", "-address=http://127.0.0.1:1")
    assert (nobody.returncode, nobody.stderr) == (1, "Error: cannot reach http://127.0.0.1:1: Connection refused\n")
    bad = cli("operator", "raft", "list-peers", BAO_ADDR="nonsense")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "is not a URL" in bad.stderr
    ca = cli("status", "-ca-cert=/nope", "-address=https://127.0.0.1:1")
    assert ca.stderr == "Error: cannot read the CA certificates /nope\n"
    usage = cli("operator", "raft", "join", "-nonsense")
    assert usage.returncode == 1
    assert "Traceback" not in usage.stderr


def test_snapshot_inspect_and_verify(cli: Any, tmp_path: Path) -> None:
    shown = json.loads(cli("snapshot", "inspect", "-format=json", "-depth=1", str(FIXTURE)).stdout)
    assert (shown["Meta"]["Index"], shown["TotalCountKV"]) == (69, 82)
    assert "index 69" in cli("snapshot", "verify", str(FIXTURE)).stdout
    broken = tmp_path / "broken.snap"
    broken.write_bytes(FIXTURE.read_bytes()[:-1])
    bad = cli("snapshot", "verify", str(broken))
    assert bad.returncode == 1
    assert bad.stderr == f"Error: {broken}: the snapshot is incomplete: it ends too early\n"
    nothing_sent = cli("operator", "raft", "snapshot", "restore", str(broken))
    assert nothing_sent.stderr == bad.stderr


def test_failed_save_leaves_the_old_file(cli: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.snap"
    target.write_text("old", encoding="utf-8")
    failed = cli("operator", "raft", "snapshot", "save", str(target))
    assert failed.returncode == 2
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.glob(".*")) == []
