# SPDX-License-Identifier: Apache-2.0
"""`sys/leader`: who leads, as this node knows it; bare JSON, no token (raft-api.md 5.1)."""

from __future__ import annotations

from holdfast.http.api.common import only
from holdfast.http.context import Context
from holdfast.http.envelope import bare
from holdfast.http.message import Call, Reply


async def leader(context: Context, call: Call) -> Reply:
    """GET; 503 with the literal `Vault is sealed` on a sealed node."""
    only(call, "GET")
    return bare(context.core.leader_status())


ROUTES = {"sys/leader": leader}
