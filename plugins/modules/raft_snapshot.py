#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_snapshot
short_description: Save or restore a snapshot of a Raft cluster
version_added: 0.1.0
description:
  - Saves a snapshot to a file, or restores one. The leader is looked for first, and every file is checked to its last byte.
  - A saved file has mode 0600 and appears under its name only when it is complete. When it would hold the same state as the file
    that is there, that one stays and nothing changes.
  - A restore replaces all data of the cluster with that of the snapshot. It is waited for on every server that answers.
  - A snapshot of another cluster needs O(force) and that cluster's shares. All servers are sealed by it, and unsealed with these.
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes
  - holdfast.raft._attributes.actiongroup_raft
  - holdfast.raft._connection
  - holdfast.raft._connection.many
  - holdfast.raft._connection.token
  - holdfast.raft._shares
attributes:
  check_mode:
    support: partial
    details:
      - Saving and restoring are predicted as a change, since the states are not compared before. The file, the leader and the token
        are tried, but only the real restore tells whether the snapshot was sealed by another cluster.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: Restoring is done each time. Saving leaves a file alone that holds the same state.
options:
  path:
    description:
      - The file, on the host where the module runs. Its directory must be there.
    type: path
    required: true
  state:
    description:
      - V(saved) writes the file, V(restored) reads it.
    type: str
    choices: [saved, restored]
    default: saved
  force:
    description:
      - Restore a snapshot of a cluster with other unseal shares. The normal restore is tried first.
    type: bool
    default: false
  wait:
    description:
      - With O(state=restored), whether to wait until every server holds the restored state.
    type: bool
    default: true
  wait_timeout:
    description:
      - Seconds that a restore and all its waits may take together.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Save a snapshot
  holdfast.raft.raft_snapshot:
    url: [https://10.0.0.1:8200, https://10.0.0.2:8200]
    token_file: ~/.holdfast/init.json
    path: /var/backups/holdfast/monday.snap
  delegate_to: localhost

- name: Restore the data of another cluster into this one
  holdfast.raft.raft_snapshot:
    url: [https://10.0.0.1:8200, https://10.0.0.2:8200, https://10.0.0.3:8200]
    token_file: ~/.holdfast/init.json
    path: /var/backups/holdfast/monday.snap
    state: restored
    force: true
    shares_file: ~/.holdfast/old/init.json
  delegate_to: localhost
"""

RETURN = r"""
index:
  description: The Raft index of the snapshot.
  returned: when the file was written or read
  type: int
term:
  description: The Raft term of the snapshot.
  returned: when the file was written or read
  type: int
size:
  description: The bytes of the state inside.
  returned: when the file was written or read
  type: int
state_sha256:
  description: The hash of the state inside.
  returned: when the file was written or read
  type: str
servers:
  description: The node_ids of the cluster that the snapshot was taken of.
  returned: when the file was written or read
  type: list
  elements: str
foreign:
  description: Whether the snapshot came from a cluster with other unseal shares; the servers are open with those now.
  returned: when restored
  type: bool
"""

import dataclasses
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _archive, _module, _snapshot
from ansible_collections.holdfast.raft.plugins.module_utils._errors import CustodyError
from ansible_collections.holdfast.raft.plugins.module_utils._session import Cluster


def as_dict(archive: _archive.Archive | None) -> dict[str, object]:
    return {**dataclasses.asdict(archive), "servers": list(archive.servers)} if archive else {}


def saved(module: AnsibleModule, cluster: Cluster) -> dict[str, object]:
    path = module.params["path"]
    before = as_dict(_snapshot.described(path))
    if module.check_mode:
        _snapshot.authorised(cluster.leader())
        if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
            raise CustodyError(f"no file can be made in {os.path.dirname(os.path.abspath(path))}")
        return {"changed": True, "diff": {"before": before, "after": {"state_sha256": "that of the leader"}}}
    changed, archive = _snapshot.save(cluster, path)
    return {"changed": changed, "diff": {"before": before, "after": as_dict(archive)}, **as_dict(archive)}


def restored(module: AnsibleModule, cluster: Cluster) -> dict[str, object]:
    params = module.params
    archive = as_dict(_archive.check(params["path"]))
    job = _snapshot.Restore(cluster, params["path"], params["force"], _module.shares_of(module), _module.waiter_of(module))
    leader = job.observe()
    for url in job.left_out():
        module.warn(f"{url} is sealed or does not answer; it is not waited for")
    diff = {"before": {"state": "that of the cluster"}, "after": archive}
    if module.check_mode:
        _snapshot.authorised(leader)
    else:
        job.send(leader)
        if params["wait"]:
            job.finish()
    return {"changed": True, "diff": diff, "foreign": job.foreign, **archive}


def run(module: AnsibleModule) -> dict[str, object]:
    cluster = Cluster(module.params["url"], _module.settings_of(module))
    return saved(module, cluster) if module.params["state"] == "saved" else restored(module, cluster)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.connection(),
            **_module.authentication(),
            **_module.shares(),
            **_module.waiting(300),
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["saved", "restored"], "default": "saved"},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    _module.run(module, run)


if __name__ == "__main__":
    main()
