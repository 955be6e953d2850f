#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_bootstrap
short_description: Initialise the first server of a cluster and keep its unseal shares
version_added: 0.1.0
description:
  - Initialises O(url) when neither it nor one of O(peers) is initialised, and keeps the answer (unseal shares and root token).
  - The place of custody is tried before the server is asked anything (a file is created, filled, synced and read back), and the
    answer goes there in one synced write, since C(sys/init) answers only once.
  - The place is locked (C(.lock) beside O(shares_file)) while the module runs, and a second run is refused.
  - When a run was killed between answer and write, the next run says so and what to do.
  - With O(ha_storage=true), Raft is activated on a server that keeps its data elsewhere (C(sys/storage/raft/bootstrap)).
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes.full
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.one
  - holdfast.raft._connection.token
  - holdfast.raft._wait
options:
  peers:
    description:
      - API addresses of the other servers of the cluster. When one of them is initialised, there is nothing to do; when one of them
        does not answer, nothing is done, since it may be.
    type: list
    elements: str
    default: []
  secret_shares:
    description: How many unseal shares are made, with a Shamir seal.
    type: int
    default: 5
  secret_threshold:
    description: How many of them unseal a server.
    type: int
    default: 3
  pgp_keys:
    description: Public PGP keys (base64), one per share; the shares are then encrypted before they leave the server.
    type: list
    elements: str
  root_token_pgp_key:
    description: Public PGP key (base64) that the root token is encrypted with.
    type: str
  recovery_shares:
    description: How many recovery shares are made, with an automatic seal.
    type: int
    default: 5
  recovery_threshold:
    description: How many of them are needed.
    type: int
    default: 3
  recovery_pgp_keys:
    description: As O(pgp_keys), for the recovery shares.
    type: list
    elements: str
  shares_file:
    description:
      - The file (mode 0600, on the host where the module runs) that keeps the answer, as JSON. Its directory is made when missing,
        with mode 0700. A file that holds shares already is never overwritten.
      - Exactly one of O(shares_file), O(shares_command) and O(return_shares) is needed.
    type: path
  allow_ephemeral:
    description: Write O(shares_file) inside an execution environment too, because its directory is mounted from outside.
    type: bool
    default: false
  shares_command:
    description:
      - A program and its arguments that keeps the answer. It is called with C(store) as one more argument and the JSON on standard
        input, and with C(read) to print it.
    type: list
    elements: str
  return_shares:
    description: Return the answer in RV(init) and keep it nowhere. Set C(no_log) on the task.
    type: bool
    default: false
  unseal:
    description: Also unseal O(url), with the shares that were kept. Not possible with O(pgp_keys).
    type: bool
    default: false
  ha_storage:
    description: Raft is used for C(ha_storage) only. The server must be unsealed; the token is O(token), or the one that was kept.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Make a new cluster of its first server
  holdfast.raft.raft_bootstrap:
    url: https://10.0.0.1:8200
    peers: [https://10.0.0.2:8200, https://10.0.0.3:8200]
    ca_cert: /etc/pki/holdfast/ca.pem
    shares_file: ~/.holdfast/init.json
    unseal: true
  delegate_to: localhost
  become: false
"""

RETURN = r"""
initialized_url:
  description: The API address of a server that is initialised; the others join through it.
  returned: success
  type: str
shares_file:
  description: Where the shares and the root token are, if in a file. Empty when the cluster was initialised by somebody else.
  returned: success
  type: str
init:
  description: The answer of C(sys/init), with O(return_shares=true).
  returned: when the server was initialised with O(return_shares=true)
  type: dict
"""

import json

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _bootstrap, _module
from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._custody import (
    CommandCustody,
    Custody,
    FileCustody,
    NoCustody,
)


def custody_of(params: dict[str, object]) -> Custody:
    if params["shares_file"]:
        return FileCustody(params["shares_file"], params["allow_ephemeral"])
    return CommandCustody(params["shares_command"]) if params["shares_command"] else NoCustody()


def run(module: AnsibleModule) -> dict[str, object]:
    custody = custody_of(module.params)
    custody.lock(change=not module.check_mode)
    try:
        return bootstrap(module, custody)
    finally:
        custody.release()


def bootstrap(module: AnsibleModule, custody: Custody) -> dict[str, object]:
    """The run itself, with other runs shut out from the place of custody."""
    params = module.params
    job = _bootstrap.Bootstrap(
        client=Client(params["url"], _module.settings_of(module, needs_token=False)),
        peers=params["peers"],
        custody=custody,
        request=_bootstrap.request_of(params),
        waiter=_module.waiter_of(module),
    )
    before = job.observe()
    kept = params["shares_file"] or ""
    if kept and job.initialized_url and job.kept is None:
        module.warn(f"the cluster is initialised already and {kept} is not there; its unseal shares are kept somewhere else")
        kept = ""
    result: dict[str, object] = {"initialized_url": job.initialized_url, "shares_file": kept}
    if module.check_mode:
        after = job.predict(unseal=params["unseal"], ha_storage=params["ha_storage"])
        return {**_module.changes(before, after), **result}
    answer = job.initialize()
    if answer is not None and params["return_shares"]:
        result["init"] = json.loads(answer)
    if params["unseal"]:
        job.unseal(params["wait"])
    if params["ha_storage"]:
        job.activate_ha_storage()
    return {**_module.changes(before, job.observe()), **result, "initialized_url": job.initialized_url}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.connection(many=False),
            **_module.authentication(),
            **_module.waiting(),
            "peers": {"type": "list", "elements": "str", "default": []},
            "secret_shares": {"type": "int", "default": 5, "no_log": False},
            "secret_threshold": {"type": "int", "default": 3, "no_log": False},
            "pgp_keys": {"type": "list", "elements": "str", "no_log": False},
            "root_token_pgp_key": {"type": "str", "no_log": False},
            "recovery_shares": {"type": "int", "default": 5},
            "recovery_threshold": {"type": "int", "default": 3},
            "recovery_pgp_keys": {"type": "list", "elements": "str", "no_log": False},
            "shares_file": {"type": "path"},
            "allow_ephemeral": {"type": "bool", "default": False},
            "shares_command": {"type": "list", "elements": "str"},
            "return_shares": {"type": "bool", "default": False},
            "unseal": {"type": "bool", "default": False},
            "ha_storage": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    kept = [module.params["shares_file"], module.params["shares_command"], module.params["return_shares"]]
    if sum(1 for place in kept if place) != 1:
        module.fail_json(msg="set exactly one of shares_file, shares_command and return_shares: the shares are shown only once")
    if module.params["unseal"] and module.params["pgp_keys"]:
        module.fail_json(msg="unseal is not possible with pgp_keys: only their owners can decrypt the shares")
    _module.run(module, run)


if __name__ == "__main__":
    main()
