# SPDX-License-Identifier: Apache-2.0
"""KV version 2: recorded answers, versions, check-and-set, races."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engines import kv2, kv2_model
from holdfast.engines.kv2 import Kv2
from holdfast.engines.types import Call, EngineError
from holdfast.storage.inmem import InmemStorage
from holdfast.storage.types import Op, PreconditionFailed


async def test_as_recorded(kv2: Any) -> None:
    status, data = await kv2("update", "data/a", data={"x": 1})
    assert status == 200
    assert data.pop("created_time").endswith("Z")
    assert data == {"custom_metadata": None, "deletion_time": "", "destroyed": False, "version": 1}
    assert await kv2("update", "data/a", data={"x": 2}, options={"cas": 0}) == (
        400,
        ["check-and-set parameter did not match the current version"],
    )
    status, data = await kv2("read", "data/a")
    assert (status, data["data"], data["metadata"]["version"]) == (200, {"x": 1}, 1)
    assert await kv2("read", "data/none") == (404, None)
    assert await kv2("list", "metadata/") == (200, {"keys": ["a"]})
    status, data = await kv2("read", "metadata/a")
    assert {**data, "created_time": "", "updated_time": "", "versions": {}} == {
        "cas_required": False,
        "created_time": "",
        "current_metadata_version": 0,
        "current_version": 1,
        "custom_metadata": None,
        "delete_version_after": "0s",
        "max_versions": 0,
        "metadata_cas_required": False,
        "oldest_version": 0,
        "updated_time": "",
        "versions": {},
    }
    assert set(data["versions"]["1"]) == {"created_time", "deletion_time", "destroyed"}
    assert await kv2("delete", "data/a") == (204, None)
    status, data = await kv2("read", "data/a")
    assert (status, data["data"], data["metadata"]["version"]) == (404, None, 1)
    assert data["metadata"]["deletion_time"]
    assert await kv2("update", "undelete/a", versions=[1]) == (204, None)
    assert (await kv2("read", "data/a"))[0] == 200


async def test_version_one_paths_get_a_hint(storage: InmemStorage) -> None:
    answer = await Kv2(storage).handle(Call("read", "a"))
    assert answer is not None
    assert (answer.status, answer.data) == (404, None)
    assert answer.warnings == [
        "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. "
        "If using the OpenBao CLI, use 'bao kv get' for this operation."
    ]


@pytest.mark.parametrize(
    ("operation", "path", "data", "status", "text"),
    [
        ("update", "data/a", {}, 400, "no data provided"),
        ("update", "data/a", {"data": None}, 400, "no data provided"),
        ("update", "data/a", {"data": "x"}, 400, "Field validation failed"),
        ("update", "data/a", {"data": {}, "options": {"cas": "x"}}, 400, "Field validation failed"),
        ("update", "delete/a", {}, 400, "No version number provided"),
        ("update", "undelete/a", {"versions": []}, 400, "No version number provided"),
        ("update", "destroy/a", {}, 400, "no version number provided"),
        ("update", "destroy/a", {"versions": ["x"]}, 400, "Field validation failed"),
        ("read", "data/a", {"version": "-1"}, 400, "version must not be negative"),
        ("update", "metadata/a", {"max_versions": -1}, 400, "must not be negative"),
        ("update", "metadata/a", {"custom_metadata": {"a": {}}}, 400, "Field validation failed"),
        ("update", "metadata/a", {"custom_metadata": {"a": "x" * 513}}, 400, "custom_metadata"),
        ("update", "metadata/a", {"metadata_cas_required": True}, 400, "not supported"),
        ("update", "config", {"delete_version_after": "x"}, 400, "Field validation failed"),
        ("list", "data/", {}, 405, "unsupported operation"),
        ("delete", "config", {}, 405, "unsupported operation"),
    ],
)
async def test_refusals(kv2: Any, operation: str, path: str, data: dict[str, Any], status: int, text: str) -> None:
    await kv2("update", "data/a", data={"x": 1})
    before = await kv2("read", "metadata/a")
    got, errors = await kv2(operation, path, **data)
    assert got == status
    assert text in errors[0]
    assert await kv2("read", "metadata/a") == before


async def test_check_and_set(kv2: Any) -> None:
    assert (await kv2("update", "data/a", data={}, options={"cas": 1}))[0] == 400
    assert (await kv2("update", "data/a", data={}, options={"cas": 0}))[0] == 200
    assert (await kv2("update", "data/a", data={}, options={"cas": "1"}))[1]["version"] == 2
    await kv2("update", "metadata/a", cas_required=True)
    assert await kv2("update", "data/a", data={}) == (400, ["check-and-set parameter required for this call"])
    await kv2("update", "config", cas_required=True)
    assert (await kv2("update", "data/b", data={}))[0] == 400
    assert (await kv2("patch", "data/a", data={"y": 1}, options={"cas": 1}))[0] == 400
    assert (await kv2("patch", "data/a", data={"y": 1}, options={"cas": 2}))[0] == 200


async def test_old_versions_go(kv2: Any, storage: InmemStorage) -> None:
    for number in range(1, 13):
        await kv2("update", "data/a", data={"n": number})
    _, data = await kv2("read", "metadata/a")
    assert (data["current_version"], data["oldest_version"]) == (12, 3)
    assert sorted(map(int, data["versions"])) == list(range(3, 13))
    assert len(list(storage.scan("versions/a/"))) == 10
    assert await kv2("read", "data/a", version=2) == (404, None)
    assert (await kv2("read", "data/a", version="3"))[1]["data"] == {"n": 3}
    await kv2("update", "config", max_versions=2)
    await kv2("update", "data/a", data={})
    assert len(list(storage.scan("versions/a/"))) == 2


async def test_destroy_and_delete_everything(kv2: Any, storage: InmemStorage) -> None:
    for number in range(3):
        await kv2("update", "data/a", data={"n": number})
    await kv2("update", "destroy/a", versions=[1, "2", 9])
    assert list(storage.scan("versions/")) == ["versions/a/3"]
    status, data = await kv2("read", "data/a", version=1)
    assert (status, data["metadata"]["destroyed"], data["data"]) == (404, True, None)
    await kv2("update", "undelete/a", versions=[1])
    assert (await kv2("read", "data/a", version=1))[0] == 404
    await kv2("update", "delete/a", versions="3")
    assert (await kv2("read", "data/a"))[0] == 404
    assert await kv2("delete", "metadata/a") == (204, None)
    assert list(storage.scan("")) == []
    assert await kv2("delete", "metadata/a") == (204, None)
    assert await kv2("delete", "data/a") == (204, None)
    assert await kv2("update", "destroy/a", versions=[1]) == (204, None)


async def test_patch(kv2: Any) -> None:
    assert await kv2("patch", "data/a", data={"x": 1}) == (404, [])
    await kv2("update", "data/a", data={"keep": 1, "drop": 2, "deep": {"a": 1, "b": 2}})
    status, data = await kv2("patch", "data/a", data={"drop": None, "deep": {"b": 3}, "new": [1]})
    assert (status, data["version"]) == (200, 2)
    assert (await kv2("read", "data/a"))[1]["data"] == {"keep": 1, "deep": {"a": 1, "b": 3}, "new": [1]}
    await kv2("delete", "data/a")
    status, data = await kv2("patch", "data/a", data={"x": 1})
    assert (status, data["data"], data["metadata"]["version"]) == (404, None, 2)


async def test_metadata(kv2: Any) -> None:
    assert await kv2("patch", "metadata/a", max_versions=3) == (404, [])
    assert (await kv2("update", "metadata/a", custom_metadata={"o": "me", "p": "q"}, max_versions=3))[0] == 204
    assert await kv2("read", "data/a") == (404, None)
    assert (await kv2("update", "data/a", data={}))[1]["custom_metadata"] == {"o": "me", "p": "q"}
    await kv2("patch", "metadata/a", custom_metadata={"p": None, "r": "s"})
    _, data = await kv2("read", "metadata/a")
    assert (data["custom_metadata"], data["max_versions"]) == ({"o": "me", "r": "s"}, 3)
    await kv2("patch", "metadata/a", custom_metadata=None)
    assert (await kv2("read", "metadata/a"))[1]["custom_metadata"] is None


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock of the leader: hours from the true time."""

    def move(hours: float) -> None:
        class Moved(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Moved:
                return cls.fromtimestamp(time.time() + hours * 3600, tz)

        for module in (kv2, kv2_model):
            monkeypatch.setattr(module, "datetime", Moved)

    return move


async def test_versions_that_delete_themselves(kv2: Any, set_clock: Callable[[float], None]) -> None:
    await kv2("update", "metadata/a", delete_version_after="1h")
    _, data = await kv2("update", "data/a", data={"x": 1})
    assert data["deletion_time"] > data["created_time"]
    assert (await kv2("read", "data/a"))[0] == 200
    set_clock(2)
    assert (await kv2("read", "data/a"))[0] == 404


async def test_what_was_deleted_stays_so_under_a_leader_whose_clock_is_behind(
    kv2: Any, set_clock: Callable[[float], None]
) -> None:
    await kv2("update", "metadata/b", delete_version_after="1h")
    for path in ("a", "b", "c"):
        await kv2("update", f"data/{path}", data={"x": 1})
    set_clock(2)  # b is gone by itself here
    assert await kv2("delete", "data/a") == (204, None)
    assert await kv2("delete", "data/b") == (204, None)
    assert await kv2("update", "destroy/c", versions=[1]) == (204, None)
    set_clock(0)
    for path in ("a", "b", "c"):
        status, data = await kv2("read", f"data/{path}")
        assert (status, data["data"]) == (404, None)
        assert (await kv2("patch", f"data/{path}", data={"y": 1}))[0] == 404
        assert (await kv2("read", f"subkeys/{path}"))[0] == 404
    assert (await kv2("read", "data/c"))[1]["metadata"]["destroyed"] is True
    for path in ("a", "b", "c"):
        assert await kv2("update", f"undelete/{path}", versions=[1]) == (204, None)
    assert [(await kv2("read", f"data/{path}"))[0] for path in ("a", "b", "c")] == [200, 200, 404]


async def test_config_and_subkeys(kv2: Any) -> None:
    assert (await kv2("read", "config"))[1] == {"cas_required": False, "delete_version_after": "0s", "max_versions": 0}
    await kv2("update", "config", max_versions=5, delete_version_after="90m")
    assert (await kv2("read", "config"))[1]["delete_version_after"] == "1h30m0s"
    await kv2("update", "data/a", data={"x": 1, "deep": {"y": {"z": 1}}, "empty": {}})
    assert (await kv2("read", "subkeys/a"))[1]["subkeys"] == {"x": None, "deep": {"y": {"z": None}}, "empty": None}
    assert (await kv2("read", "subkeys/a", depth=2))[1]["subkeys"] == {"x": None, "deep": {"y": None}, "empty": None}
    await kv2("delete", "data/a")
    assert (await kv2("read", "subkeys/a"))[0] == 404


async def test_paths_that_contain_each_other(kv2: Any) -> None:
    await kv2("update", "data/a", data={"n": 0})
    await kv2("update", "data/a/1", data={"n": 1})
    await kv2("update", "data/a/1/1", data={"n": 2})
    await kv2("delete", "metadata/a")
    assert (await kv2("read", "data/a/1"))[1]["data"] == {"n": 1}
    assert (await kv2("read", "data/a/1/1"))[1]["data"] == {"n": 2}
    assert await kv2("scan", "metadata/") == (200, {"keys": ["a/1", "a/1/1"]})


class Contended(InmemStorage):
    """Another writer overtakes the first `times` commits (a second leader's, as it were); 0 commits are lost."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.batches: list[Sequence[Op]] = []

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        if self.times and preconditions:
            self.times -= 1
            other = Kv2(InmemView(self))
            await other.handle(Call("update", "data/a", {"data": {"by": "other"}}))
        self.batches.append(ops)
        return await super().commit(ops, preconditions)


class InmemView:
    """The same storage without the contention."""

    def __init__(self, storage: InmemStorage) -> None:
        self.get, self.list, self.scan = storage.get, storage.list, storage.scan
        self._storage = storage

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        return await InmemStorage.commit(self._storage, ops, preconditions)

    async def read_barrier(self) -> None:
        """Always current."""


class Deposed(InmemStorage):
    """Another server leads and has written meanwhile: this one learns of it when it asks, or not at all."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._unseen: list[Call] = [call]

    async def read_barrier(self) -> None:
        while self._unseen:
            await Kv2(InmemView(self)).handle(self._unseen.pop())


@pytest.mark.parametrize(
    ("asked", "unseen"),
    [
        (("update", "data/a", {"data": {}, "options": {"cas": 2}}), ("update", "data/a", {"data": {"x": 2}})),
        (("delete", "data/b", {}), ("update", "data/b", {"data": {"x": 1}})),
        (("delete", "metadata/b", {}), ("update", "data/b", {"data": {"x": 1}})),
        (("update", "undelete/a", {"versions": [1]}), ("delete", "data/a", {})),
        (("update", "destroy/a", {"versions": [2]}), ("update", "data/a", {"data": {"x": 2}})),
        (("patch", "data/b", {"data": {"y": 1}}), ("update", "data/b", {"data": {"x": 1}})),
        (("patch", "metadata/b", {"max_versions": 3}), ("update", "data/b", {"data": {"x": 1}})),
    ],
)
async def test_a_leader_that_was_deposed_neither_refuses_nor_leaves_undone_what_it_knows_nothing_of(
    asked: tuple[str, str, dict[str, Any]], unseen: tuple[str, str, dict[str, Any]]
) -> None:
    storage = Deposed(Call(*unseen))
    await Kv2(storage).handle(Call("update", "data/a", {"data": {"x": 1}}))
    revision = await storage.commit([])
    await Kv2(storage).handle(Call(*asked))
    assert await storage.commit([]) == revision + 3, "the request was not carried out"


async def test_a_write_that_commits_asks_nobody() -> None:
    storage = Deposed(Call("update", "data/a", {"data": {"x": 1}}))
    await Kv2(storage).handle(Call("update", "data/a", {"data": {}, "options": {"cas": 0}}))
    assert storage.get("versions/a/1") is not None
    assert storage.get("versions/a/2") is None


async def test_an_overtaken_write_is_made_again() -> None:
    storage = Contended(2)
    answer = await Kv2(storage).handle(Call("update", "data/a", {"data": {"by": "us"}}))
    assert answer is not None
    assert answer.data is not None
    assert answer.data["version"] == 3


async def test_an_overtaken_check_and_set_fails() -> None:
    with pytest.raises(EngineError, match="did not match the current version"):
        await Kv2(Contended(1)).handle(Call("update", "data/a", {"data": {}, "options": {"cas": 0}}))


async def test_endless_contention_ends_in_a_clear_error() -> None:
    with pytest.raises(EngineError, match="kept changing") as error:
        await Kv2(Contended(99)).handle(Call("update", "data/a", {"data": {}}))
    assert error.value.status == 409


async def test_one_write_is_one_batch() -> None:
    storage = Contended(0)
    await Kv2(storage).handle(Call("update", "data/a", {"data": {}}))
    assert [[op.key for op in batch] for batch in storage.batches] == [["metadata/a", "versions/a/1"]]


async def test_concurrent_writers_make_every_version_once(kv2: Any) -> None:
    answers = await asyncio.gather(*(kv2("update", "data/a", data={"n": n}) for n in range(30)))
    assert sorted(data["version"] for _, data in answers) == list(range(1, 31))


async def test_concurrent_check_and_set_has_one_winner(kv2: Any) -> None:
    answers = await asyncio.gather(*(kv2("update", "data/a", data={"n": n}, options={"cas": 0}) for n in range(10)))
    assert sorted(status for status, _ in answers) == [200] + [400] * 9


async def test_a_lost_precondition_never_leaves_half_a_write(storage: InmemStorage) -> None:
    revision = await storage.commit([])
    with pytest.raises(PreconditionFailed):
        await storage.commit([], {"metadata/a": revision})
    assert list(storage.scan("")) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_merge_patch_laws(target: Any, patch: Any) -> None:
    merged = kv2_model.merge_patch(target, patch)
    assert kv2_model.merge_patch(merged, patch) == merged
    if isinstance(target, dict):
        assert kv2_model.merge_patch(target, {}) == target
