# SPDX-License-Identifier: Apache-2.0
"""The client's token, from its header."""

from __future__ import annotations

from collections.abc import Mapping


def token_of(headers: Mapping[bytes, bytes]) -> str:
    """`X-Vault-Token`, else `Authorization: Bearer …`, else "" (raft-api.md 0.1)."""
    token = headers.get(b"x-vault-token")
    if token:
        return token.decode("latin-1").strip()
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    return value.decode("latin-1").strip() if scheme.lower() == b"bearer" else ""
