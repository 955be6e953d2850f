# SPDX-License-Identifier: Apache-2.0
"""A last guard against secrets in logs: what looks like a token, a share or a private key is replaced. Pure.

It is no licence to log secrets: the rule is that nothing secret is handed to a logger at all.
"""

from __future__ import annotations

import re

MASK = "<redacted>"
_PATTERNS = re.compile(
    r"\b(?:hvs|hvb|hvr|s|b|r)\.[A-Za-z0-9_\-+/=]{20,}"  # tokens: service, batch, recovery
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:[0-9a-fA-F]{66}|[0-9a-fA-F]{64})\b"  # shares in hex: 33 bytes, or 32 for a single share
    r"|(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{44}|[A-Za-z0-9+/]{43}=)(?![A-Za-z0-9+/=])"  # the same in base64
)


def redact(text: str) -> str:
    """`text` with everything that looks like a secret masked. SHA-256 sums are masked too, being alike."""
    return _PATTERNS.sub(MASK, text)
