# SPDX-License-Identifier: Apache-2.0
"""What the API handlers work with: the core, the cluster (if any) and the server's settings."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from holdfast.core.types import Core
from holdfast.http.message import Call, Headers, Reply
from holdfast.snapshot.restore import Restorer
from holdfast.storage.types import Cluster


@dataclass(slots=True)
class Context:
    """Shared by all requests. Sizes in bytes, times in seconds (0: no limit)."""

    core: Core
    cluster: Cluster | None = None
    snapshots: Restorer | None = None
    max_request_size: int = 33_554_432
    max_request_duration: float = 90.0
    read_timeout: float = 30.0
    election_wait: float = 1.0  # how long a request waits for a leader before it fails
    extra_headers: Headers = ()
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("holdfast.http"))


Handler = Callable[[Context, Call], Awaitable[Reply]]
