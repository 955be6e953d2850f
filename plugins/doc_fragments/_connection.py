# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of every module that talks to an API address. Private to holdfast.raft."""

from __future__ import annotations


class ModuleDocFragment:
    """Mirrors C(connection()) and C(authentication()) of module_utils/_module.py."""

    DOCUMENTATION = r"""
requirements:
  - requests
notes:
  - The module talks to the API from where it runs. Run it on the controller (C(delegate_to=localhost), C(become=false)), where
    credentials and the CA are.
  - A redirect to the leader is followed, with the token, if it keeps the scheme or goes to C(https).
  - Where both are set, E(BAO_ADDR) and its like win over E(VAULT_ADDR) and its like.
options:
  ca_cert:
    description:
      - File of the CA certificates that the servers' certificates are checked with.
      - Default is E(BAO_CACERT) or E(VAULT_CACERT), else the system's CAs.
    type: path
  ca_path:
    description:
      - Directory of CA certificates (hashed as by C(openssl rehash)), used when O(ca_cert) is not set.
      - Default is E(BAO_CAPATH) or E(VAULT_CAPATH).
    type: path
  client_cert:
    description:
      - File of the client certificate, or of certificate and key together.
      - Default is E(BAO_CLIENT_CERT) or E(VAULT_CLIENT_CERT).
    type: path
  client_key:
    description:
      - File of the client certificate's key.
      - Default is E(BAO_CLIENT_KEY) or E(VAULT_CLIENT_KEY).
    type: path
  tls_server_name:
    description:
      - The name that the servers' certificates are checked for, instead of the host in the URL.
      - Default is E(BAO_TLS_SERVER_NAME) or E(VAULT_TLS_SERVER_NAME).
    type: str
  validate_certs:
    description:
      - Whether the servers' certificates are checked.
      - Set to V(false) by a true E(BAO_SKIP_VERIFY) or E(VAULT_SKIP_VERIFY).
    type: bool
    default: true
  timeout:
    description:
      - Seconds until a connection stands (never more than 10), and between two parts of an answer.
      - Default is E(BAO_CLIENT_TIMEOUT) or E(VAULT_CLIENT_TIMEOUT), where C(60s) is understood too.
    type: float
    default: 30.0
  use_proxy:
    description:
      - Whether proxies of the environment and C(.netrc) are used. API addresses of a cluster are nearly always reached directly.
    type: bool
    default: false
"""

    ONE = r"""
options:
  url:
    description:
      - The API address of the server, such as C(https://10.0.0.1:8200).
      - Default is E(BAO_ADDR) or E(VAULT_ADDR).
    type: str
    required: true
"""

    MANY = r"""
options:
  url:
    description:
      - API addresses of members of one cluster, such as C(https://10.0.0.1:8200). One that answers is enough; the leader is
        found through it.
      - Default is E(BAO_ADDR) or E(VAULT_ADDR), split at commas.
    type: list
    elements: str
    required: true
"""

    TOKEN = r"""
options:
  token:
    description:
      - The token that the requests are made with.
      - Default is E(BAO_TOKEN) or E(VAULT_TOKEN).
    type: str
  token_file:
    description:
      - A file on the host where the module runs that holds the token, alone or as C(root_token) of what M(holdfast.raft.raft_bootstrap)
        kept. So it never passes through a variable. Wins over O(token).
    type: path
  token_command:
    description:
      - A program and its arguments that prints the same when it is called with C(read) as one more argument. Wins over O(token_file).
    type: list
    elements: str
  namespace:
    description:
      - The namespace of the requests. The calls of this collection belong to the root namespace, so it is rarely of use.
      - Default is E(BAO_NAMESPACE) or E(VAULT_NAMESPACE).
    type: str
"""
