# SPDX-License-Identifier: Apache-2.0
"""The definition of linearizability, word for word: every order of every choice of operations is tried. For a few operations only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

from tests.linear.models import Model
from tests.linear.operations import Operation


def linearizable(model: Model, operations: Sequence[Operation]) -> bool:
    """Whether some order of all finished operations and some of the unknown ones keeps real time and gives the results."""
    finished = [o for o in operations if o.returned is not None]
    unknown = [o for o in operations if o.returned is None]
    return any(
        _keeps_time(order) and _explained(model, order)
        for count in range(len(unknown) + 1)
        for chosen in combinations(unknown, count)
        for order in permutations([*finished, *chosen])
    )


def _keeps_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.returned is not None and later.returned < earlier.invoked
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def _explained(model: Model, order: Sequence[Operation]) -> bool:
    state: Any = model.initial
    for operation in order:
        state = model.step(state, operation)
        if state is None:
            return False
    return True
