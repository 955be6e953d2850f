#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_join
short_description: Let a server join a Raft cluster
version_added: 0.1.0
description:
  - Makes the server at O(url) a member of the cluster of O(leader_api_addr), and waits until it is one.
  - A join with a Shamir seal has two phases; with O(shares_file), O(shares) or O(shares_command) both happen in this one call.
  - Whether anything changed comes from the states of the server and of the membership before and after, since the answers of
    C(sys/storage/raft/join) do not tell.
  - A server that belongs to another cluster, or was removed from this one, is refused with what to wipe.
  - What an interrupted join left behind (a learner of this node_id that never came up) is removed before joining anew.
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.one
  - holdfast.raft._connection.token
  - holdfast.raft._shares
  - holdfast.raft._wait
attributes:
  check_mode:
    support: full
    details: Whether the cluster will accept the server is not known before it is asked.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  url:
    description:
      - The API address of the server that joins.
  node_id:
    description:
      - The node_id of the server that joins, as its configuration has it.
    type: str
    required: true
  cluster_url:
    description:
      - API addresses, as seen from where the module runs, of members of the cluster, to read the membership from (needs a token).
      - Default is O(leader_api_addr).
    type: list
    elements: str
  leader_api_addr:
    description:
      - The API address, as seen from the joining server, of any member of the cluster.
      - Leave it out together with O(auto_join) where Raft is used for C(ha_storage) only.
    type: str
  auto_join:
    description:
      - A discovery expression such as C(provider=aws tag_key=...), instead of O(leader_api_addr).
    type: str
  auto_join_scheme:
    description: The scheme of discovered addresses.
    type: str
    choices: [http, https]
  auto_join_port:
    description: The port of discovered addresses.
    type: int
  leader_ca_cert:
    description: CA certificate (PEM) that the joining server checks the leader's certificate with.
    type: str
  leader_ca_cert_file:
    description: A file, where the module runs, that holds it.
    type: path
  leader_client_cert:
    description: Client certificate (PEM) for the leader.
    type: str
  leader_client_cert_file:
    description: A file, where the module runs, that holds it.
    type: path
  leader_client_key:
    description: Key (PEM) of the client certificate.
    type: str
  leader_client_key_file:
    description: A file, where the module runs, that holds it.
    type: path
  leader_tls_servername:
    description:
      - The name that the leader's certificate is checked for. OpenBao heeds it only with a certificate or a CA given.
    type: str
  retry:
    description: Let the server itself go on trying in the background; the module waits for the result all the same.
    type: bool
    default: false
  non_voter:
    description: Join as a server that never votes. Needs OpenBao 2.2 or holdfast. Where a join loses it, it is demoted afterwards.
    type: bool
    default: false
  wait_for:
    description:
      - What to wait for, as far as shares and token allow it. V(role) is that it votes, or is a non-voter with O(non_voter=true).
      - V(member) is earlier, as soon as the leader lists it. Several servers can so become voters at the same time, while
        M(holdfast.raft.raft_peer) waits for all of them.
    type: str
    choices: [member, role]
    default: role
  replace:
    description:
      - A voter of this node_id is a member, but the server is empty (its disk was wiped or replaced). Remove the old one first, if
        that is safe, and join anew. Without it that is refused.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Join, unseal, and wait until the server votes
  holdfast.raft.raft_join:
    url: https://10.0.0.2:8200
    node_id: n2
    leader_api_addr: https://10.0.0.1:8200
    leader_ca_cert_file: /etc/pki/holdfast/ca.pem
    ca_cert: /etc/pki/holdfast/ca.pem
    shares_file: ~/.holdfast/init.json
    token_file: ~/.holdfast/init.json
  delegate_to: localhost
  become: false
"""

RETURN = r"""
state:
  description: The server after the call. C(role) is C(voter), C(learner), C(non-voter), C(absent), or C(unknown) without a token.
  returned: success
  type: dict
  sample: {initialized: true, sealed: false, role: voter}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _join, _module
from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._session import Cluster


def run(module: AnsibleModule) -> dict[str, object]:
    params = module.params
    settings = _module.settings_of(module)
    members = params["cluster_url"] or [url for url in [params["leader_api_addr"]] if url]
    job = _join.Join(
        joiner=Client(params["url"], settings),
        node_id=params["node_id"],
        cluster=Cluster(members, settings) if members and settings.token else None,
        request=_join.request_of(params),
        shares=_module.shares_of(module),
        role="non_voter" if params["non_voter"] else "voter",
        wait_for=params["wait_for"],
        replace=params["replace"],
        waiter=_module.waiter_of(module),
    )
    before = job.observe()
    if module.check_mode:
        after = job.predict()
        return {**_module.changes(before, after), "state": after}
    job.join()
    after = job.finish(params["wait"])
    return {**_module.changes(before, after), "state": after}


def main() -> None:
    pem = ("leader_ca_cert", "leader_client_cert", "leader_client_key")
    module = AnsibleModule(
        argument_spec={
            **_module.connection(many=False),
            **_module.authentication(),
            **_module.shares(),
            **_module.waiting(),
            **{f"{name}_file": {"type": "path", "no_log": False} for name in pem},
            "node_id": {"type": "str", "required": True},
            "cluster_url": {"type": "list", "elements": "str"},
            "leader_api_addr": {"type": "str"},
            "auto_join": {"type": "str"},
            "auto_join_scheme": {"type": "str", "choices": ["http", "https"]},
            "auto_join_port": {"type": "int"},
            "leader_ca_cert": {"type": "str"},
            "leader_client_cert": {"type": "str"},
            "leader_client_key": {"type": "str", "no_log": True},
            "leader_tls_servername": {"type": "str"},
            "retry": {"type": "bool", "default": False},
            "non_voter": {"type": "bool", "default": False},
            "wait_for": {"type": "str", "choices": ["member", "role"], "default": "role"},
            "replace": {"type": "bool", "default": False},
        },
        mutually_exclusive=[
            ("leader_api_addr", "auto_join"),
            *[(name, f"{name}_file") for name in pem],
        ],
        supports_check_mode=True,
    )
    _module.run(module, run)


if __name__ == "__main__":
    main()
