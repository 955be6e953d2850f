# SPDX-License-Identifier: Apache-2.0
"""The bodies of the status endpoints (raft-api.md 5.1, 10.1), from facts that the core hands in."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from holdfast.barrier.seal import SealConfig
from holdfast.core.opened import Opened
from holdfast.core.unsealing import ShareCollector
from holdfast.storage.types import Cluster


def rfc3339(seconds: float) -> str:
    """UTC with "Z"."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def seal_status(
    *,
    initialized: bool,
    opened: Opened | None,
    config: SealConfig | None,
    shares: ShareCollector,
    version: str,
    storage_type: str,
    removed: bool,
) -> dict[str, Any]:
    """The body of sys/seal-status and of sys/unseal."""
    body: dict[str, Any] = {
        "type": config.type if config else "shamir",
        "initialized": initialized,
        "sealed": opened is None,
        "t": config.threshold if config else 0,
        "n": config.shares if config else 0,
        "progress": shares.progress,
        "nonce": shares.nonce,
        "recovery_seal": False,
        "version": version,
        "commit_date": "",
        "build_date": "",
        "migration": False,
        "storage_type": storage_type,
        "removed_from_cluster": removed,
    }
    if opened is not None:
        body["cluster_name"], body["cluster_id"] = opened.name, opened.cluster_id
    return body


def health(*, initialized: bool, opened: Opened | None, active: bool, version: str, removed: bool) -> dict[str, Any]:
    """The body of sys/health, with `_removed` for HTTP to take out."""
    body: dict[str, Any] = {
        "initialized": initialized,
        "sealed": opened is None,
        "standby": not active,
        "replication_performance_mode": "primary" if opened else "unknown",
        "replication_dr_mode": "disabled" if opened else "unknown",
        "server_time_utc": int(time.time()),
        "version": version,
        "_removed": removed,
    }
    if opened is not None:
        body["cluster_name"], body["cluster_id"] = opened.name, opened.cluster_id
    return body


def leader(cluster: Cluster | None, active_since: float | None, *, removed: bool) -> dict[str, Any]:
    """The body of sys/leader; `active_since` (Unix seconds) is None on a standby."""
    if cluster is None:
        return {"ha_enabled": False}
    body: dict[str, Any] = {"ha_enabled": True}
    if active_since is not None:
        body |= {"is_self": True, "active_time": rfc3339(active_since)}
    known = None if removed else cluster.leader()
    if known is not None:
        if known.api_addr:
            body["leader_address"] = known.api_addr
        body["leader_cluster_address"] = f"https://{known.address}"
    return body | {"raft_committed_index": cluster.commit_index, "raft_applied_index": cluster.applied_index}


def ha_status(cluster: Cluster | None, api_addr: str, version: str) -> dict[str, Any]:
    """The data of sys/ha-status, on the leader. A standby says its API address when it connects; "" for one that never did."""
    own = {
        "hostname": socket.gethostname(),
        "api_address": api_addr,
        "cluster_address": f"https://{cluster.cluster_addr}" if cluster else "",
        "active_node": True,
        "last_echo": None,
        "version": version,
        "upgrade_version": version,
    }
    if cluster is None:
        return {"nodes": [own]}
    state = cluster.autopilot_state()
    seen = {server.node_id: server for server in state.servers} if state else {}
    nodes = [own]
    for server in cluster.servers():
        if server.node_id == cluster.node_id:
            continue
        health = seen.get(server.node_id)
        contact = health.last_contact if health else None
        nodes.append(
            {
                "hostname": urlsplit(f"//{server.address}").hostname or "",
                "api_address": health.api_addr if health else "",
                "cluster_address": f"https://{server.address}",
                "active_node": False,
                "last_echo": None if contact is None else rfc3339(time.time() - contact),
                "version": health.version if health else "",
                "upgrade_version": health.version if health else "",
            }
        )
    return {"nodes": nodes}
