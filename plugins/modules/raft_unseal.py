#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_unseal
short_description: Unseal servers with shares
version_added: 0.1.0
description:
  - Unseals one or many servers of a cluster, each with as many shares as it asks for, and waits until they are unsealed.
  - Progress that somebody else left behind is reset first. Servers that are unsealed stay as they are.
  - Servers with an automatic seal are only waited for.
  - Unsealing needs no token. The options of one are accepted, so that defaults of the action group do no harm.
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes.full
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.many
  - holdfast.raft._connection.token
  - holdfast.raft._shares
  - holdfast.raft._wait
options:
  url:
    description:
      - The API addresses of the servers to unseal, all of them.
  ignore:
    description:
      - Servers to leave out instead of failing.
    type: list
    elements: str
    choices: [uninitialized, unreachable]
    default: []
"""

EXAMPLES = r"""
- name: Unseal what a restart left sealed
  holdfast.raft.raft_unseal:
    url:
      - https://10.0.0.1:8200
      - https://10.0.0.2:8200
      - https://10.0.0.3:8200
    ca_cert: /etc/pki/holdfast/ca.pem
    shares_file: ~/.holdfast/init.json
  delegate_to: localhost
"""

RETURN = r"""
unsealed:
  description: The addresses that this call unsealed, or would unseal in check mode.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _module
from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError, Unreachable
from ansible_collections.holdfast.raft.plugins.module_utils._session import read_nodes
from ansible_collections.holdfast.raft.plugins.module_utils._unseal import needed, unseal


def run(module: AnsibleModule) -> dict[str, object]:
    settings, shares = _module.settings_of(module, needs_token=False), _module.shares_of(module)
    ignored = module.params["ignore"]
    before = [
        node
        for node in read_nodes([url.rstrip("/") for url in module.params["url"]], settings)
        if not ("unreachable" in ignored and not node.reachable)
        and not ("uninitialized" in ignored and node.reachable and not node.initialized)
    ]
    for node in before:
        if not node.reachable:
            raise Unreachable(node.error)
        if not node.initialized:
            raise RaftError(f"{node.url} is not initialised: use raft_bootstrap for a new cluster, raft_join for a member")
        if node.sealed and node.seal_type == "shamir":
            needed(node, shares)  # too few shares are told before the first server is touched
    todo = [node.url for node in before if node.sealed]
    after = {node.url: node.sealed for node in before}
    waiter = _module.waiter_of(module)
    for url in todo:
        if module.check_mode:
            after[url] = False
        else:
            after[url] = unseal(Client(url, settings), shares, waiter, module.params["wait"]).sealed
    changes = _module.changes({"sealed": {node.url: node.sealed for node in before}}, {"sealed": after})
    return {**changes, "unsealed": todo}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.connection(),
            **_module.authentication(),
            **_module.shares(),
            **_module.waiting(),
            "ignore": {"type": "list", "elements": "str", "choices": ["uninitialized", "unreachable"], "default": []},
        },
        supports_check_mode=True,
    )
    _module.run(module, run)


if __name__ == "__main__":
    main()
