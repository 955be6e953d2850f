# SPDX-License-Identifier: Apache-2.0
"""The keyring: data keys by term, kept under the root key in OpenBao's JSON form (raft-api.md 6.2)."""

from __future__ import annotations

import base64
import json
import os
import secrets
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYRING_KEY = "core/keyring"
KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
VERSION = 2  # the key path is additional data; version 1 had none
_HEADER = struct.Struct(">IB")
HEADER_SIZE = _HEADER.size
_ROOT_TERM = 1  # the keyring itself always says term 1
_ROTATION = {"max_operations": 3865470566, "interval": 0}


class BarrierError(Exception):
    """A value cannot be decrypted: wrong key, unknown term, moved or damaged. The text holds no secret."""


def encrypt_value(cipher: AESGCM, term: int, key: str, plaintext: bytes) -> bytes:
    """4-byte big-endian term, version 2, 12-byte nonce, AES-256-GCM output; `key` (the storage path) is bound to it."""
    nonce = os.urandom(NONCE_SIZE)  # what secrets.token_bytes calls, without two Python calls a value
    return _HEADER.pack(term, VERSION) + nonce + cipher.encrypt(nonce, plaintext, key.encode())


def split_value(value: bytes) -> tuple[int, int]:
    """Term and version of a stored value. Raises BarrierError when it is too short or of another version."""
    if len(value) < HEADER_SIZE + NONCE_SIZE + TAG_SIZE:
        raise BarrierError("the stored value is too short")
    term, version = _HEADER.unpack_from(value)
    if version not in (1, VERSION):
        raise BarrierError("the stored value has an unknown version")
    return term, version


def decrypt_value(cipher: AESGCM, version: int, key: str, value: bytes) -> bytes:
    """The plaintext of a stored value whose header `split_value` has read. Raises BarrierError."""
    aad = key.encode() if version == VERSION else None
    start = HEADER_SIZE + NONCE_SIZE
    try:
        return cipher.decrypt(value[HEADER_SIZE:start], value[start:], aad)
    except InvalidTag:
        raise BarrierError("cipher: message authentication failed") from None


@dataclass(frozen=True, slots=True)
class DataKey:
    """One data key. `installed` is RFC 3339, `encryptions` a count carried over from the stored form."""

    term: int
    value: bytes = field(repr=False)
    installed: str
    encryptions: int = 0
    version: int = 1


class Keyring:
    """The root key and every data key. New values use the highest term."""

    def __init__(self, root_key: bytes, keys: list[DataKey], rotation: dict[str, Any] | None = None) -> None:
        if not keys:
            raise BarrierError("the keyring holds no key")
        self.root_key = root_key
        self.keys = {key.term: key for key in keys}
        self.active_term = max(self.keys)
        self.ciphers = {key.term: AESGCM(key.value) for key in keys}
        self._rotation = rotation or dict(_ROTATION)

    @classmethod
    def generate(cls) -> Keyring:
        """A new root key and a first data key, term 1."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return cls(secrets.token_bytes(KEY_SIZE), [DataKey(1, secrets.token_bytes(KEY_SIZE), now)])

    @property
    def active(self) -> DataKey:
        """The key that new values are encrypted with."""
        return self.keys[self.active_term]

    def seal(self) -> bytes:
        """The value of core/keyring."""
        plaintext = json.dumps(
            {
                "MasterKey": base64.b64encode(self.root_key).decode(),
                "Keys": [
                    {
                        "Term": key.term,
                        "Version": key.version,
                        "Value": base64.b64encode(key.value).decode(),
                        "InstallTime": key.installed,
                        "encryptions": key.encryptions,
                    }
                    for key in self.keys.values()
                ],
                "RotationConfig": self._rotation,
            }
        ).encode()
        return encrypt_value(AESGCM(self.root_key), _ROOT_TERM, KEYRING_KEY, plaintext)

    @classmethod
    def open(cls, root_key: bytes, value: bytes) -> Keyring:
        """Decrypt the value of core/keyring with the root key. Raises BarrierError when it does not fit."""
        _, version = split_value(value)
        plaintext = decrypt_value(AESGCM(root_key), version, KEYRING_KEY, value)
        try:
            fields = json.loads(plaintext)
            keys = [
                DataKey(
                    int(key["Term"]),
                    base64.b64decode(key["Value"], validate=True),
                    str(key.get("InstallTime", "")),
                    int(key.get("encryptions") or 0),
                    int(key.get("Version", 1)),
                )
                for key in fields["Keys"]
            ]
            stored_root = base64.b64decode(fields["MasterKey"], validate=True)
            rotation = fields.get("RotationConfig")
        except (ValueError, LookupError, TypeError):
            raise BarrierError("the keyring has an unknown form") from None
        if any(len(key.value) != KEY_SIZE for key in keys):
            raise BarrierError("the keyring holds a key of the wrong size")
        return cls(stored_root, keys, rotation if isinstance(rotation, dict) else None)
