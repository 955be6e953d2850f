# Copyright (c) 2026, the holdfast developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options that give unseal shares. Private to holdfast.raft."""

from __future__ import annotations


class ModuleDocFragment:
    """Mirrors C(shares()) of module_utils/_module.py."""

    DOCUMENTATION = r"""
options:
  shares:
    description:
      - Unseal shares (hexadecimal or base64). No more of them are sent than the server asks for.
      - No more than one of O(shares), O(shares_file) and O(shares_command) may be given; an empty one is not given.
    type: list
    elements: str
  shares_file:
    description:
      - A file on the host where the module runs that holds the shares, as M(holdfast.raft.raft_bootstrap) or
        C(operator init -format=json) writes it, or one share a line.
    type: path
  shares_command:
    description:
      - A program and its arguments that prints the same when it is called with C(read) as one more argument.
    type: list
    elements: str
"""
