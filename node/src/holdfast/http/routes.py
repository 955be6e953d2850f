# SPDX-License-Identifier: Apache-2.0
"""The table of special routes; every other path below /v1/ is a logical request, and snapshots are streamed."""

from __future__ import annotations

from holdfast.http.api import health, leader, raft, seal
from holdfast.http.context import Handler

ROUTES: dict[str, Handler] = {**seal.ROUTES, **health.ROUTES, **leader.ROUTES, **raft.ROUTES}
