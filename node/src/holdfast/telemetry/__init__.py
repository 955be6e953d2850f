# SPDX-License-Identifier: Apache-2.0
"""Logs and what guards them."""

from holdfast.telemetry.log import LEVELS, TRACE, set_level, setup_logging

__all__ = ["LEVELS", "TRACE", "set_level", "setup_logging"]
