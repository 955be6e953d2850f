# SPDX-License-Identifier: Apache-2.0
"""Engines on an unencrypted view, and a caller that answers like HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast.engines.kv1 import Kv1
from holdfast.engines.kv2 import Kv2
from holdfast.engines.types import Call, EngineError
from holdfast.storage.inmem import InmemStorage

Caller = Callable[..., Awaitable[tuple[int, Any]]]


def caller(engine: Any) -> Caller:
    """(operation, path, fields) to (status, data or errors)."""

    async def call(operation: str, path: str, /, **data: Any) -> tuple[int, Any]:
        try:
            answer = await engine.handle(Call(operation, path, data, "owner"))
        except EngineError as error:
            return error.status, error.errors
        if answer is None:
            return (404 if operation in ("read", "list", "scan") else 204), None
        return answer.status or 200, answer.data

    return call


@pytest.fixture
def storage() -> InmemStorage:
    return InmemStorage()


@pytest.fixture
def kv2(storage: InmemStorage) -> Caller:
    return caller(Kv2(storage))


@pytest.fixture
def kv1(storage: InmemStorage) -> Caller:
    return caller(Kv1(storage))
