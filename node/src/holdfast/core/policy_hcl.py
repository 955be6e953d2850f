# SPDX-License-Identifier: Apache-2.0
"""Policy texts (HCL or JSON, possibly base64) to plain dictionaries. The core's only door to python-hcl2."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

_NOISE = {"__is_block__", "__comments__", "__inline_comments__", "__start_line__", "__end_line__"}


class PolicySyntaxError(ValueError):
    """The text is neither HCL nor JSON. One sentence with the place, where known."""


def decode(text: str) -> str:
    """The policy text itself when `text` is its base64 form, else `text`."""
    try:
        return base64.b64decode(text, validate=True).decode() or text
    except (binascii.Error, ValueError):
        return text


def parse(text: str) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Top-level attributes, and (path, attributes) of every path block in order. Raises PolicySyntaxError."""
    document = _parse_json(text) if text.lstrip().startswith("{") else _parse_hcl(text)
    blocks: list[tuple[str, dict[str, Any]]] = []
    paths = document.pop("path", [])
    for group in paths if isinstance(paths, list) else [paths]:
        if not isinstance(group, dict):
            raise PolicySyntaxError('"path" must be a block with a path')
        for path, bodies in group.items():
            for body in bodies if isinstance(bodies, list) else [bodies]:
                if not isinstance(body, dict):
                    raise PolicySyntaxError(f'path "{path}" must be a block')
                blocks.append((path, body))
    return document, blocks


def _parse_json(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise PolicySyntaxError(str(error)) from None
    if not isinstance(document, dict):
        raise PolicySyntaxError("a JSON policy must be an object")
    return document


def _parse_hcl(text: str) -> dict[str, Any]:
    import hcl2  # its grammar costs start-up time and memory that a node without custom policies never needs
    from lark.exceptions import LarkError, UnexpectedInput

    try:
        document = hcl2.loads(text)
    except UnexpectedInput as error:
        raise PolicySyntaxError(f"At {error.line}:{error.column}: the text is not valid HCL here") from None
    except (LarkError, ValueError, RecursionError) as error:
        raise PolicySyntaxError(f"the text is not valid HCL: {type(error).__name__}") from None
    cleaned = _clean(document)
    return cleaned if isinstance(cleaned, dict) else {}


def _clean(value: Any) -> Any:
    """python-hcl2 keeps the quotes of strings and adds keys of its own."""
    if isinstance(value, dict):
        return {_unquote(key): _clean(item) for key, item in value.items() if key not in _NOISE}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return _unquote(value) if isinstance(value, str) else value


def _unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]
