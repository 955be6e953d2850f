# SPDX-License-Identifier: Apache-2.0
"""Snapshots: the archive format, taking one, looking into one, restoring one."""
