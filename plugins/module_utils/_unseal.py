# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Submitting unseal shares. Private to holdfast.raft."""

from __future__ import annotations

import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._client import Client
from ansible_collections.holdfast.raft.plugins.module_utils._cluster import Node
from ansible_collections.holdfast.raft.plugins.module_utils._errors import ApiError, CustodyError, RaftError, Unreachable
from ansible_collections.holdfast.raft.plugins.module_utils._session import read_node
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import Waiter


def needed(node: Node, shares: t.Sequence[str]) -> list[str]:
    """As many distinct shares as C(node) asks for. Raises RaftError when there are too few."""
    distinct = list(dict.fromkeys(shares))
    if len(distinct) < node.threshold:
        raise CustodyError(f"{node.url} needs {node.threshold} different unseal shares, {len(distinct)} were given")
    return distinct[: node.threshold]


def unseal(client: Client, shares: t.Sequence[str], waiter: Waiter, wait: bool = True) -> Node:
    """Unseals one server and returns its state afterwards; does nothing to an unsealed one.

    Progress that somebody else left is reset first. A joining server stays sealed until it has the cluster's data, so
    the end is polled for. Raises RaftError when the shares are refused, TimedOut when the server stays sealed.
    """
    node = read_node(client)
    if not node.initialized:
        raise RaftError(f"{node.url} is not initialised: use raft_bootstrap for a new cluster, raft_join for a member")
    if node.sealed and node.seal_type == "shamir":
        _submit(client, node, needed(node, shares))
    if not wait:
        return read_node(client)
    return waiter.until(
        lambda: read_node(client),
        lambda now: not now.sealed,
        f"{node.url} to be unsealed",
        tolerate=(Unreachable, ApiError),
        describe=lambda now: f"sealed, {now.progress} of {now.threshold} shares",
    )


def _submit(client: Client, node: Node, shares: t.Sequence[str]) -> None:
    if node.progress:
        client.put("sys/unseal", {"reset": True})
    for share in shares:
        try:
            answer = client.put("sys/unseal", {"key": share})
        except ApiError as exc:
            if exc.status in (400, 500):
                raise RaftError(
                    f"{node.url} refused the unseal shares: {'; '.join(exc.errors) or exc.status}; are they this cluster's?",
                    status=exc.status,
                    url=exc.url,
                ) from exc
            raise
        if not answer.body.get("sealed", True):
            return
