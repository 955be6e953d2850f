# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd unit, rendered by Ansible as the role does it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import typing as t

import pytest
import yaml

ROLE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "node"
PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")],
        "tasks": [
            {"ansible.builtin.template": {"src": str(ROLE / "templates" / "holdfast.service.j2"), "dest": "{{ unit }}"}},
            {"ansible.builtin.copy": {"content": "{{ _node_unit_content }}", "dest": "{{ unit }}.content"}},
        ],
    }
]


def rendered(directory: pathlib.Path, **given: t.Any) -> tuple[pathlib.Path, str]:
    """The unit's file, and the text of it that the configuration's hash is made of."""
    unit = directory / "holdfast.service"
    (directory / "play.yml").write_text(yaml.safe_dump(PLAY))
    variables = {
        "ansible_python_interpreter": sys.executable,
        "unit": str(unit),
        "role_path": str(ROLE),
        "_node_probe": {"systemd": True, "user": "root"},
        "_node_hash": "0123abcd",
        "node_prefix": str(directory),
        "node_user": "daemon",
        "node_group": "root",
        **given,
    }
    program = pathlib.Path(sys.executable).parent / "ansible-playbook"
    command = [str(program), "-i", "localhost,", "-c", "local", str(directory / "play.yml"), "-e", json.dumps(variables)]
    environment = {**os.environ, "ANSIBLE_HOME": str(directory / "ansible"), "ANSIBLE_LOCALHOST_WARNING": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return unit, (directory / "holdfast.service.content").read_text()


def test_a_changed_unit_changes_the_hash_but_the_hash_does_not(tmp_path: pathlib.Path) -> None:
    unit, content = rendered(tmp_path)
    assert "Environment=HOLDFAST_CONFIG_HASH=0123abcd\n" in unit.read_text()
    assert content.splitlines()[1:] == unit.read_text().replace("0123abcd", "").splitlines()[1:]
    assert rendered(tmp_path, _node_hash="another")[1] == content
    assert rendered(tmp_path, node_data_dir="/srv/elsewhere")[1] != content
    assert rendered(tmp_path, node_service_manager="process")[1] == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "current" / "bin" / "holdfast"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit, _content = rendered(tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "holdfast" in line]
    assert complaints == []
    unit.write_text(unit.read_text().replace("ExecStart=", "ExecStrat="))
    assert "ExecStrat" in subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False).stderr
