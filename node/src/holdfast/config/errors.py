# SPDX-License-Identifier: Apache-2.0
"""The one exception of the configuration package."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration cannot be used. The text is one sentence that names the file, and the line or the key."""
