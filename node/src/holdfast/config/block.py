# SPDX-License-Identifier: Apache-2.0
"""What HCL and JSON have in common: nested mappings that remember where their keys were written. Pure."""

from __future__ import annotations

from typing import Any

from holdfast.config.errors import ConfigError


class Block(dict[str, Any]):
    """One block of a configuration file: its keys and values, and the line of each key (JSON: no lines).

    A repeated block is a list of `Block`; a label is one more level (`storage "raft" {…}` is storage → raft → …).
    """

    def __init__(self, source: str, line: int = 0) -> None:
        super().__init__()
        self.source = source
        self.line = line
        self.lines: dict[str, int] = {}
        self.places: dict[str, str] = {}  # where a key came from that another file has contributed

    def where(self, key: str = "") -> str:
        """The place of `key` (or of the block itself) for a message: "file" or "file:line"."""
        if key in self.places:
            return self.places[key]
        line = self.lines.get(key, self.line)
        return f"{self.source}:{line}" if line else self.source


def from_plain(value: Any, source: str) -> Any:
    """Turn decoded JSON into blocks, lists and scalars."""
    if isinstance(value, dict):
        block = Block(source)
        for key, item in value.items():
            block[key] = from_plain(item, source)
        return block
    if isinstance(value, list):
        return [from_plain(item, source) for item in value]
    return value


def as_blocks(parent: Block, key: str) -> list[Block]:
    """The blocks stored at `key`: one, several or none. Raises ConfigError when something else is there."""
    if key not in parent:
        return []
    value = parent[key]
    blocks = value if isinstance(value, list) else [value]
    for block in blocks:
        if not isinstance(block, Block):
            raise ConfigError(f"{parent.where(key)}: {key} must be a block, not a value")
    return blocks


def labelled(parent: Block, key: str) -> list[tuple[str, Block]]:
    """The blocks at `key` that carry a label, as (label, block). Raises ConfigError when a label is missing."""
    found: list[tuple[str, Block]] = []
    for outer in as_blocks(parent, key):
        if not outer:
            raise ConfigError(f'{outer.where()}: {key} needs a label, as in {key} "…" {{ }}')
        for label in outer:
            for inner in as_blocks(outer, label):
                found.append((label, inner))
    return found


def merge(into: Block, other: Block) -> None:
    """Add the blocks and values of a further file of a directory: blocks add up, values must not repeat."""
    for key, value in other.items():
        if key not in into:
            into[key] = value
            into.places[key] = other.where(key)
            continue
        here = into[key]
        if isinstance(here, Block | list) and isinstance(value, Block | list):
            into[key] = [*_listed(here), *_listed(value)]
        else:
            raise ConfigError(f"{other.where(key)}: {key} is set already in another file of the same directory")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
