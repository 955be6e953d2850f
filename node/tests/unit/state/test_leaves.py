# SPDX-License-Identifier: Apache-2.0
"""The ordered map against a dictionary, with leaves small enough to split and join all the time."""

from __future__ import annotations

import gc
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.state import leaves
from holdfast.state.leaves import DiscardedError, Frozen, Leaf, Leaves, Value

KEYS = st.text(alphabet="abc/", min_size=0, max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "delete", "freeze"]), KEYS), max_size=200)


@pytest.fixture(params=[(4, 3), (5, 2), (32, 24)])
def _small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "LEAF", request.param[0])
    monkeypatch.setattr(leaves, "_FILL", request.param[1])
    monkeypatch.setattr(leaves, "_PIECE", 2)


def check(items: Leaves, model: dict[str, Value]) -> None:
    assert list(items.freeze()) == sorted(model.items())
    assert items.count == len(model)
    assert items.bytes == sum(len(k) + len(v) for k, (v, _) in model.items())
    assert all(keys and len(keys) == len(values) <= leaves.LEAF for keys, values in items._leaves)
    bounds = [*items._bounds, "\U0010ffff"]
    for number, (keys, _) in enumerate(items._leaves):
        assert bounds[number] <= keys[0]
        assert keys[-1] < bounds[number + 1]


@pytest.mark.usefixtures("_small")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(KEYS, st.integers(1, 9)), max_size=80), STEPS, KEYS)
def test_against_a_dictionary(start: list[tuple[str, int]], steps: list[tuple[str, str]], probe: str) -> None:
    pairs = [(key, (bytes(n), n)) for key, n in start]
    items, model = Leaves.build(iter(pairs)), dict(pairs)
    check(items, model)
    pictures: list[tuple[Frozen, dict[str, Value]]] = []
    for number, (verb, key) in enumerate(steps):
        if verb == "put":
            items.put(key, (bytes(number % 5), number))
            model[key] = (bytes(number % 5), number)
        elif verb == "delete":
            items.delete(key)
            model.pop(key, None)
        else:
            pictures.append((items.freeze(), dict(model)))
    check(items, model)
    for key in (probe, *model):
        assert items.get(key) == model.get(key)
    assert list(items.keys_from(probe)) == sorted(k for k in model if k >= probe)
    for picture, then in pictures:  # what was frozen has not moved
        assert list(picture) == sorted(then.items())


@pytest.mark.usefixtures("_small")
def test_a_picture_that_is_discarded_stops_its_readers_and_nothing_else() -> None:
    items = Leaves.build((f"{n:04}", (b"v", n)) for n in range(500))
    picture = items.freeze()
    reader = iter(picture)
    assert next(reader) == ("0000", (b"v", 0))
    pieces = sum(1 for _ in picture.discard())
    assert pieces > 1
    with pytest.raises(DiscardedError):
        list(reader)
    with pytest.raises(DiscardedError):
        list(picture)
    assert list(picture.discard()) == []
    assert len(list(items.freeze())) == 500


def test_a_picture_that_is_discarded_between_two_looks_never_ends_early() -> None:
    """The thread that lets go of it may run at any moment of the one that reads: a snapshot would silently lack the rest."""

    class Emptied(list[Leaf]):
        def __len__(self) -> int:
            for _ in picture.discard():
                pass
            return super().__len__()

        def __getitem__(self, item: Any) -> Any:
            if len(self._seen) == 2:
                for _ in picture.discard():
                    pass
            self._seen.append(item)
            return super().__getitem__(item)

        _seen: ClassVar[list[Any]] = []

    picture = Frozen(Emptied(Leaves.build((f"{n:04}", (b"v", n)) for n in range(500))._leaves))
    with pytest.raises(DiscardedError):
        list(picture)


def test_the_collector_forgets_the_leaves() -> None:
    """A full collection must not walk over millions of values: it would stop the event loop."""
    items = Leaves.build((f"{n:04}", (b"v", n)) for n in range(1000))
    for _ in range(4):  # a tuple is forgotten once what it holds is
        gc.collect()
    assert not any(gc.is_tracked(leaf) for leaf in items._leaves)
    assert not any(gc.is_tracked(part) for leaf in items._leaves for part in leaf)


@pytest.mark.parametrize("backwards", [False, True])
def test_keys_in_order_fill_their_leaves(backwards: bool) -> None:
    items = Leaves()
    for n in range(6400):
        items.put(f"{6400 - n if backwards else n:05}", (b"", 1))
    assert len(items._leaves) <= 6400 / leaves.LEAF * (2 if backwards else 1) + 1
