# SPDX-License-Identifier: Apache-2.0
"""Collecting unseal shares (raft-api.md 5.1)."""

from __future__ import annotations

import base64
import binascii
import hmac
import uuid
from typing import Any

from holdfast.barrier import shamir
from holdfast.barrier.seal import KEY_SIZE, SealError
from holdfast.core.types import ApiError

MIN_SHARE, MAX_SHARE = 16, KEY_SIZE + shamir.SHARE_OVERHEAD
_NO_KEY = "'key' must be specified in request body as JSON, or 'reset' set to true"


def json_type_error(field: str, value: Any, struct: str, wanted: str) -> ApiError:
    """The 400 that OpenBao's JSON decoder gives for a field of the wrong type."""
    if isinstance(value, bool):
        kind = "bool"
    elif isinstance(value, int | float):
        kind = f"number {value}" if wanted == "uint" else "number"
    elif isinstance(value, str):
        kind = "string"
    else:
        kind = "array" if isinstance(value, list) else "object"
    place = f"Go struct field {struct}.{field} of type {wanted}"
    return ApiError(400, f"failed to decode JSON input: json: cannot unmarshal {kind} into {place}")


def parse_share(params: dict[str, Any]) -> bytes:
    """The share of an unseal request, hex or base64. Raises ApiError 400 (the share is never repeated)."""
    text = params.get("key")
    if text is not None and not isinstance(text, str):
        raise json_type_error("key", text, "UnsealRequest", "string")
    if not text:
        raise ApiError(400, _NO_KEY)
    text = text.strip()
    try:
        share = bytes.fromhex(text) if text.isalnum() else b""
    except ValueError:
        share = b""
    if not MIN_SHARE <= len(share) <= MAX_SHARE:  # base64 text may look like hex of an impossible length
        try:
            share = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, "'key' must be a valid hex or base64 string") from None
    if len(share) < MIN_SHARE:
        raise ApiError(400, f"key is shorter than minimum {MIN_SHARE} bytes")
    if len(share) > MAX_SHARE:
        raise ApiError(400, f"key is longer than maximum {MAX_SHARE} bytes")
    return share


class ShareCollector:
    """The shares given so far; `nonce` names the attempt."""

    def __init__(self) -> None:
        self._shares: list[bytes] = []
        self.nonce = ""

    @property
    def progress(self) -> int:
        """How many different shares there are."""
        return len(self._shares)

    def reset(self) -> None:
        """Forget them."""
        self._shares.clear()
        self.nonce = ""

    def add(self, share: bytes, threshold: int) -> bytes | None:
        """Add a share; at the threshold return the KEK and start over. A share given before changes nothing.

        Raises SealError when the shares cannot belong together.
        """
        if any(hmac.compare_digest(share, known) for known in self._shares):
            return None
        self._shares.append(share)
        self.nonce = self.nonce or str(uuid.uuid4())
        if len(self._shares) < threshold:
            return None
        try:
            kek = shamir.combine_key(self._shares, threshold)
        except shamir.ShamirError as error:
            raise SealError(f"failed to compute combined key: {error}") from None
        finally:
            self.reset()
        return kek
