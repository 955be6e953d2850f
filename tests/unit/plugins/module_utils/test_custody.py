# SPDX-License-Identifier: GPL-3.0-or-later
"""Where shares go: nothing is initialised before the place is proven, nothing is overwritten, nothing is readable by others."""

from __future__ import annotations

import json
import os
import pathlib
import stat

import pytest

from ansible_collections.holdfast.raft.plugins.module_utils import _custody
from ansible_collections.holdfast.raft.plugins.module_utils._custody import CommandCustody, FileCustody, shares_in, token_in
from ansible_collections.holdfast.raft.plugins.module_utils._errors import CustodyError

ANSWER = json.dumps({"keys": ["aa", "bb"], "keys_base64": ["qg==", "uw=="], "root_token": "s.root"}).encode()


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_custody, "in_execution_environment", lambda: False)


def test_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets" / "init.json"
    custody = FileCustody(str(path))
    assert custody.read() is None
    custody.prepare()
    assert custody.interrupted()
    custody.keep(ANSWER)
    assert path.read_bytes() == ANSWER
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not custody.interrupted()
    assert os.listdir(path.parent) == ["init.json"]


def test_killed_after_the_write_the_answer_is_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "init.json"
    custody = FileCustody(str(path))
    custody.prepare()
    os.pwrite(custody._fd, ANSWER, 0)  # killed here: neither synced, nor cut to its length, nor named
    again = FileCustody(str(path))
    assert shares_in(again.read()) == ["qg==", "uw=="]
    assert path.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_prepared_again_after_an_interruption(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "init.json")
    FileCustody(path).prepare()
    custody = FileCustody(path)
    assert custody.interrupted()
    custody.prepare()
    custody.keep(ANSWER)
    assert custody.read() == ANSWER


def test_refused_by_the_server_nothing_stays(tmp_path: pathlib.Path) -> None:
    custody = FileCustody(str(tmp_path / "init.json"))
    custody.prepare()
    custody.abandon()
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CustodyError, match="nothing was initialised"):
        FileCustody(str(tmp_path / "file" / "init.json")).prepare()


def test_a_full_disk_is_seen_before_the_init(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CustodyError, match="No space left"):
        FileCustody(str(tmp_path / "init.json")).prepare()


def test_refused_inside_an_execution_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("AWX_PRIVATE_DATA_DIR", "/runner")
    assert _custody.in_execution_environment()
    with pytest.raises(CustodyError, match="execution environment"):
        FileCustody(str(tmp_path / "init.json")).prepare()
    FileCustody(str(tmp_path / "init.json"), allow_ephemeral=True).prepare()


@pytest.fixture
def vault(tmp_path: pathlib.Path) -> list[str]:
    """A program of the custody protocol that keeps what it gets in a file."""
    script = tmp_path / "keeper"
    script.write_text(f'#!/bin/sh\ncase "$1" in store) cat > {tmp_path}/kept;; read) cat {tmp_path}/kept 2>/dev/null; true;; esac\n')
    script.chmod(0o700)
    return [str(script)]


def test_command(vault: list[str]) -> None:
    custody = CommandCustody(vault)
    assert custody.read() is None
    custody.prepare()
    assert custody.interrupted()
    custody.keep(ANSWER)
    assert custody.read() == ANSWER
    assert not custody.interrupted()


@pytest.mark.parametrize("argv", [["/bin/false"], ["/bin/true"], ["/no/such/program"]])
def test_a_command_that_does_not_keep(argv: list[str]) -> None:
    with pytest.raises(CustodyError):
        CommandCustody(argv).prepare()


@pytest.mark.parametrize(
    ("content", "shares", "token"),
    [
        (ANSWER, ["qg==", "uw=="], "s.root"),
        (b'{"keys": ["aa"], "root_token": "x"}', ["aa"], "x"),
        (b'{"unseal_keys_b64": ["qg=="], "root_token": "x"}', ["qg=="], "x"),
        (b'{"auth": {"client_token": "s.login"}}', [], "s.login"),
        (b"aa\nbb\n", ["aa", "bb"], None),
        (b"s.token\n", ["s.token"], "s.token"),
        (b"", [], None),
        (None, [], None),
        (b"{broken", [], "{broken"),
    ],
)
def test_reading(content: bytes | None, shares: list[str], token: str | None) -> None:
    assert shares_in(content) == shares
    assert token_in(content) == token
