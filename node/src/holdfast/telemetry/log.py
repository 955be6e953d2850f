# SPDX-License-Identifier: Apache-2.0
"""Structured logs in OpenBao's two formats, on stderr: one line an event, levels trace to error, secrets blotted out.

A module logs with `logger.info("what happened", extra={"fields": {"key": value}})`; the logger's name without
"holdfast." is OpenBao's @module.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from holdfast.telemetry.redact import redact

TRACE = 5
LEVELS = {"trace": TRACE, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
ROOT = "holdfast"


def _level_name(level: int) -> str:
    for name, number in (("error", 40), ("warn", 30), ("info", 20), ("debug", 10)):
        if level >= number:
            return name
    return "trace"


def _module(name: str) -> str:
    return name.removeprefix(ROOT + ".") if name != ROOT else "core"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _fields(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    given = getattr(record, "fields", None)
    if isinstance(given, Mapping):
        fields.update(given)
    if record.exc_info:
        fields["traceback"] = formatter.formatException(record.exc_info)
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(str(value))


class StandardFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678901Z [INFO]  module: message: key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; values with spaces are quoted, line breaks are escaped."""
        level = f"[{_level_name(record.levelno).upper()}]"
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record, self).items())
        message = redact(record.getMessage()).replace("\n", "\\n")
        return f"{_time(record)} {level:<7} {_module(record.name)}: {message}" + (f": {fields}" if fields else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with @level, @message, @module and @timestamp as OpenBao names them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        body = {
            "@level": _level_name(record.levelno),
            "@message": redact(record.getMessage()),
            "@module": _module(record.name),
            "@timestamp": _time(record),
        }
        body |= {name: value for name, value in _fields(record, self).items() if not name.startswith("@")}
        return json.dumps(body, separators=(",", ":"))


def _quoted(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, bool) or value is None else str(value)
    if text and not any(char in text for char in ' "=\n\r\t'):
        return text
    return json.dumps(text, ensure_ascii=False)


def setup_logging(level: str, log_format: str, stream: TextIO | None = None) -> logging.Logger:
    """Send every logger below "holdfast" to `stream` (stderr); returns the root of them. May be called again."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else StandardFormatter())
    logger = logging.getLogger(ROOT)
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.propagate = False
    logging.raiseExceptions = False  # a full disk behind stderr must not print tracebacks or stop the server
    set_level(level)
    # Other libraries: warnings only, in the same format. uvicorn's own lines say nothing that ours do not.
    others = logging.getLogger()
    for old in list(others.handlers):
        others.removeHandler(old)
    others.addHandler(handler)
    others.setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return logger


def set_level(level: str) -> None:
    """Change the level of a running server; `level` is one of `LEVELS`."""
    logging.getLogger(ROOT).setLevel(LEVELS[level])
