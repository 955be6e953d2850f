# SPDX-License-Identifier: Apache-2.0
"""Histories that are known to be good or bad, and what is said of the bad ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.linear import Model, Operation, Register, Revisions, Undecided, Versioned, check, dump, load
from tests.linear.generate import Shape, register, revisions, versioned
from tests.linear.search import Search


def op(kind: str, argument: Any, result: Any, invoked: float, returned: float | None, process: str = "p") -> Operation:
    return Operation(process, "k", kind, argument, result, invoked, returned)


def write(value: Any, invoked: float, returned: float | None) -> Operation:
    return op("write", value, None, invoked, returned)


def read(value: Any, invoked: float, returned: float) -> Operation:
    return op("read", None, value, invoked, returned)


def cas(expected: Any, value: Any, done: Any, invoked: float, returned: float | None) -> Operation:
    return op("cas", (expected, value), done, invoked, returned)


def delete(invoked: float, returned: float | None) -> Operation:
    return op("delete", None, None, invoked, returned)


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "nothing was ever there": [read(None, 0, 1)],
    "reads during a write see either": [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4), read(2, 5, 6)],
    "the old value as long as nobody saw the new": [write(1, 0, 1), write(2, 2, 9), read(1, 3, 4), read(2, 5, 6)],
    "the same moment overlaps": [write(1, 0, 1), read(None, 1, 2)],
    "an unknown write never seen": [write(1, 0, 1), write(2, 2, None), read(1, 3, 4), read(1, 90, 91)],
    "an unknown write seen much later": [write(1, 0, 1), write(2, 2, None), read(1, 3, 4), read(2, 90, 91)],
    "an unknown delete": [write(1, 0, 1), delete(2, None), read(1, 3, 4), read(None, 5, 6)],
    "an unknown cas that was done": [write(1, 0, 1), cas(1, 2, None, 2, None), read(2, 3, 4)],
    "one of two cas wins": [write(1, 0, 1), cas(1, 2, True, 2, 5), cas(1, 3, False, 2, 5), read(2, 6, 7)],
    "a refused cas is explained by an unknown write": [
        write(1, 0, 1),
        write(7, 2, None),
        cas(1, 2, False, 3, 4),
        write(1, 5, 6),
        read(1, 7, 8),
    ],
    "the same value again": [write(1, 0, 1), write(2, 2, 3), write(1, 4, 5), read(1, 6, 7)],
    "equal values, one kept for later": [write(1, 0, 1), write(1, 0, 9), write(2, 2, 3), read(2, 4, 5), read(1, 6, 7)],
}
BAD: dict[str, tuple[list[Operation], Operation]] = {
    "stale read": ([write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)], read(1, 4, 5)),
    "new, then old": ([write(1, 0, 1), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)], read(1, 5, 6)),
    "lost write": ([write(1, 0, 1), read(None, 2, 3), write(2, 4, 5)], read(None, 2, 3)),
    "a value nobody wrote": ([write(1, 0, 1), read(3, 0, 2), read(1, 2, 3)], read(3, 0, 2)),
    "a value from the future": ([read(1, 0, 1), write(1, 2, 3)], read(1, 0, 1)),
    "two cas that both win": ([write(1, 0, 1), cas(1, 2, True, 2, 5), cas(1, 3, True, 2, 6)], cas(1, 3, True, 2, 6)),
    "a refused cas that had to win": ([write(1, 0, 1), cas(1, 2, False, 2, 3)], cas(1, 2, False, 2, 3)),
    "resurrected after a delete": ([write(1, 0, 1), delete(2, 3), read(None, 4, 5), read(1, 6, 7)], read(1, 6, 7)),
    "deleted, but still there": ([write(1, 0, 1), delete(2, 3), read(1, 4, 5)], read(1, 4, 5)),
    "unknown, seen, then unseen": (
        [write(1, 0, 1), write(2, 2, None), read(2, 3, 4), read(1, 5, 6), read(2, 7, 8)],
        read(1, 5, 6),
    ),
    "an unknown write seen before it was sent": ([read(1, 0, 1), write(1, 2, None)], read(1, 0, 1)),
    "an unknown write done twice": (
        [write(1, 0, None), read(1, 1, 2), write(2, 3, 4), read(1, 5, 6), read(2, 7, 8)],
        read(1, 5, 6),
    ),
    "two see two orders": (
        [write(1, 0, 1), write(2, 0, 1), read(1, 2, 3), read(2, 4, 5)],
        read(2, 4, 5),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_are_accepted(name: str) -> None:
    assert check(Register(), GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_refused_and_the_last_result_is_named(name: str) -> None:
    history, last = BAD[name]
    found = check(Register(), history)
    assert found is not None
    assert found.key == "k"
    assert found.last == last
    assert last.returned is not None
    assert all(o.invoked <= last.returned for o in found.operations)
    assert str(found).endswith(f"> {last}")


VERSIONED: dict[str, tuple[list[Operation], bool]] = {
    "versions count": ([op("write", "a", 1, 0, 1), op("write", "b", 2, 2, 3), read((2, "b"), 4, 5)], True),
    "an unknown write took a version": (
        [op("write", "a", 1, 0, 1), op("write", "x", None, 2, None), op("write", "b", 3, 4, 5), read((3, "b"), 6, 7)],
        True,
    ),
    "a version is missing": ([op("write", "a", 1, 0, 1), op("write", "b", 3, 4, 5)], False),
    "a version was given twice": ([op("write", "a", 1, 0, 1), op("write", "b", 1, 0, 1)], False),
    "another value at the version": (
        [op("write", "a", 1, 0, 1), op("write", "b", 2, 2, 3), read((2, "a"), 4, 5)],
        False,
    ),
    "two cas that both win": ([cas(0, "a", 1, 0, 3), cas(0, "b", 1, 0, 3)], False),
    "a refused cas": ([op("write", "a", 1, 0, 1), cas(0, "b", None, 2, 3), cas(1, "c", 2, 4, 5)], True),
    "deleted": ([op("write", "a", 1, 0, 1), delete(2, 3), read((1, None), 4, 5), cas(1, "b", 2, 6, 7)], True),
    "resurrected": ([op("write", "a", 1, 0, 1), delete(2, 3), read((1, None), 4, 5), read((1, "a"), 6, 7)], False),
    "an unknown cas cannot come late": (
        [op("write", "a", 1, 0, 1), cas(1, "x", None, 2, None), op("write", "b", 2, 3, 4), read((3, "x"), 5, 6)],
        False,
    ),
    "an unknown write once": (
        [op("write", "x", None, 0, None), op("write", "a", 2, 1, 2), op("write", "b", 4, 3, 4)],
        False,
    ),
}


@pytest.mark.parametrize("name", VERSIONED)
def test_versions(name: str) -> None:
    history, good = VERSIONED[name]
    assert (check(Versioned(), history) is None) is good


REVISIONS: dict[str, tuple[list[Operation], bool]] = {
    "revisions grow": ([op("write", "a", 5, 0, 1), op("write", "b", 9, 2, 3), read((9, "b"), 4, 5)], True),
    "revisions shrink": ([op("write", "a", 9, 0, 1), op("write", "b", 5, 2, 3)], False),
    "an unknown write is given its revision by a read": (
        [op("write", "a", 5, 0, 1), op("write", "x", None, 2, None), read((7, "x"), 4, 5), cas(7, "c", 8, 6, 7)],
        True,
    ),
    "and has only one": (
        [op("write", "x", None, 2, None), read((7, "x"), 4, 5), read((8, "x"), 6, 7)],
        False,
    ),
    "a revision lies between": (
        [op("write", "x", None, 0, None), read((7, "x"), 1, 2), op("write", "a", 6, 3, 4)],
        False,
    ),
    "two cas that both win": ([op("write", "a", 3, 0, 1), cas(3, "b", 4, 2, 5), cas(3, "c", 5, 2, 5)], False),
    "cas on absent": ([cas(0, "a", 3, 0, 1), op("delete", None, 4, 2, 3), cas(0, "b", 5, 4, 5)], True),
    "a refused cas": ([op("write", "a", 3, 0, 1), cas(3, "b", None, 2, 3)], False),
    "deleted, with a later write": (
        [op("write", "a", 3, 0, 1), op("delete", None, 4, 2, 3), read((3, "a"), 4, 5)],
        False,
    ),
}


@pytest.mark.parametrize("name", REVISIONS)
def test_revisions(name: str) -> None:
    history, good = REVISIONS[name]
    assert (check(Revisions(), history) is None) is good


def test_keys_are_checked_one_by_one() -> None:
    good = [Operation("p", f"k{n}", "write", n, None, n, n + 1) for n in range(5)]
    assert check(Register(), good) is None
    found = check(Register(), [*good, Operation("q", "k3", "read", None, 9, 9, 10)])
    assert found is not None
    assert found.key == "k3"
    assert {o.key for o in found.operations} == {"k3"}


def test_a_model_refuses_what_it_does_not_know() -> None:
    for model in (Register(), Versioned(), Revisions()):
        with pytest.raises(ValueError, match="does not know append"):
            check(model, [op("append", 1, None, 0, 1)])
    with pytest.raises(ValueError, match="returned before it was invoked"):
        check(Register(), [read(None, 2, 1)])


def test_the_limit_of_steps_is_kept() -> None:
    with pytest.raises(Undecided):
        check(Register(), [write(n, n, n + 0.5) for n in range(100)], limit=50)


def test_histories_are_kept_in_files(tmp_path: Path) -> None:
    history = versioned(Random(3), Shape(operations=60))
    dump(tmp_path / "history.jsonl", history)
    assert load(tmp_path / "history.jsonl") == sorted(history, key=lambda o: o.invoked)


@pytest.mark.parametrize(
    ("generate", "model"), [(register, Register()), (versioned, Versioned()), (revisions, Revisions())]
)
def test_long_histories_need_about_one_step_an_operation(generate: Any, model: Model) -> None:
    shape = Shape(clients=30, operations=4000, lost=0.01)
    history = generate(Random(7), shape)
    assert sum(o.returned is None for o in history) > 20
    assert Search(model, history, limit=4 * len(history)).run()


@pytest.mark.parametrize(
    ("generate", "model"), [(register, Register()), (versioned, Versioned()), (revisions, Revisions())]
)
def test_a_fault_late_in_a_long_history_is_found(generate: Any, model: Model) -> None:
    history = sorted(generate(Random(8), Shape(clients=20, operations=2000, lost=0.01)), key=lambda o: o.invoked)
    nothing = (None, (0, None))
    reads = [o for o in history if o.kind == "read" and o.returned is not None and o.result not in nothing]
    old, late = reads[len(reads) // 3], reads[-10]
    assert old.result != late.result
    bad = replace(late, result=old.result)
    found = check(model, [bad if o is late else o for o in history], limit=400_000)
    assert found is not None
    assert found.last == bad
