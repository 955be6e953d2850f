# SPDX-License-Identifier: Apache-2.0
"""Takes a verified state.bin into the Raft directory, where members are sent it from."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from holdfast.storage.types import StorageError


def adopt_file(path: Path, folder: Path, sha256: str) -> str:
    """Move `path` into `folder` durably (same file system) and return its new name. Raises StorageError."""
    name = f"restore-{sha256[:16]}-{secrets.token_hex(4)}.state"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(path, folder / name)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"the snapshot cannot be kept: {error.strerror}") from None
    return name
