# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters of the playbooks."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.filter.cluster import members, names


def test_members() -> None:
    hostvars: dict[str, dict[str, t.Any]] = {
        "a": {},
        "b": {"ansible_host": "10.0.0.2", "node_id": "raft2", "node_non_voter": "true"},
        "c": {"node_api_addr": "https://c.example:8300/"},
    }
    assert members(hostvars, ["a", "b", "c"]) == [
        {"host": "a", "node_id": "a", "url": "https://a:8200", "non_voter": False},
        {"host": "b", "node_id": "raft2", "url": "https://10.0.0.2:8200", "non_voter": True},
        {"host": "c", "node_id": "c", "url": "https://c.example:8300", "non_voter": False},
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("n4, n5", ["n4", "n5"]), ("n4 n5,", ["n4", "n5"]), ("", []), (None, []), (["n4", " n5 "], ["n4", "n5"]), ([], [])],
)
def test_names(value: t.Any, expected: list[str]) -> None:
    assert names(value) == expected
