# SPDX-License-Identifier: Apache-2.0
"""Environment variables: every name is looked up as BAO_… first, then as VAULT_… (raft-api.md 7.1)."""

from __future__ import annotations

from collections.abc import Mapping

# variable (without its prefix) -> key at the top level of the configuration; the environment wins over the file
TOP_LEVEL = {
    "API_ADDR": "api_addr",
    "REDIRECT_ADDR": "api_addr",
    "ADVERTISE_ADDR": "api_addr",
    "CLUSTER_ADDR": "cluster_addr",
    "LOG_LEVEL": "log_level",
    "LOG_FORMAT": "log_format",
}
# the same for storage "raft"
RAFT = {
    "RAFT_PATH": "path",
    "RAFT_NODE_ID": "node_id",
    "RAFT_RETRY_JOIN_AS_NON_VOTER": "retry_join_as_non_voter",
}


def lookup(environ: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """(full variable name, value) of BAO_<name> or else VAULT_<name>; None when neither has a value."""
    for prefix in ("BAO_", "VAULT_"):
        if value := environ.get(prefix + name):
            return prefix + name, value
    return None


def overrides(environ: Mapping[str, str], table: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Key → (variable, value) for every variable of `table` that is set; the first name of a key wins."""
    found: dict[str, tuple[str, str]] = {}
    for name, key in table.items():
        hit = lookup(environ, name)
        if hit and key not in found:
            found[key] = hit
    return found
