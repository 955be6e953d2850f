# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError
from ansible_collections.holdfast.raft.plugins.module_utils._module import seconds
from ansible_collections.holdfast.raft.plugins.modules import raft_autopilot
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import Lab


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_autopilot.main, params, check)


def test_only_what_differs_is_sent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = lab.cluster("n1", "n2")
    wish = lab.params(cluster, last_contact_threshold="15s", dead_server_last_contact_threshold="24h", max_trailing_logs=1000)
    predicted = run(wish, check=True)
    assert cluster.autopilot["last_contact_threshold"] == "10s"
    result = run(wish)
    assert result["changed"]
    assert result["diff"] == predicted["diff"]
    assert cluster.autopilot["last_contact_threshold"] == "15s"
    assert cluster.autopilot["dead_server_last_contact_threshold"] == "24h0m0s"
    assert not run(wish)["changed"]
    assert not run(lab.params(cluster, last_contact_threshold="15"))["changed"]


@pytest.mark.parametrize("extra", [{"min_quorum": 0}, {"max_trailing_logs": -3}, {"server_stabilization_time": "0s"}])
def test_values_that_a_server_would_not_take_as_meant(lab: Lab, extra: dict[str, t.Any]) -> None:
    cluster = lab.cluster("n1")
    with pytest.raises(ModuleFailed, match="must be more than 0"):
        run(lab.params(cluster, **extra))
    assert cluster.calls == []


def test_a_server_that_keeps_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = lab.cluster("n1")
    monkeypatch.setattr(cluster, "autopilot", type("Stubborn", (dict,), {"update": lambda self, other: None})(cluster.autopilot))
    with pytest.raises(ModuleFailed, match="kept its own max_trailing_logs"):
        run(lab.params(cluster, max_trailing_logs=5))


@pytest.mark.parametrize(
    ("text", "value"), [("10s", 10), ("1h2m3.5s", 3723.5), ("500ms", 0.5), (30, 30), ("24h0m0s", 86400), ("-1ns", -1e-9)]
)
def test_durations(text: object, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "rubbish", "10 s", "s", "1.2.3s", "10x"])
def test_no_durations(text: str) -> None:
    with pytest.raises(RaftError, match="no duration"):
        seconds(text)
