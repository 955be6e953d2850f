# SPDX-License-Identifier: Apache-2.0
"""Membership and autopilot endpoints: recorded texts, and the improvements over OpenBao."""

from __future__ import annotations

from typing import Any

import pytest

RAFT = "sys/storage/raft/"


@pytest.fixture
async def three(leader: Any) -> Any:
    """A leader with two more voters (fake ones)."""
    for name in ("raft2", "raft3"):
        await leader.cluster.add_server(name, f"{name}.test:8201", False)
        await leader.cluster.promote(name)
    return leader


async def test_remove_peer(three: Any) -> None:
    for body in ({}, {"server_id": ""}):
        assert await three.call("POST", RAFT + "remove-peer", body) == (400, {"errors": ["no server id provided"]})
    assert (await three.call("POST", RAFT + "remove-peer", {"server_id": "nobody"}))[0] == 204
    assert (await three.call("POST", RAFT + "remove-peer", {"server_id": "raft3"}))[0] == 204
    _, body = await three.call("GET", RAFT + "configuration")
    assert [server["node_id"] for server in body["data"]["config"]["servers"]] == ["raft1", "raft2"]


async def test_the_last_voter_stays(leader: Any) -> None:
    await leader.cluster.add_server("raft2", "raft2.test:8201", False)
    for path in ("remove-peer", "demote"):
        status, body = await leader.call("POST", RAFT + path, {"server_id": "raft1"})
        assert status == 400
        assert "need at least one voter in configuration" in body["errors"][0]
    assert set(leader.cluster.world.servers) == {"raft1", "raft2"}


async def test_promote_and_demote(three: Any) -> None:
    for path in ("promote", "demote"):
        assert await three.call("POST", RAFT + path) == (400, {"errors": ["no server id provided"]})
        status, body = await three.call("POST", RAFT + path, {"server_id": "nobody"})
        assert status == 400
        assert "nobody" in body["errors"][0]
    status, body = await three.call("POST", RAFT + "promote", {"server_id": "raft3"})
    assert (status, body) == (500, {"errors": ["1 error occurred:\n\t* server is not a non-voter\n\n"]})
    assert (await three.call("POST", RAFT + "demote", {"server_id": "raft3"}))[0] == 204
    status, body = await three.call("POST", RAFT + "demote", {"server_id": "raft3"})
    assert (status, body) == (500, {"errors": ["1 error occurred:\n\t* server is already a non-voter\n\n"]})
    _, body = await three.call("GET", RAFT + "autopilot/state")
    assert body["data"]["non_voters"] == ["raft3"]
    assert (await three.call("POST", RAFT + "promote", {"server_id": "raft3"}))[0] == 204


async def test_autopilot_state_has_the_recorded_shape(three: Any) -> None:
    status, body = await three.call("GET", RAFT + "autopilot/state")
    assert status == 200
    assert set(body["data"]) == {"failure_tolerance", "healthy", "leader", "servers", "voters"}
    assert body["data"]["voters"] == ["raft1", "raft2", "raft3"]
    assert set(body["data"]["servers"]["raft2"]) >= {
        "id", "name", "address", "node_status", "last_contact", "last_term", "last_index", "healthy", "stable_since",
        "status", "version", "node_type",
    }  # fmt: skip
    assert body["data"]["servers"]["raft2"]["last_contact"] == "1.5s"
    assert body["data"]["servers"]["raft1"]["last_contact"] == "0s"


async def test_autopilot_configuration(leader: Any) -> None:
    path = RAFT + "autopilot/configuration"
    defaults = {
        "cleanup_dead_servers": False,
        "dead_server_last_contact_threshold": "24h0m0s",
        "last_contact_threshold": "10s",
        "max_trailing_logs": 1000,
        "min_quorum": 0,
        "server_stabilization_time": "10s",
    }
    assert (await leader.call("GET", path))[1]["data"] == defaults
    assert (await leader.call("POST", path, {"max_trailing_logs": 500, "last_contact_threshold": "15s"}))[0] == 204
    expected = {**defaults, "max_trailing_logs": 500, "last_contact_threshold": "15s"}
    assert (await leader.call("GET", path))[1]["data"] == expected
    assert leader.cluster.autopilot.last_contact_threshold == 15.0
    leader.cluster.autopilot = None
    leader.cluster.world.elect(leader.cluster)
    assert leader.cluster.autopilot.max_trailing_logs == 500


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"cleanup_dead_servers": True},
            "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; "
            "cleanup_dead_servers: true, min_quorum: 0x0",
        ),
        (
            {"cleanup_dead_servers": True, "min_quorum": 3, "dead_server_last_contact_threshold": "10s"},
            "dead_server_last_contact_threshold should not be set to less than 1m; received: 10",
        ),
        (
            {"last_contact_threshold": "rubbish"},
            'Field validation failed: error converting input for field "last_contact_threshold": '
            'time: invalid duration "rubbish"',
        ),
        ({"min_quorum": -3}, "min_quorum must not be negative; received: -3"),
        ({"max_trailing_logs": -1}, "max_trailing_logs must not be negative; received: -1"),
        ({"last_contact_threshold": "0s"}, "last_contact_threshold must be greater than zero; received: 0s"),
    ],
)
async def test_refused_settings_change_nothing(leader: Any, body: dict[str, Any], text: str) -> None:
    path = RAFT + "autopilot/configuration"
    before = await leader.call("GET", path)
    assert await leader.call("POST", path, body) == (400, {"errors": [text]})
    assert await leader.call("GET", path) == before


async def test_ha_status(three: Any) -> None:
    _, body = await three.call("GET", "sys/ha-status")
    assert body["nodes"] == body["data"]["nodes"]
    own, second, _ = body["nodes"]
    assert own["active_node"] is True
    assert own["last_echo"] is None
    assert own["cluster_address"] == "https://raft1.test:8201"
    assert second["active_node"] is False
    assert second["last_echo"].endswith("Z")


async def test_tokens_are_needed(leader: Any) -> None:
    for token in ("", "s.bad"):
        answer = await leader.call("GET", RAFT + "configuration", token=token)
        assert answer == (403, {"errors": ["permission denied"]})


async def test_no_raft_paths_without_raft(dev: Any) -> None:
    status, body = await dev.call("GET", RAFT + "configuration")
    assert (status, body) == (404, {"errors": ["1 error occurred:\n\t* unsupported path\n\n"]})
