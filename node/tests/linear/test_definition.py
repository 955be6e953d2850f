# SPDX-License-Identifier: Apache-2.0
"""The search against the definition: real histories are accepted, changed ones are judged as trying every order judges them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linear import Model, Operation, Register, Revisions, Versioned, check
from tests.linear.brute import linearizable
from tests.linear.generate import Shape, register, revisions, versioned

Generate = Callable[[Random, Shape], list[Operation]]
OBJECTS: dict[str, tuple[Generate, Model]] = {
    "register": (register, Register()),
    "versioned": (versioned, Versioned()),
    "revisions": (revisions, Revisions()),
}
SEEDS = st.integers(0, 2**32)
SHAPES = st.builds(
    Shape,
    clients=st.integers(1, 12),
    operations=st.integers(1, 80),
    values=st.sampled_from([0, 0, 2, 4]),
    lost=st.sampled_from([0.0, 0.05, 0.3]),
)
SMALL = st.builds(
    Shape,
    clients=st.integers(1, 3),
    operations=st.integers(1, 3),
    values=st.sampled_from([0, 1, 2]),
    lost=st.sampled_from([0.0, 0.3]),
)


@pytest.mark.parametrize("name", OBJECTS)
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, shape=SHAPES)
def test_what_a_real_object_does_is_accepted(name: str, seed: int, shape: Shape) -> None:
    generate, model = OBJECTS[name]
    assert check(model, generate(Random(seed), shape)) is None


def changed(random: Random, history: list[Operation]) -> list[Operation]:
    """The history with a lie in it: another's result, moved in time, an answer lost or an operation forgotten."""
    history = list(history)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(history))
        one, other = history[place], random.choice(history)
        match random.randrange(4):
            case 0:
                same = one.kind == other.kind and other.returned is not None
                history[place] = replace(one, result=other.result) if same else one
            case 1:
                shift = random.uniform(-3, 3)
                end = None if one.returned is None else one.returned + shift
                history[place] = replace(one, invoked=one.invoked + shift, returned=end)
            case 2:
                history[place] = replace(one, returned=None)
            case 3 if len(history) > 1:
                history.pop(place)
    return history


@pytest.mark.parametrize("name", OBJECTS)
@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, shape=SMALL)
def test_changed_histories_are_judged_as_the_definition_says(name: str, seed: int, shape: Shape) -> None:
    generate, model = OBJECTS[name]
    random = Random(seed)
    history = changed(random, generate(random, shape))[:6]
    found = check(model, history)
    assert (found is None) == linearizable(model, history), "\n".join(map(str, history))
    if found is not None:
        # The counterexample is one, and the shortest: before its last return everything could be explained.
        assert not linearizable(model, found.operations)
        end = found.last.returned
        before = [replace(o, returned=None) if o.returned == end else o for o in found.operations if o.invoked != end]
        assert linearizable(model, before)


class Plain(Model):
    """A model without the knowledge that lets the search give up early."""

    def __init__(self, model: Model) -> None:
        self.initial = model.initial
        self._model = model

    def step(self, state: object, operation: Operation) -> object:
        return self._model.step(state, operation)


@pytest.mark.parametrize("name", OBJECTS)
@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, values=st.sampled_from([0, 1, 2, 3]), lost=st.sampled_from([0.0, 0.2]))
def test_what_a_model_knows_changes_no_verdict(name: str, seed: int, values: int, lost: float) -> None:
    generate, model = OBJECTS[name]
    random = Random(seed)
    history = changed(random, generate(random, Shape(clients=4, operations=14, values=values, lost=lost)))
    assert (check(model, history) is None) == (check(Plain(model), history) is None), "\n".join(map(str, history))
