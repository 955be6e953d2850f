# SPDX-License-Identifier: Apache-2.0
"""What snapshots need of the seal; the core offers it."""

from __future__ import annotations

from typing import Protocol


class Sealer(Protocol):
    """The seal key's encryption (protobuf BlobInfo). Both raise ApiError(503) on a sealed node."""

    async def seal_wrap(self, data: bytes) -> bytes:
        """`data` encrypted under the seal key."""

    async def seal_open(self, blob: bytes) -> bytes:
        """The plaintext of a blob. Raises ValueError when it was made with another seal key."""
