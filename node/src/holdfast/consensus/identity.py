# SPDX-License-Identifier: Apache-2.0
"""A server's own credentials on the cluster port, on its own disk: `identity/` in the data directory, 0600."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from holdfast.consensus.types import JournalError


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is on disk. `addresses`: who was in the cluster when this server joined (to dial until it knows better)."""

    cluster_id: str
    node_id: str
    ca_pem: str
    certificate: Path
    key: Path
    addresses: dict[str, str]


def save(
    folder: Path, cluster_id: str, node_id: str, ca_pem: str, cert_pem: str, key_pem: str, addresses: dict[str, str]
) -> None:
    """Write everything durably. An earlier identity in the folder is replaced file by file; identity.json comes last."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = {"format": 1, "cluster_id": cluster_id, "node_id": node_id, "ca": ca_pem, "addresses": addresses}
    for name, text in (("node.crt", cert_pem), ("node.key", key_pem), ("identity.json", json.dumps(about))):
        temporary = folder / (name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, folder / name)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(folder: Path) -> Credentials | None:
    """The identity on disk, or None. Raises JournalError when it is unreadable."""
    path = folder / "identity.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return Credentials(
            about["cluster_id"],
            about["node_id"],
            about["ca"],
            folder / "node.crt",
            folder / "node.key",
            dict(about["addresses"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path} is damaged ({error}): wipe this server and join it again") from None
