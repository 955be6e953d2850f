# SPDX-License-Identifier: Apache-2.0
"""The stored form: a round trip of everything JSON can say, and one version out of a kv 2 record."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engines import stored
from holdfast.engines.kv2 import Kv2
from holdfast.engines.kv2_model import Config, Metadata, find_version
from holdfast.engines.types import Call, EngineError
from holdfast.storage.inmem import InmemStorage

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(_VALUES)
def test_round_trip(value: Any) -> None:
    packed = stored.encode(value)
    assert stored.decode(packed) == value
    assert json.loads(packed) == value


def test_half_a_surrogate_pair_is_replaced() -> None:
    value = json.loads('{"a\\ud800": "x\\udfffy", "b": "\\ud83d\\ude00"}')
    assert stored.decode(stored.encode(value)) == {"a\ufffd": "x\ufffdy", "b": "\U0001f600"}


def test_foreign_bytes_are_refused() -> None:
    for raw in (b"", b"{", b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011
            stored.decode(raw)


@given(st.integers(1, 25), st.integers(0, 30), st.integers(0, 12), st.sampled_from([None, {"a": "b"}]))
def test_one_version_is_what_the_whole_record_says(writes: int, number: int, keep: int, custom: Any) -> None:
    metadata = Metadata.new(datetime.now(UTC))
    metadata.max_versions, metadata.custom_metadata = keep, custom
    for step in range(writes):
        metadata.add_version(Config(), datetime.now(UTC) + timedelta(seconds=step))
    metadata.versions[writes].destroyed = bool(number % 2)
    found = find_version(metadata.to_bytes(), number)
    wanted = number or metadata.current_version
    if wanted not in metadata.versions:
        assert found is None
        return
    assert found is not None
    assert found.about() == metadata.version_dict(wanted)
    assert found.version.gone() is metadata.versions[wanted].gone()


class SlowStorage(InmemStorage):
    """Others run before a commit takes effect."""

    async def commit(self, ops: Any, preconditions: Any = None) -> int:
        await asyncio.sleep(0)
        return await super().commit(ops, preconditions)


async def test_writers_of_a_path_queue_up_and_leave_nothing_behind() -> None:
    engine = Kv2(SlowStorage())
    wrong = {"options": {"cas": 99}}
    calls = [Call("update", f"data/{n % 3}", {"data": {"n": n}, **({} if n % 5 else wrong)}) for n in range(60)]
    jobs = [asyncio.ensure_future(engine.handle(call)) for call in calls]
    await asyncio.sleep(0)
    jobs[9].cancel()  # it waits for its turn
    results = await asyncio.gather(*jobs, return_exceptions=True)
    failed = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == sorted({*range(0, 60, 5), 9})
    assert all(isinstance(results[number], EngineError) for number in failed if number != 9)
    answer = await engine.handle(Call("read", "data/0"))
    assert answer is not None
    assert answer.data is not None
    assert answer.data["metadata"]["version"] == 15
    assert engine._queues == {}
