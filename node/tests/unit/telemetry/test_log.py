# SPDX-License-Identifier: Apache-2.0
"""Log formats, levels and the guard against secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from holdfast.telemetry import set_level, setup_logging
from holdfast.telemetry.redact import MASK, redact


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    ours, others = logging.getLogger("holdfast"), logging.getLogger()
    saved = ours.handlers[:], ours.level, ours.propagate, others.handlers[:], others.level, logging.raiseExceptions
    yield
    ours.handlers, ours.level, ours.propagate, others.handlers, others.level, logging.raiseExceptions = saved
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


def test_json() -> None:
    out = io.StringIO()
    setup_logging("info", "json", out)
    logging.getLogger("holdfast.storage.raft").warning("lost %s", "it", extra={"fields": {"term": 3, "ok": True}})
    line = json.loads(out.getvalue())
    assert line.pop("@timestamp").endswith("Z")
    assert line == {"@level": "warn", "@message": "lost it", "@module": "storage.raft", "term": 3, "ok": True}


def test_standard() -> None:
    out = io.StringIO()
    setup_logging("debug", "standard", out)
    fields = {"a": "x y", "b": 1, "c": "z\n", "d": None}
    logging.getLogger("holdfast.http").debug("two\nlines", extra={"fields": fields})
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.split(" ", 1)[1] == '[DEBUG] http: two\\nlines: a="x y" b=1 c="z\\n" d=null\n'


def test_levels_can_change() -> None:
    out = io.StringIO()
    logger = setup_logging("error", "standard", out)
    logger.info("no")
    set_level("trace")
    logger.log(5, "yes")
    logging.getLogger("other").info("not ours")
    assert [line.split(" ", 1)[1] for line in out.getvalue().splitlines()] == ["[TRACE] core: yes"]


def test_setting_up_twice_logs_once() -> None:
    out = io.StringIO()
    setup_logging("info", "standard", io.StringIO())
    setup_logging("info", "standard", out).info("one")
    assert out.getvalue().count("one") == 1


@pytest.mark.parametrize(
    "secret",
    [
        "s.LKLnCu2T6btiEnZLz2xSRcRg",
        "hvs.CAESIJlWh1234567890abcdefghij",
        "df9e3997078333a88096c12914243a8ca9b00b3e3bafc9c63bf39eac563e3cafbb",
        "0" * 64,
        "56qqqCf9KSK41WWCs8L0zDznZhmD/pd+Yq6eFxFuHdA=",
        "356eOZcHgzOogJbBKRQkOoypsAs+O6/JxjvznqxWPjyvu7=="[:44],
        "-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ncut off",
    ],
)
def test_redaction(secret: str) -> None:
    assert redact(f"before {secret} after").startswith(f"before {MASK}")
    assert secret not in redact(f"key={secret}")
    out = io.StringIO()
    logger = setup_logging("info", "json", out)
    logger.info("message %s", secret, extra={"fields": {"field": secret, "object": {"inner": secret}}})
    assert secret not in out.getvalue()
    assert secret.splitlines()[-1] not in out.getvalue()


def test_ordinary_text_stays() -> None:
    text = "GET /v1/secret/data/app 10.0.0.1:8201 23ef4cdb-1955-4e29-90c4-14da5e3d94a5 /usr/lib/python3.11/asyncio"
    assert redact(text) == text
