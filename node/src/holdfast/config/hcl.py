# SPDX-License-Identifier: Apache-2.0
"""HCL files to blocks. The only importer of python-hcl2 in this package; the library's own conventions end here."""

from __future__ import annotations

from typing import Any

from holdfast.config.block import Block, from_plain
from holdfast.config.errors import ConfigError


def parse_hcl(text: str, source: str) -> Block:
    """Parse HCL `text`; `source` is the file name for messages.

    A bare word (`level = info`) is taken as a string, as HCL 1 did; an expression stays its source text. Raises
    ConfigError with file and line for bad syntax and for a key that is set twice in one block.
    """
    import hcl2  # the grammar is built on import, and JSON configurations do not need it
    from hcl2.utils import SerializationOptions
    from lark.exceptions import LarkError, UnexpectedInput

    options = SerializationOptions(
        with_comments=False, explicit_blocks=False, preserve_heredocs=False, strip_string_quotes=True
    )
    try:
        tree = hcl2.parses(text)
        return _body(tree.body, source, 0, options)
    except UnexpectedInput as error:
        line = error.line if isinstance(error.line, int) and error.line > 0 else text.count("\n") + 1
        raise ConfigError(f"{source}:{line}: this is not valid HCL{_near(text, line)}") from None
    except (LarkError, RuntimeError, RecursionError) as error:
        raise ConfigError(f"{source}: this is not valid HCL ({type(error).__name__})") from None


def _near(text: str, line: int) -> str:
    """The first word of the line, so that a message never shows a value (which may be secret)."""
    lines = text.splitlines()
    words = lines[line - 1].split() if 0 < line <= len(lines) else []
    return f" near {words[0]!r}" if words and words[0].replace("_", "").isalnum() and len(words[0]) < 40 else ""


def _body(body: Any, source: str, line: int, options: Any) -> Block:
    """Convert one body of the library's tree: attributes to values, blocks to (lists of) `Block`."""
    block = Block(source, line)
    for child in body.children:
        kind = type(child).__name__
        at = getattr(getattr(child, "_meta", None), "line", 0) or 0
        if kind == "AttributeRule":
            for key, value in child.serialize(options).items():
                if key.startswith("__"):
                    continue
                if key in block:
                    raise ConfigError(f"{source}:{at}: {key} is set twice")
                block[key] = from_plain(value, source)
                block.lines[key] = at
        elif kind == "BlockRule":
            _add_block(block, child, source, at, options)
    return block


def _add_block(parent: Block, child: Any, source: str, at: int, options: Any) -> None:
    name, *labels = (_label(label, options) for label in child.labels)
    inner = _body(child.body, source, at, options)
    for label in reversed(labels):
        outer = Block(source, at)
        outer[label] = inner
        inner = outer
    here = parent.setdefault(name, [])
    if not isinstance(here, list):
        raise ConfigError(f"{source}:{at}: {name} is both a value and a block")
    here.append(inner)
    parent.lines.setdefault(name, at)


def _label(label: Any, options: Any) -> str:
    text = label if isinstance(label, str) else str(label.serialize(options))
    return text.strip('"')
