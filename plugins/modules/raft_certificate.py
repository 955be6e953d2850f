#!/usr/bin/python

# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: raft_certificate
short_description: Keep a certificate of a small CA as it should be
version_added: 0.1.0
description:
  - Makes the CA, or a server or client certificate signed by it, for the API listeners of a cluster and their clients.
  - It is made anew when it is missing, has other names, another key or CA, or expires soon. The key is kept.
  - Key files never have another mode than 0600.
author:
  - The holdfast developers (@holdfast)
extends_documentation_fragment:
  - holdfast.raft._attributes.full
requirements:
  - cryptography >= 42
options:
  path:
    description: The certificate's file. Its directory must be there.
    type: path
    required: true
  privatekey_path:
    description: The key's file.
    type: path
    required: true
  usage:
    description: What the certificate is for.
    type: str
    choices: [ca, server, client]
    required: true
  ca_cert:
    description: The CA's certificate; needed unless O(usage=ca).
    type: path
  ca_key:
    description: The CA's key; needed unless O(usage=ca).
    type: path
  common_name:
    description: The common name of the subject.
    type: str
    required: true
  subject_alt_names:
    description: Names and addresses that the certificate is for, as C(DNS:host) and C(IP:address).
    type: list
    elements: str
    default: []
  valid_days:
    description: How long a new certificate is valid.
    type: int
    default: 365
  renew_before_days:
    description: How long before its end a certificate is made anew.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: The CA
  holdfast.raft.raft_certificate:
    path: ~/.holdfast/pki/ca.pem
    privatekey_path: ~/.holdfast/pki/ca.key
    usage: ca
    common_name: holdfast API CA
    valid_days: 3650

- name: A server's certificate
  holdfast.raft.raft_certificate:
    path: ~/.holdfast/pki/n1.pem
    privatekey_path: ~/.holdfast/pki/n1.key
    usage: server
    ca_cert: ~/.holdfast/pki/ca.pem
    ca_key: ~/.holdfast/pki/ca.key
    common_name: n1
    subject_alt_names: ["DNS:n1.example.org", "IP:10.0.0.1"]
"""

RETURN = r"""
reasons:
  description: Why the certificate was made anew; empty when it was left as it is.
  returned: success
  type: list
  elements: str
  sample: [expires soon]
not_after:
  description: When the certificate ends.
  returned: success
  type: str
  sample: "2027-11-24T00:00:00Z"
"""

import datetime

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.raft.plugins.module_utils import _certificate, _module
from ansible_collections.holdfast.raft.plugins.module_utils._errors import RaftError


def run(module: AnsibleModule) -> dict[str, object]:
    _certificate.require_library()
    params = module.params
    if params["renew_before_days"] >= params["valid_days"]:
        raise RaftError("renew_before_days must be less than valid_days, or every run would make a new certificate")
    place = _certificate.Place(params["path"], params["privatekey_path"], params["ca_cert"] or "", params["ca_key"] or "")
    wanted = _certificate.Wanted(
        usage=params["usage"],
        common_name=params["common_name"],
        names=_certificate.normal_names(params["subject_alt_names"]),
        valid_days=params["valid_days"],
        renew_before_days=params["renew_before_days"],
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    found = _certificate.inspect(place, wanted, now)
    after = found.shown
    if found.reasons:
        not_after = (now + datetime.timedelta(days=wanted.valid_days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        after = {"common_name": wanted.common_name, "names": list(wanted.names), "usage": wanted.usage, "not_after": not_after}
        if not module.check_mode:
            _certificate.issue(place, wanted, now)
            after = _certificate.inspect(place, wanted, now).shown
    return {
        "changed": bool(found.reasons),
        "diff": {"before": found.shown, "after": after},
        "reasons": list(found.reasons),
        "not_after": after["not_after"],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "privatekey_path": {"type": "path", "required": True, "no_log": False},
            "usage": {"type": "str", "choices": ["ca", "server", "client"], "required": True},
            "ca_cert": {"type": "path"},
            "ca_key": {"type": "path", "no_log": False},
            "common_name": {"type": "str", "required": True},
            "subject_alt_names": {"type": "list", "elements": "str", "default": []},
            "valid_days": {"type": "int", "default": 365},
            "renew_before_days": {"type": "int", "default": 30},
        },
        required_if=[("usage", "server", ("ca_cert", "ca_key")), ("usage", "client", ("ca_cert", "ca_key"))],
        supports_check_mode=True,
    )
    _module.run(module, run)


if __name__ == "__main__":
    main()
