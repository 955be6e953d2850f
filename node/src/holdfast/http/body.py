# SPDX-License-Identifier: Apache-2.0
"""Request bodies: reading them within the limits, and decoding JSON with OpenBao's refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from holdfast.core.types import ApiError
from holdfast.http.asgi import Receive
from holdfast.http.envelope import errors
from holdfast.http.message import Refused


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode
_MAX_NESTING_TEXT = "failed to decode JSON input: the document is nested too deeply"


class Disconnected(Exception):
    """The client went away before its request was complete; nobody is there to answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, patience: float) -> bytes:
    """The whole body. Raises Refused(413) above `limit` bytes, Refused(408) after `patience` s, or Disconnected."""
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise Refused(errors(413, "http: request body too large"))
    if length == b"0" or (length is None and b"transfer-encoding" not in headers):
        return b""
    message = await _next(receive, patience)
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise Refused(errors(413, "http: request body too large"))
        return body
    parts, size = [body], len(body)
    try:
        async with asyncio.timeout(patience or None):
            while message.get("more_body"):
                message = await _next(receive, 0)
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise Refused(errors(413, "http: request body too large"))
    except TimeoutError:
        raise Refused(errors(408, "the request body did not arrive in time")) from None
    return b"".join(parts)


async def _next(receive: Receive, patience: float) -> Mapping[str, Any]:
    try:
        async with asyncio.timeout(patience or None):
            message = await receive()
    except TimeoutError:
        raise Refused(errors(408, "the request body did not arrive in time")) from None
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty body is an empty object. Raises ApiError(400) with the reason."""
    if not body or not body.strip():
        return {}
    try:
        value = _decode(
            body.decode(json.detect_encoding(body), "surrogatepass")
        )  # as json.loads, which makes a decoder
    except json.JSONDecodeError as error:
        raise ApiError(400, f"failed to decode JSON input: {_reason(error)}") from None
    except RecursionError:
        raise ApiError(400, _MAX_NESTING_TEXT) from None
    except ValueError as error:  # not UTF-8, NaN, or a number of thousands of digits
        text = "the document is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ApiError(400, f"failed to decode JSON input: {text}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = json_kind(value)
        target = "Go value of type map[string]interface {}"
        raise ApiError(400, f"failed to decode JSON input: json: cannot unmarshal {kind} into {target}")
    return value


def json_kind(value: Any) -> str:
    """Go's name for the JSON type of `value`."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _reason(error: json.JSONDecodeError) -> str:
    """Go's two usual texts. The document itself is never quoted beyond one character: it may hold secrets."""
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character {error.doc[error.pos]!r} at offset {error.pos}"
