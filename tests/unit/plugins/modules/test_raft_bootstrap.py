# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.module_utils import _custody
from ansible_collections.holdfast.raft.plugins.modules import raft_bootstrap
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import FakeNode, Lab

KILLER = pathlib.Path(__file__).parent / "killed_bootstrap.py"
RACER = pathlib.Path(__file__).parent / "raced_bootstrap.py"


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_bootstrap.main, params, check)


@pytest.fixture
def node(lab: Lab) -> FakeNode:
    return lab.node("n1")


@pytest.fixture
def params(lab: Lab, node: FakeNode, tmp_path: pathlib.Path) -> dict[str, t.Any]:
    return lab.params(url=node.url, shares_file=str(tmp_path / "keys" / "init.json"))


def test_initialises_once(node: FakeNode, params: dict[str, t.Any]) -> None:
    first = run(params)
    assert first["changed"]
    assert first["diff"] == {"before": {"initialized": False, "sealed": True}, "after": {"initialized": True, "sealed": True}}
    assert first["initialized_url"] == node.url
    kept = json.loads(pathlib.Path(params["shares_file"]).read_text())
    assert len(kept["keys"]) == 5
    assert stat.S_IMODE(os.stat(params["shares_file"]).st_mode) == 0o600
    again = run(params)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]
    assert json.loads(pathlib.Path(params["shares_file"]).read_text()) == kept
    assert kept["root_token"] not in json.dumps([first, again])
    assert kept["keys_base64"][0] not in json.dumps([first, again])


def test_unseals(node: FakeNode, params: dict[str, t.Any]) -> None:
    result = run({**params, "unseal": True, "secret_shares": 3, "secret_threshold": 2})
    assert result["diff"]["after"] == {"initialized": True, "sealed": False}
    assert not node.sealed
    assert not run({**params, "unseal": True})["changed"]


def test_check_mode_predicts_and_does_nothing(node: FakeNode, params: dict[str, t.Any]) -> None:
    predicted = run({**params, "unseal": True}, check=True)
    assert predicted["changed"]
    assert not node.initialized
    assert not os.path.exists(os.path.dirname(params["shares_file"]))
    assert run({**params, "unseal": True})["diff"] == predicted["diff"]


def test_nothing_to_do_when_a_peer_is_initialised(lab: Lab, params: dict[str, t.Any]) -> None:
    lab.cluster("n2")
    result = run({**params, "peers": [lab.nodes["n2"].url]})
    assert not result["changed"]
    assert result["initialized_url"] == lab.nodes["n2"].url
    assert not lab.nodes["n1"].initialized


def test_a_silent_peer_stops_it(node: FakeNode, params: dict[str, t.Any]) -> None:
    with pytest.raises(ModuleFailed, match="may belong to a cluster that is initialised"):
        run({**params, "peers": ["https://127.0.0.1:1"]})
    assert not node.initialized


def test_shares_of_another_cluster_are_never_overwritten(node: FakeNode, params: dict[str, t.Any]) -> None:
    path = pathlib.Path(params["shares_file"])
    path.parent.mkdir()
    path.write_text('{"keys": ["aa"]}')
    with pytest.raises(ModuleFailed, match="never overwritten"):
        run(params)
    assert not node.initialized
    assert path.read_text() == '{"keys": ["aa"]}'


def test_no_place_no_init(node: FakeNode, params: dict[str, t.Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModuleFailed, match="nothing was initialised"):
        run({**params, "shares_file": str(tmp_path / "file" / "init.json")})
    assert not node.initialized


def test_inside_an_execution_environment(node: FakeNode, params: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWX_PRIVATE_DATA_DIR", "/runner")
    with pytest.raises(ModuleFailed, match="execution environment"):
        run(params)
    assert not node.initialized
    assert run({**params, "allow_ephemeral": True})["changed"]


def environment_of_modules() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize("number", range(6))
def test_two_runs_at_once_lose_nothing(node: FakeNode, params: dict[str, t.Any], tmp_path: pathlib.Path, number: int) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command, pipe = [sys.executable, str(RACER), str(meeting)], subprocess.PIPE
    runs = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment_of_modules()) for _run in range(2)]
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": params}).encode()
    for one in runs:
        assert one.stdin is not None
        one.stdin.write(arguments)
        one.stdin.close()
        one.stdin = None
    answers = [json.loads(one.communicate(timeout=120)[0]) for one in runs]
    assert sorted(bool(answer.get("failed")) for answer in answers) == [False, True], answers
    assert "another run is initialising this cluster" in next(answer["msg"] for answer in answers if answer.get("failed"))
    assert run({**params, "unseal": True})["changed"]
    assert not node.sealed
    assert sorted(os.listdir(os.path.dirname(params["shares_file"]))) == ["init.json", "init.json.lock"]


