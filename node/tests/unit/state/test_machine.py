# SPDX-License-Identifier: Apache-2.0
"""The replicated state machine against a naive one."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.state.machine import DELETE, PUT, State, encode

# Characters around "/" ("." before, "0" after), so that skipping a folder has something to trip over.
PARTS = st.text(alphabet="a/.0-\x00é\U0001f600", max_size=6)
VALUES = st.binary(max_size=8)
OPS = st.one_of(st.tuples(st.just(PUT), PARTS, VALUES), st.tuples(st.just(DELETE), PARTS))
PROPOSALS = st.tuples(st.lists(st.tuples(PARTS, st.integers(0, 6)), max_size=2), st.lists(OPS, max_size=4))
COMMANDS = st.lists(st.lists(PROPOSALS, max_size=3), max_size=6)


def put(state: State, index: int, *items: tuple[str, bytes]) -> None:
    state.apply(index, encode([([], [(PUT, key, value) for key, value in items])]))


def test_revisions_and_preconditions() -> None:
    state = State()
    put(state, 5, ("a", b"1"))
    assert state.get("a") == (b"1", 5)
    assert state.revision("nothing") == 0
    batch = encode(
        [
            ([("a", 5)], [(PUT, "a", b"2")]),
            ([("a", 5)], [(PUT, "a", b"3"), (PUT, "b", b"3")]),  # the one before has changed it
            ([("b", 0)], [(PUT, "b", b"4")]),
            ([("c", 0), ("a", 6)], [(DELETE, "a"), (DELETE, "missing")]),
        ]
    )
    assert state.apply(6, batch) == [6, "a", 6, 6]
    assert state.get("a") is None
    assert state.get("b") == (b"4", 6)


def test_a_failed_precondition_changes_nothing_at_all() -> None:
    state = State()
    put(state, 3, ("a", b"1"))
    before = dict(state.freeze())
    assert state.apply(4, encode([([("a", 3), ("b", 9)], [(PUT, "a", b"x"), (DELETE, "a"), (PUT, "z", b"x")])])) == [
        "b"
    ]
    assert dict(state.freeze()) == before


def test_a_frozen_copy_stays_as_it_was() -> None:
    state = State()
    put(state, 3, ("a", b"1"), ("b", b"1"))
    frozen = state.freeze()
    put(state, 4, ("a", b"2"), ("c", b"2"))
    assert dict(frozen) == {"a": (b"1", 3), "b": (b"1", 3)}


@settings(max_examples=300, deadline=None)
@given(COMMANDS, PARTS)
def test_state_against_a_dictionary(commands: list[list[Any]], prefix: str) -> None:
    state = State()
    model: dict[str, tuple[bytes, int]] = {}
    for index, proposals in enumerate(commands, 2):
        wanted: list[int | str] = []
        for preconditions, ops in proposals:
            failed = [k for k, r in preconditions if model.get(k, (b"", 0))[1] != r]
            if failed:
                wanted.append(failed[0])
                continue
            for op in ops:
                if op[0] == PUT:
                    model[op[1]] = (op[2], index)
                else:
                    model.pop(op[1], None)
            wanted.append(index)
        assert state.apply(index, encode(proposals)) == wanted
    assert dict(state.freeze()) == model
    assert len(state) == len(model)
    assert state.size == sum(len(k) + len(v) for k, (v, _) in model.items())
    assert list(state.keys(prefix)) == sorted(k for k in model if k.startswith(prefix))
    assert State.load(model.items()).size == state.size


@settings(max_examples=400, deadline=None)
@given(st.sets(PARTS, max_size=25), PARTS)
def test_children_skip_folders_but_nothing_else(keys: set[str], prefix: str) -> None:
    state = State.load((key, (b"", 1)) for key in keys)
    for at in {"", prefix, prefix + "/", *(k.rpartition("/")[0] + "/" for k in keys)}:
        naive = set()
        for key in keys:
            if key.startswith(at):
                head, slash, _ = key[len(at) :].partition("/")
                naive.add(head + slash)
        found = state.children(at)
        assert found == sorted(naive - {""})


def test_children_look_at_each_folder_once() -> None:
    state = State.load((f"a/{i % 5}/{i}", (b"", 1)) for i in range(20_000))
    looks = 0
    items = state._items

    class Counting:
        def keys_from(self, start: str) -> Any:
            nonlocal looks
            looks += 1
            return items.keys_from(start)

    state._items = Counting()  # type: ignore[assignment]
    assert state.children("a/") == [f"{i}/" for i in range(5)]
    assert looks <= 7


@settings(max_examples=100, deadline=None)
@given(COMMANDS)
def test_replay_is_deterministic_from_any_snapshot(commands: list[list[Any]]) -> None:
    whole = State()
    for index, proposals in enumerate(commands, 2):
        whole.apply(index, encode(proposals))
    half = State()
    for index, proposals in enumerate(commands[: len(commands) // 2], 2):
        half.apply(index, encode(proposals))
    again = State.load(half.freeze())
    for index, proposals in enumerate(commands[len(commands) // 2 :], 2 + len(commands) // 2):
        again.apply(index, encode(proposals))
    assert dict(again.freeze()) == dict(whole.freeze())
