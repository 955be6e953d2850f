#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_peer
short_description: Keep servers in or out of the membership of a Raft cluster
version_added: 0.1.0
description:
  - Removes servers, promotes non-voters to voters or demotes voters to non-voters, one safe step at a time, and reads the
    membership again between two steps.
  - Dead servers leave first, live non-voters next, then live voters; the leader leaves last, after leadership was handed over.
  - Nothing is begun that would leave fewer healthy voters than a majority of the voters that remain. The last voter is never removed.
  - The servers' processes and data are not touched. A removed server must be wiped before it can join again.
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes.full
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.many
  - holdfast.raft._connection.token
  - holdfast.raft._wait
options:
  node_ids:
    description:
      - The servers, by node_id. With O(state=absent), one that is no member is no error.
    type: list
    elements: str
    required: true
    aliases: [node_id]
  state:
    description:
      - V(present) sees to it that the members O(node_ids) have the role O(role). Servers become members with
        M(holdfast.raft.raft_join).
      - V(absent) removes them.
    type: str
    choices: [present, absent]
    default: present
  role:
    description:
      - The role of the servers with O(state=present). A learner that autopilot will promote is waited for.
      - V(non_voter), and promoting one that is to stay a non-voter, need OpenBao 2.2 or holdfast.
    type: str
    choices: [voter, non_voter]
    default: voter
  force:
    description:
      - Take steps that leave no majority of healthy voters. Of use only when the servers that are counted as dead never come back.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Remove two servers, whoever leads
  holdfast.raft.raft_peer:
    url:
      - https://10.0.0.1:8200
      - https://10.0.0.2:8200
    ca_cert: /etc/pki/holdfast/ca.pem
    token_file: ~/.holdfast/init.json
    node_ids: [n4, n5]
    state: absent
  delegate_to: localhost

- name: Wait until the new servers are voters
  holdfast.raft.raft_peer:
    url: https://10.0.0.1:8200
    token_file: ~/.holdfast/init.json
    node_ids: [n1, n2, n3]
  delegate_to: localhost
"""

RETURN = r"""
steps:
  description: The steps that were taken, in order; in check mode those that would be taken.
  returned: success
  type: list
  elements: str
  sample: [remove n4, transfer n1, remove n1]
members:
  description: Each member's role (C(voter), C(learner) or C(non-voter)) after the call.
  returned: success
  type: dict
  sample: {n2: voter, n3: voter}
leader:
  description: The node_id of the leader after the call; in check mode one that could lead.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _module
from ansible_collections.holdfast.raft.plugins.module_utils._membership import as_lines, reconcile
from ansible_collections.holdfast.raft.plugins.module_utils._planner import ABSENT
from ansible_collections.holdfast.raft.plugins.module_utils._session import Cluster


def run(module: AnsibleModule) -> dict[str, object]:
    params = module.params
    role = ABSENT if params["state"] == "absent" else params["role"]
    outcome = reconcile(
        Cluster(params["url"], _module.settings_of(module)),
        {node_id: role for node_id in params["node_ids"]},
        _module.waiter_of(module),
        force=params["force"],
        wait=params["wait"],
        check_mode=module.check_mode,
    )
    if outcome.steps and len(outcome.after.voters) % 2 == 0:
        module.warn(f"{len(outcome.after.voters)} voters tolerate no more failures than {len(outcome.after.voters) - 1} would")
    leader = outcome.after.leader
    return {
        **_module.changes(outcome.before.summary(), outcome.after.summary()),
        "steps": as_lines(outcome.steps),
        "members": outcome.after.summary(),
        "leader": leader.node_id if leader else "",
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.connection(),
            **_module.authentication(),
            **_module.waiting(),
            "node_ids": {"type": "list", "elements": "str", "required": True, "aliases": ["node_id"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "role": {"type": "str", "choices": ["voter", "non_voter"], "default": "voter"},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    _module.run(module, run)


if __name__ == "__main__":
    main()
