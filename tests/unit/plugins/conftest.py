# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: a fake cluster behind TLS, and a way to run a module in this process."""

from __future__ import annotations

import json
import pathlib
import typing as t
from contextlib import ExitStack
from unittest import mock

import pytest
from ansible.module_utils import basic

from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import Lab, make_tls

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
CONNECTION = ("BAO_ADDR", "VAULT_ADDR", "BAO_TOKEN", "VAULT_TOKEN", "BAO_CACERT", "VAULT_CACERT", "BAO_SKIP_VERIFY")


class ModuleFailed(Exception):
    """fail_json was called; C(result) is what it was called with."""

    def __init__(self, result: dict[str, t.Any]) -> None:
        super().__init__(result["msg"])
        self.result = result


class ModuleEnded(Exception):
    def __init__(self, result: dict[str, t.Any]) -> None:
        super().__init__()
        self.result = result


def run_module(main: t.Callable[[], None], params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    """The result of a module run in this process; raises ModuleFailed."""

    def end(self: basic.AnsibleModule, **result: t.Any) -> t.NoReturn:
        raise ModuleEnded(basic.remove_values(result, self.no_log_values))

    def fail(self: basic.AnsibleModule, msg: str, **result: t.Any) -> t.NoReturn:
        raise ModuleFailed(basic.remove_values({"msg": msg, **result}, self.no_log_values))

    arguments = {"ANSIBLE_MODULE_ARGS": {**params, "_ansible_check_mode": check, "_ansible_diff": True}}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(basic, "_ANSIBLE_ARGS", json.dumps(arguments).encode()))
        if hasattr(basic, "_ANSIBLE_PROFILE"):
            stack.enter_context(mock.patch.object(basic, "_ANSIBLE_PROFILE", "legacy"))
        stack.enter_context(mock.patch.object(basic.AnsibleModule, "exit_json", end))
        stack.enter_context(mock.patch.object(basic.AnsibleModule, "fail_json", fail))
        try:
            main()
        except ModuleEnded as ended:
            return ended.result
    raise AssertionError("the module neither ended nor failed")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CONNECTION:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with ca.pem, server.pem (127.0.0.1 and localhost), named.pem (holdfast.test only) and their keys."""
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def lab(tls: pathlib.Path) -> t.Iterator[Lab]:
    """A place where fake servers run; all are stopped afterwards."""
    place = Lab(tls)
    yield place
    place.stop()


@pytest.fixture(scope="session")
def transcripts() -> list[dict[str, t.Any]]:
    return t.cast("list[dict[str, t.Any]]", json.loads((FIXTURES / "transcripts.json").read_text()))
