#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_info
short_description: Read the state of a Raft cluster and of its servers
version_added: 0.1.0
description:
  - Returns health, seal state, leader, membership and autopilot of one or many API addresses in one call.
  - A place of a token that is empty is no failure. What each address says of itself needs none.
  - Membership and autopilot need a token that may read C(sys/storage/raft/configuration) and
    C(sys/storage/raft/autopilot/state), and are read from the leader.
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes.info_module
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.many
  - holdfast.raft._connection.token
options:
  url:
    description:
      - The API addresses to ask, all of them, at the same time. One that does not answer is no failure; it is reported.
"""

EXAMPLES = r"""
- name: Look at a cluster
  holdfast.raft.raft_info:
    url:
      - https://10.0.0.1:8200
      - https://10.0.0.2:8200
    ca_cert: /etc/pki/holdfast/ca.pem
    token_file: ~/.holdfast/init.json
  register: cluster
  delegate_to: localhost

- name: Stop when one more failure would cost the quorum
  ansible.builtin.assert:
    that: cluster.failure_tolerance >= 1
"""

RETURN = r"""
nodes:
  description: One entry per address, in the order of O(url).
  returned: success
  type: list
  elements: dict
  sample:
    - url: https://10.0.0.1:8200
      reachable: true
      error: ""
      initialized: true
      sealed: false
      is_leader: true
      leader_address: https://10.0.0.1:8200
      applied_index: 42
      cluster_id: 6ce2eab8-dd50-5d4f-8d4e-7a2b6a3f6a10
      threshold: 3
      shares: 5
initialized:
  description: Whether any address is initialised.
  returned: success
  type: bool
sealed:
  description: The addresses that answer and are sealed.
  returned: success
  type: list
  elements: str
not_answering:
  description: The addresses that do not answer.
  returned: success
  type: list
  elements: str
leader:
  description: The API address of the leader, empty when there is none.
  returned: success
  type: str
members:
  description: The servers of the leader's configuration; empty when there is no leader or the token may not read it.
  returned: success
  type: list
  elements: dict
  sample:
    - node_id: n1
      address: 10.0.0.1:8201
      api_address: https://10.0.0.1:8200
      state: leader
      voter: true
      role: voter
      healthy: true
      applied_index: 42
membership_error:
  description: Why RV(members) could not be read; empty when it could.
  returned: success
  type: str
failure_tolerance:
  description: How many more voters may fail, as autopilot counts them; -1 when it is not known.
  returned: success
  type: int
autopilot:
  description: The configuration of autopilot; empty when it could not be read.
  returned: success
  type: dict
table:
  description: RV(members) as lines of text.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _module
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import ClusterView, Node, role_of, table
from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError
from ansible_collections.holdfast.raft.plugins.module_utils._session import RAFT, Cluster, read_nodes


def member_rows(view: ClusterView, nodes: list[Node]) -> list[dict[str, object]]:
    """Members with the applied index that their own address tells, or the last one that autopilot heard of."""
    own = {node.url: node.applied_index for node in nodes if node.reachable}
    rows = []
    for server in view.servers:
        index = own.get(server.api_address.rstrip("/"))
        rows.append(
            {
                "node_id": server.node_id,
                "address": server.address,
                "api_address": server.api_address,
                "state": server.state,
                "voter": server.voter,
                "role": role_of(server),
                "healthy": server.healthy,
                "applied_index": server.last_index if index is None else index,
            }
        )
    return rows


def lines(rows: list[dict[str, object]]) -> list[str]:
    heading = ["node_id", "address", "state", "voter", "applied_index", "healthy", "api_address"]
    return table([heading, *[[str(row[name]) for name in heading] for row in rows]])


def info(module: AnsibleModule) -> dict[str, object]:
    settings = _module.settings_of(module, needs_token=False)
    cluster = Cluster(module.params["url"], settings)
    nodes = read_nodes(cluster.urls, settings)
    result: dict[str, object] = {
        "changed": False,
        "nodes": [node.as_dict() for node in nodes],
        "initialized": any(node.initialized for node in nodes),
        "sealed": [node.url for node in nodes if node.reachable and node.sealed],
        "not_answering": [node.url for node in nodes if not node.reachable],
        "leader": "",
        "members": [],
        "table": [],
        "membership_error": "",
        "failure_tolerance": -1,
        "autopilot": {},
    }
    try:
        leader = cluster.leader()
        result["leader"] = leader.url
        view = cluster.view_at(leader)
        rows = member_rows(view, nodes)
        tolerance = -1 if view.failure_tolerance is None else view.failure_tolerance
        result.update(members=rows, table=lines(rows), failure_tolerance=tolerance)
        result["autopilot"] = dict(leader.get(f"{RAFT}/autopilot/configuration").data)
    except RaftError as exc:
        place = module.params["token_file"] or (module.params["token_command"] or [""])[0]
        result["membership_error"] = f"{exc}; there is no token in {place}" if place and not settings.token else str(exc)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={**_module.connection(), **_module.authentication()},
        supports_check_mode=True,
    )
    _module.run(module, info)


if __name__ == "__main__":
    main()
