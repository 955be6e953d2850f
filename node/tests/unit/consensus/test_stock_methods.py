# SPDX-License-Identifier: Apache-2.0
"""Which methods of pysyncobj still run is what docs/decisions/0005 says: a stock path that comes alive, or dies, is noticed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from pysyncobj import SyncObj

from tests.sim import scenario

DECISION = Path(__file__).parents[4] / "docs" / "decisions" / "0005-stock-methods.md"


def running(wanted: set[str]) -> set[str]:
    """Names of SyncObj's methods that run in simulated clusters once servers are constructed; ends early when all of `wanted` did."""
    seen: set[str] = set()
    constructing: list[FrameType] = []

    def watch(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.endswith("pysyncobj/syncobj.py"):
            return
        if code.co_qualname == "SyncObj.__init__":
            if event == "call":
                constructing.append(frame)
            elif event == "return":
                constructing.remove(frame)
        elif event == "call" and not constructing and hasattr(SyncObj, _attribute(code.co_name)):
            seen.add(code.co_name)

    sys.setprofile(watch)
    try:
        for seed in range(1, 41):
            scenario.run(seed)
            if seed >= 5 and seen >= wanted:
                break
    finally:
        sys.setprofile(None)
    return seen


def _attribute(name: str) -> str:
    return f"_SyncObj{name}" if name.startswith("__") and not name.endswith("__") else name


def test_the_stock_methods_that_run_are_the_documented_ones() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", DECISION.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(rows) > 5
    assert running(rows) == rows
