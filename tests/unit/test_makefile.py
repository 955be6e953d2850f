# SPDX-License-Identifier: GPL-3.0-or-later
"""C(make clean) never takes the data away from below a process that runs."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

MAKEFILE = pathlib.Path(__file__).resolve().parents[2] / "Makefile"


def clean(checkout: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(MAKEFILE, checkout)
    kept = {name: value for name, value in os.environ.items() if name != "HOLDFAST_STATE_DIR" and not name.startswith("MAKE")}
    command = ["make", "clean", *arguments]
    return subprocess.run(command, cwd=checkout, env={**kept, **environment}, capture_output=True, text=True, check=False)


def running(state: pathlib.Path) -> pathlib.Path:
    """What a supervised node leaves while it runs."""
    path = state / "run" / "n1" / "state.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def tools(checkout: pathlib.Path) -> pathlib.Path:
    """An ansible-playbook that only writes down what it was called with, then removes what clean.yml would."""
    called = checkout / "called"
    program = checkout / ".venv" / "bin" / "ansible-playbook"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\nrm -rf "${{HOLDFAST_STATE_DIR:-.state/local}}"\n')
    program.chmod(0o700)
    return called


@pytest.mark.parametrize("where", [".state/local", ".state/other", ".state/demo-1/first/cluster", "elsewhere"])
def test_refused_without_the_tools_to_stop_the_nodes(tmp_path: pathlib.Path, where: str) -> None:
    state = running(tmp_path / where)
    done = clean(tmp_path, **({"HOLDFAST_STATE_DIR": "elsewhere"} if where == "elsewhere" else {}))
    assert done.returncode != 0
    assert f"Nodes may run below {where}" in done.stdout
    assert state.exists()


def test_the_state_directory_and_the_inventory_are_those_of_make_cluster(tmp_path: pathlib.Path) -> None:
    called = tools(tmp_path)
    running(tmp_path / "elsewhere")
    done = clean(tmp_path, "INVENTORY=mine.yml", HOLDFAST_STATE_DIR="elsewhere")
    assert done.returncode == 0, done.stderr
    assert called.read_text() == "-i mine.yml playbooks/clean.yml\n"
    running(tmp_path / ".state" / "local")
    assert clean(tmp_path).returncode == 0
    assert called.read_text().splitlines()[1] == "-i inventories/local-grow.yml playbooks/clean.yml"
    assert not (tmp_path / ".state").exists()


def test_nothing_to_stop_needs_no_tools(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".state" / "cache").mkdir(parents=True)
    assert clean(tmp_path).returncode == 0
    assert not (tmp_path / ".state").exists()
