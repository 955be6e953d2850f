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
    assert sorted(os.listdir(path.parent)) == ["init.json", "init.json.lock"]
    assert stat.S_IMODE((path.parent / "init.json.lock").stat().st_mode) == 0o600


def test_killed_after_the_write_the_answer_is_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "init.json"
    custody = FileCustody(str(path))
    custody.prepare()
    os.pwrite(custody._fd, ANSWER, 0)  # killed here: neither synced, nor cut to its length, nor named
    custody.release()
    again = FileCustody(str(path))
    assert shares_in(again.read()) == ["qg==", "uw=="]
    assert not path.exists()  # nothing is changed without the lock
    again.lock()
    assert shares_in(again.read()) == ["qg==", "uw=="]
    assert path.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_prepared_again_after_an_interruption(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "init.json")
    killed = FileCustody(path)
    killed.prepare()
    killed.release()
    custody = FileCustody(path)
    assert custody.interrupted()
    custody.prepare()
    custody.keep(ANSWER)
    assert custody.read() == ANSWER


def test_refused_by_the_server_nothing_stays(tmp_path: pathlib.Path) -> None:
    custody = FileCustody(str(tmp_path / "init.json"))
    custody.prepare()
    custody.abandon()
    assert os.listdir(tmp_path) == ["init.json.lock"]


def test_another_run_is_shut_out(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "init.json")
    first, second = FileCustody(path), FileCustody(path)
    first.prepare()
    for attempt in (second.lock, second.prepare, lambda: second.lock(change=False)):
        with pytest.raises(CustodyError, match="another run is initialising this cluster"):
            attempt()
    first.keep(ANSWER)
    first.release()
    second.lock()
    assert second.read() == ANSWER


def test_an_answer_that_waits_is_never_overwritten(tmp_path: pathlib.Path) -> None:
    (tmp_path / "init.json.pending").write_bytes(ANSWER)
    with pytest.raises(CustodyError, match="never overwritten"):
        FileCustody(str(tmp_path / "init.json")).prepare()
    assert (tmp_path / "init.json.pending").read_bytes() == ANSWER


def named_in(error: pytest.ExceptionInfo[CustodyError]) -> pathlib.Path:
    """The file that the message says the shares are in."""
    return pathlib.Path(str(error.value).split("root token are in ")[1].split(" ")[0].rstrip(","))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_pending_file_that_somebody_took_away(tmp_path: pathlib.Path, replaced: bool) -> None:
    custody = FileCustody(str(tmp_path / "init.json"))
    custody.prepare()
    (tmp_path / "init.json.pending").unlink()
    if replaced:
        (tmp_path / "init.json.pending").write_text("another's")
    with pytest.raises(CustodyError, match="was removed by somebody else") as caught:
        custody.keep(ANSWER)
    assert named_in(caught).read_bytes() == ANSWER
    assert stat.S_IMODE(named_in(caught).stat().st_mode) == 0o600
    custody.abandon()
    assert (tmp_path / "init.json.pending").exists() is replaced


def test_a_rename_that_fails_leaves_the_answer_where_it_says(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(source: str, target: str) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "init.json"
    custody = FileCustody(str(path))
    custody.prepare()
    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(CustodyError, match="Input/output error") as caught:
        custody.keep(ANSWER)
    assert named_in(caught).read_bytes() == ANSWER
    monkeypatch.undo()
    custody.release()
    again = FileCustody(str(path))
    again.lock()
    assert again.read() == ANSWER
    assert path.exists()


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "init.json"
    custody = FileCustody(str(path))
    custody.prepare()
    path.write_text("another's")
    with pytest.raises(CustodyError, match="there is a file of that name already") as caught:
        custody.keep(ANSWER)
    assert named_in(caught).read_bytes() == ANSWER
    assert path.read_text() == "another's"


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


def test_a_command_is_tried_again(vault: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_custody, "STORE_PAUSES", (0, 0))
    custody = CommandCustody(vault)
    custody.prepare()
    script = pathlib.Path(vault[0])
    script.write_text(script.read_text().replace("store) ", f"store) test -e {tmp_path}/once || {{ touch {tmp_path}/once; exit 1; }}; "))
    custody.keep(ANSWER)
    assert custody.read() == ANSWER


def test_a_command_that_fails_after_the_init_loses_nothing(
    vault: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_custody, "STORE_PAUSES", (0, 0))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    custody = CommandCustody(vault)
    custody.prepare()
    pathlib.Path(vault[0]).write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(CustodyError, match="failed with status 3") as caught:
        custody.keep(ANSWER)
    assert named_in(caught).parent == tmp_path / "home"
    assert named_in(caught).read_bytes() == ANSWER
    assert stat.S_IMODE(named_in(caught).stat().st_mode) == 0o600


def test_a_command_that_was_given_shares_meanwhile_keeps_them(vault: list[str]) -> None:
    first, second = CommandCustody(vault), CommandCustody(vault)
    assert second.read() is None
    first.prepare()
    first.keep(ANSWER)
    first.release()
    with pytest.raises(CustodyError, match="another run is initialising this cluster"):
        second.prepare()
    assert second.read() == ANSWER


def test_one_run_at_a_time_with_a_command(vault: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_custody, "COMMAND_LOCK_PATIENCE", 0)
    first, second = CommandCustody(vault), CommandCustody(vault)
    first.prepare()
    with pytest.raises(CustodyError, match="run again when it has ended"):
        second.prepare()


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
