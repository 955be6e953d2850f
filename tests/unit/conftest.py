# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes ansible_collections.holdfast.raft importable, wherever the checkout is."""

from __future__ import annotations

import importlib.util
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

if importlib.util.find_spec("ansible_collections") is None:
    if ROOT.parts[-3:] == ("ansible_collections", "holdfast", "raft"):
        above = ROOT.parents[2]
    else:
        above = ROOT / "build"
        link = above / "ansible_collections" / "holdfast" / "raft"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to("../../..")
    sys.path.insert(0, str(above))
