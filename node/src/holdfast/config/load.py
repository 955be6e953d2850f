# SPDX-License-Identifier: Apache-2.0
"""From a path (a file, or a directory of *.hcl and *.json) and the environment to a checked `Config`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.config.block import Block, from_plain, merge
from holdfast.config.build import build
from holdfast.config.errors import ConfigError
from holdfast.config.hcl import parse_hcl
from holdfast.config.tree import Config
from holdfast.config.validate import validate


def load_config(paths: Path | Sequence[Path], environ: Mapping[str, str] | None = None) -> Config:
    """Read, parse and check files or directories. Raises ConfigError with one sentence; changes nothing."""
    environ = os.environ if environ is None else environ
    given = [paths] if isinstance(paths, Path) else list(paths)
    raw = _read(given[0])
    for further in given[1:]:
        merge(raw, _read(further))
    return validate(build(raw, environ), ", ".join(str(path) for path in given))


def _read(path: Path) -> Block:
    if not path.is_dir():
        return _read_file(path)
    files = sorted(entry for entry in path.iterdir() if entry.suffix in (".hcl", ".json") and entry.is_file())
    if not files:
        raise ConfigError(f"{path}: the directory holds no *.hcl or *.json file")
    merged = Block(str(path))
    for file in files:
        merge(merged, _read_file(file))
    return merged


def _read_file(path: Path) -> Block:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the file is not UTF-8 text") from None
    return parse_json(text, str(path)) if looks_like_json(path, text) else parse_hcl(text, str(path))


def looks_like_json(path: Path, text: str) -> bool:
    """By the suffix, else by the first character."""
    return path.suffix == ".json" or (path.suffix != ".hcl" and text.lstrip()[:1] == "{")


def parse_json(text: str, source: str) -> Block:
    """Decode a JSON configuration. Raises ConfigError with file and line."""
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, source))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}:{error.lineno}: this is not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{source}: this is not valid JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: the configuration must be a JSON object")
    block = from_plain(value, source)
    assert isinstance(block, Block)
    return block


def _object(pairs: list[tuple[str, object]], source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"{source}: {key} is set twice")
        found[key] = value
    return found
