# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of waiting. Private to holdfast.raft."""

from __future__ import annotations


class ModuleDocFragment:
    """Mirrors C(waiting()) of module_utils/_module.py."""

    DOCUMENTATION = r"""
options:
  wait:
    description:
      - Whether to wait until what was asked for can be seen.
    type: bool
    default: true
  wait_timeout:
    description:
      - Seconds that all waits of this call may take together.
    type: int
    default: 60
"""