def test_check_mode_leaves_a_run_under_way_alone(node: FakeNode, params: dict[str, t.Any]) -> None:
    custody = _custody.FileCustody(params["shares_file"])
    custody.prepare()
    with pytest.raises(ModuleFailed, match="another run is initialising this cluster"):
        run(params, check=True)
    assert custody.interrupted()
    custody.release()


def test_shares_that_are_somewhere_else_are_not_promised(lab: Lab, params: dict[str, t.Any]) -> None:
    lab.cluster("n2")
    assert run({**params, "url": lab.nodes["n2"].url})["shares_file"] == ""


def killed(params: dict[str, t.Any], at: str) -> None:
    """Runs the module in a process of its own that dies at C(at)."""
    environment = environment_of_modules()
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": params})
    done = subprocess.run([sys.executable, str(KILLER), at], input=arguments, text=True, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_between_answer_and_write(node: FakeNode, params: dict[str, t.Any]) -> None:
    killed(params, "before-write")
    assert node.initialized
    with pytest.raises(ModuleFailed, match=r"cut off before its shares were written.*empty its data directory") as caught:
        run(params)
    assert node.url in caught.value.result["msg"]
    node.cluster, node.sealed = None, True  # as told: wiped and started
    assert run({**params, "unseal": True})["changed"]
    assert not node.sealed


@pytest.mark.parametrize("at", ["after-write", "before-rename"])
def test_killed_after_the_write_nothing_is_lost(node: FakeNode, params: dict[str, t.Any], at: str) -> None:
    killed(params, at)
    assert node.initialized
    result = run({**params, "unseal": True})
    assert result["changed"]
    assert not node.sealed


def test_killed_before_the_init(node: FakeNode, params: dict[str, t.Any]) -> None:
    killed(params, "before-init")
    assert not node.initialized
    assert run(params)["changed"]


def test_an_answer_that_never_arrives(node: FakeNode, params: dict[str, t.Any]) -> None:
    node.drop_init_answer = True
    with pytest.raises(ModuleFailed, match="cut off before its shares were written"):
        run(params)
    with pytest.raises(ModuleFailed, match="cut off before its shares were written"):
        run(params)


def test_kept_by_a_command(node: FakeNode, params: dict[str, t.Any], tmp_path: pathlib.Path) -> None:
    script = tmp_path / "keeper"
    kept = tmp_path / "kept"
    script.write_text(f'#!/bin/sh\ncase "$1" in store) cat > {kept};; read) cat {kept} 2>/dev/null; true;; esac\n')
    script.chmod(0o700)
    wish = {**params, "shares_file": "", "shares_command": [str(script)], "token_command": [str(script)], "unseal": True}
    assert run(wish)["changed"]
    assert len(json.loads(kept.read_text())["keys"]) == 5
    assert not node.sealed
    assert not run(wish)["changed"]


def test_return_shares(node: FakeNode, params: dict[str, t.Any]) -> None:
    del params["shares_file"]
    result = run({**params, "return_shares": True})
    assert len(result["init"]["keys"]) == 5


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"secret_threshold": 6}, "secret_threshold 6 of secret_shares 5 is impossible"),
        ({"secret_threshold": 1}, "is impossible"),
        ({"secret_shares": 0, "secret_threshold": 0}, "is impossible"),
        ({"pgp_keys": ["a"]}, "1 keys for 5 shares"),
        ({"return_shares": True}, "exactly one"),
        ({"shares_file": None}, "exactly one"),
        ({"pgp_keys": ["a"] * 5, "unseal": True}, "unseal is not possible"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    node: FakeNode, params: dict[str, t.Any], extra: dict[str, t.Any], text: str
) -> None:
    with pytest.raises(ModuleFailed, match=text):
        run({**params, **extra})
    assert node.requests == []
