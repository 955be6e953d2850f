# SPDX-License-Identifier: Apache-2.0
"""The Shamir seal: what the key-encryption key (KEK) protects, and the seal configuration (raft-api.md 6.2, 6.3)."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from typing import Any, TypeGuard

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.barrier import blob

SEAL_CONFIG_KEY = "core/seal-config"
UNSEAL_KEYS_KEY = "core/hsm/barrier-unseal-keys"
KEY_SIZE = 32
_IV_SIZE = 12


class SealError(ValueError):
    """Something sealed cannot be opened with this key. The text holds no secret."""


@dataclass(frozen=True, slots=True)
class SealConfig:
    """How the KEK is shared out: `shares` parts, `threshold` of which are needed."""

    shares: int
    threshold: int
    type: str = "shamir"

    def as_dict(self) -> dict[str, Any]:
        """The JSON object that OpenBao stores and that `bootstrap/challenge` returns."""
        return {
            "type": self.type,
            "secret_shares": self.shares,
            "secret_threshold": self.threshold,
            "pgp_keys": None,
            "nonce": "",
            "backup": False,
        }

    def to_bytes(self) -> bytes:
        """The plaintext value of core/seal-config."""
        return json.dumps(self.as_dict()).encode()

    @classmethod
    def from_dict(cls, fields: Any) -> SealConfig:
        """The inverse of `as_dict`; further fields are ignored. Raises SealError for anything impossible."""
        if not isinstance(fields, dict):
            raise SealError("the seal configuration is no JSON object")
        kind, shares, threshold = (fields.get(name) for name in ("type", "secret_shares", "secret_threshold"))
        if not isinstance(kind, str) or not _is_count(shares) or not _is_count(threshold) or threshold > shares:
            raise SealError("the seal configuration is not valid")
        return cls(shares, threshold, kind)

    @classmethod
    def from_bytes(cls, value: bytes) -> SealConfig:
        """Parse the stored value. Raises SealError."""
        try:
            return cls.from_dict(json.loads(value))
        except ValueError as error:
            raise SealError(f"the seal configuration cannot be read: {error}") from None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 255


def encrypt(kek: bytes, plaintext: bytes) -> bytes:
    """Seal `plaintext` under the 32-byte KEK: BlobInfo of 12-byte IV and AES-256-GCM output, no additional data."""
    iv = secrets.token_bytes(_IV_SIZE)
    return blob.encode(iv + AESGCM(kek).encrypt(iv, plaintext, None))


def decrypt(kek: bytes, sealed: bytes) -> bytes:
    """Open what `encrypt` made. Raises SealError when the key is wrong or the bytes are damaged."""
    if len(kek) != KEY_SIZE:
        raise SealError(f"invalid key size {len(kek)}")
    try:
        ciphertext = blob.decode(sealed)
        return AESGCM(kek).decrypt(ciphertext[:_IV_SIZE], ciphertext[_IV_SIZE:], None)
    except blob.BlobError as error:
        raise SealError(f"not a sealed value: {error}") from None
    except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce and a tag
        raise SealError("cipher: message authentication failed") from None


def seal_root_key(kek: bytes, root_key: bytes) -> bytes:
    """The value of core/hsm/barrier-unseal-keys: a JSON list with the base64 root key, sealed."""
    return encrypt(kek, json.dumps([base64.b64encode(root_key).decode()]).encode())


def open_root_key(kek: bytes, sealed: bytes) -> bytes:
    """The 32-byte root key from the value of core/hsm/barrier-unseal-keys. Raises SealError."""
    plaintext = decrypt(kek, sealed)
    try:
        keys = json.loads(plaintext)
        root_key = base64.b64decode(keys[0], validate=True)
    except (ValueError, binascii.Error, LookupError, TypeError):
        raise SealError("the stored keys have an unknown form") from None
    if len(root_key) != KEY_SIZE:
        raise SealError("the stored root key has the wrong size")
    return root_key
