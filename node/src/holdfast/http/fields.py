# SPDX-License-Identifier: Apache-2.0
"""Type checks of the bare endpoints' bodies, with the texts of Go's JSON decoder (seen in the transcripts)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.core.types import ApiError
from holdfast.http.body import decode_object, json_kind

STRING, BOOL, INT, UINT, STRINGS = "string", "bool", "int", "uint", "[]string"


def typed(body: bytes, struct: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The body's object with the types of `fields` checked; null is as good as absent. Raises ApiError(400)."""
    data = decode_object(body)
    for name, kind in fields.items():
        value = data.get(name)
        if value is None:
            data.pop(name, None)
        elif not _fits(value, kind):
            shown = json_kind(value)
            if kind in (INT, UINT) and shown == "number":
                shown = f"number {value}"
            raise ApiError(
                400,
                f"failed to decode JSON input: json: cannot unmarshal {shown} "
                f"into Go struct field {struct}.{name} of type {kind}",
            )
    return data


def _fits(value: Any, kind: str) -> bool:
    if kind == STRING:
        return isinstance(value, str)
    if kind == BOOL:
        return isinstance(value, bool)
    if kind == STRINGS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return -(2**63) <= value < 2**63 if kind == INT else 0 <= value < 2**64
