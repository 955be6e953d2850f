#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_autopilot
short_description: Configure autopilot of a Raft cluster
version_added: 0.1.0
description:
  - Sets those parts of autopilot's configuration that are given and differ. Durations are compared by their length, so V(1m) and
    V(60s) are the same.
  - Zero values are refused, since the servers take them for "not given".
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes.full
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.many
  - holdfast.raft._connection.token
options:
  cleanup_dead_servers:
    description:
      - Whether servers that were dead for O(dead_server_last_contact_threshold) are removed. Needs O(min_quorum).
    type: bool
  min_quorum:
    description:
      - The number of voters that the clean-up never goes below; at least 3.
    type: int
  last_contact_threshold:
    description:
      - How long a server may be silent before it counts as unhealthy; seconds or a duration such as V(10s).
    type: str
  dead_server_last_contact_threshold:
    description:
      - How long a server must be silent before the clean-up removes it; at least V(1m).
    type: str
  server_stabilization_time:
    description:
      - How long a new server must be healthy before it becomes a voter.
    type: str
  max_trailing_logs:
    description:
      - How many log entries a server may lag before it counts as unhealthy.
    type: int
"""

EXAMPLES = r"""
- name: Remove servers that are gone for an hour
  holdfast.raft.raft_autopilot:
    url: https://10.0.0.1:8200
    token_file: ~/.holdfast/init.json
    cleanup_dead_servers: true
    min_quorum: 3
    dead_server_last_contact_threshold: 1h
  delegate_to: localhost
"""

RETURN = r"""
configuration:
  description: Autopilot's configuration after the call, as the server gives it.
  returned: success
  type: dict
  sample: {cleanup_dead_servers: false, min_quorum: 0, last_contact_threshold: 10s}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _module
from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError
from ansible_collections.holdfast.raft.plugins.module_utils._session import RAFT, Cluster

DURATIONS = ("last_contact_threshold", "dead_server_last_contact_threshold", "server_stabilization_time")
NUMBERS = ("min_quorum", "max_trailing_logs")


def differing(asked: dict[str, object], stored: dict[str, object]) -> dict[str, object]:
    """The asked values that are not what is stored."""
    return {
        name: value
        for name, value in asked.items()
        if (_module.seconds(value) != _module.seconds(stored.get(name, 0)) if name in DURATIONS else value != stored.get(name))
    }


def checked(params: dict[str, object]) -> dict[str, object]:
    """The values given, refused when a server would take them for something else."""
    asked = {name: params[name] for name in ("cleanup_dead_servers", *DURATIONS, *NUMBERS) if params[name] is not None}
    for name in (*DURATIONS, *NUMBERS):
        if name in asked and _module.seconds(asked[name]) <= 0:
            raise RaftError(f"{name} must be more than 0; the server takes 0 for 'not given' and keeps its old value")
    return asked


def run(module: AnsibleModule) -> dict[str, object]:
    asked = checked(module.params)
    leader = Cluster(module.params["url"], _module.settings_of(module)).leader()
    before = dict(leader.get(f"{RAFT}/autopilot/configuration").data)
    todo = differing(asked, before)
    after = {**before, **todo}
    if todo and not module.check_mode:
        leader.put(f"{RAFT}/autopilot/configuration", todo)
        after = dict(leader.get(f"{RAFT}/autopilot/configuration").data)
        missed = differing(todo, after)
        if missed:
            raise RaftError(f"{leader.url} accepted the configuration but kept its own {', '.join(sorted(missed))}")
    return {**_module.changes(before, after), "configuration": after}


def main() -> None:
    durations = {name: {"type": "str"} for name in DURATIONS}
    module = AnsibleModule(
        argument_spec={
            **_module.connection(),
            **_module.authentication(),
            **durations,
            "cleanup_dead_servers": {"type": "bool"},
            "min_quorum": {"type": "int"},
            "max_trailing_logs": {"type": "int"},
        },
        supports_check_mode=True,
    )
    _module.run(module, run)


if __name__ == "__main__":
    main()
