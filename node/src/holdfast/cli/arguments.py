# SPDX-License-Identifier: Apache-2.0
"""Single-dash long options (`-format=json`), as bao and vault have them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SINGLE_DASH = re.compile(r"-[A-Za-z][A-Za-z0-9-]+(=.*)?", re.DOTALL)


def normalise(arguments: Sequence[str]) -> list[str]:
    """`-name` and `-name=value` become `--name…`; everything after `--` stays as it is."""
    out: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return out + list(arguments[position:])
        out.append("-" + argument if _SINGLE_DASH.fullmatch(argument) else argument)
    return out
