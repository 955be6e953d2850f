# SPDX-License-Identifier: Apache-2.0
"""Looks for an order of one key's operations in which each had the result it had (Wing & Gong 1993, Lowe 2017).

Depth first: of the operations that nothing unplaced precedes, place one, and so on; back when none fits. Lowe: never look twice at
the same set of placed operations with the same state. Ours, each proved where it is used: operations that only look are placed
at once, equal ones in the order of their deadlines, finished writes that nobody can miss for good, and what is placed of
operations with unknown outcomes is compared as a set: the fewer, the better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.linear.models import Model
from tests.linear.operations import Operation


class Undecided(Exception):
    """The limit of steps is used up."""


@dataclass(slots=True)
class _Frame:
    """A placed operation, and what else could have been placed instead (the last one is tried next)."""

    operation: int
    before: Any  # the state before it
    rank: int
    others: list[tuple[int, Any]]
    blind: bool = False  # may become final, see `_settle`


@dataclass(slots=True)
class _Facts:
    """What the model says of the operations, worked out once; by number of the operation."""

    needs: list[Hashable]
    makes: list[Hashable]
    passive: list[bool]
    blind: list[bool]
    kinds: list[int]  # equal for operations that do the same


class Search:
    """One search. `operations` are those of one key."""

    def __init__(self, model: Model, operations: Sequence[Operation], limit: int) -> None:
        self._model = model
        self._left = limit
        # A look with an unknown outcome says nothing and does nothing.
        kept = [o for o in operations if o.returned is not None or not model.passive(o)]
        self._operations = sorted(model.simplify(kept), key=lambda o: o.invoked)
        self._facts = self._learn()
        self._finished = sum(1 << i for i, o in enumerate(self._operations) if o.returned is not None)
        self._remaining = self._finished.bit_count()
        self._link()
        facts = self._facts
        done = [o.returned is not None for o in self._operations]
        self._needed = Counter(n for n, d in zip(facts.needs, done, strict=True) if d and n is not None)
        self._wanted = Counter(n for n in facts.needs if n is not None)  # also by those that may never happen
        self._makers = Counter(m for m in facts.makes if m is not None)
        self._excluding = sum(map(model.excludes, self._operations)) > 0

    def _learn(self) -> _Facts:
        model, operations = self._model, self._operations
        kinds: dict[Hashable, int] = {}
        numbers = []
        for o in operations:
            result = None if o.returned is None else (o.result,)
            numbers.append(kinds.setdefault((o.kind, o.argument, result), len(kinds)))
        facts = _Facts(
            [model.needs(o) for o in operations],
            [model.makes(o) for o in operations],
            [model.passive(o) for o in operations],
            [o.returned is not None and model.blind(o) for o in operations],
            numbers,
        )
        ranked = [(r, i) for i, o in enumerate(operations) if (r := model.rank(o)) is not None]
        self._order = sorted(r for r, _ in ranked)
        self._rank_of = {i: r for r, i in ranked}
        return facts

    def _link(self) -> None:
        """Invocations (number i) and returns (number i + count) as a linked list in the order of time, -1 at both ends.

        What happens at the same moment overlaps: invocations come first.
        """
        count = len(self._operations)
        events = [(o.invoked, 0, i) for i, o in enumerate(self._operations)]
        events += [(o.returned, 1, i + count) for i, o in enumerate(self._operations) if o.returned is not None]
        nodes = [node for _, _, node in sorted(events)]
        self._next, self._previous = [-1] * (2 * count + 1), [-1] * (2 * count + 1)  # the head is the last place: -1
        for left, right in zip([-1, *nodes], [*nodes, -1], strict=True):
            self._next[left], self._previous[right] = right, left

    def _lift(self, node: int) -> None:
        left, right = self._previous[node], self._next[node]
        self._next[left], self._previous[right] = right, left

    def _unlift(self, node: int) -> None:
        self._next[self._previous[node]] = self._previous[self._next[node]] = node

    def _candidates(self, state: Any, rank: int) -> list[tuple[int, Any]]:
        """Operations that can be next, with the state after them, the most promising last."""
        facts, operations, model = self._facts, self._operations, self._model
        count = len(operations)
        found: dict[int, tuple[float, int, Any]] = {}
        node = self._next[-1]
        view = model.view(state)
        # What is still needed of this view must come before it is left for good.
        stays = self._needed[view] > 0
        while 0 <= node < count:
            own = self._rank_of.get(node)
            if own is None or own == self._order[rank]:
                operation = operations[node]
                after = model.step(state, operation)
                if after is not None:
                    if after == state and facts.passive[node]:
                        return [(node, state)]  # moving it to the front of any order changes no other result
                    leaves = stays and model.view(after) != view
                    if leaves:
                        alone = operation.returned is not None and facts.needs[node] == view
                        leaves = self._needed[view] > alone and not self._makers[view]
                    if not leaves:
                        end = float("inf") if operation.returned is None else operation.returned
                        # Of two that do the same, the one whose time ends first: the two can be exchanged in any order.
                        known = found.get(facts.kinds[node])
                        if known is None or end < known[0]:
                            found[facts.kinds[node]] = (end, node, after)
            node = self._next[node]
        ordered = sorted(found.values(), key=lambda item: item[0], reverse=True)
        return [(node, after) for _, node, after in ordered]

    def _place(self, node: int) -> None:
        self._lift(node)
        facts = self._facts
        finished = self._operations[node].returned is not None
        if (need := facts.needs[node]) is not None:
            self._wanted[need] -= 1
            self._needed[need] -= finished
        if (make := facts.makes[node]) is not None:
            self._makers[make] -= 1
        if finished:
            self._lift(node + len(self._operations))
            self._remaining -= 1

    def _take_back(self, node: int) -> None:
        facts = self._facts
        finished = self._operations[node].returned is not None
        if finished:
            self._remaining += 1
            self._unlift(node + len(self._operations))
        if (make := facts.makes[node]) is not None:
            self._makers[make] += 1
        if (need := facts.needs[node]) is not None:
            self._wanted[need] += 1
            self._needed[need] += finished
        self._unlift(node)

    def _settle(self, stack: list[_Frame], state: Any) -> None:
        """Forget the alternatives to the last blind write once nothing unplaced wants its view, nor the one before it.

        In any order that works from there, the write and the operations that saw it can be moved to the front together: what
        followed them cannot have needed their view, so it was blind itself, or needs what something later makes; and the same
        holds of what comes first.
        """
        if self._wanted[self._model.view(state)]:
            return
        for frame in reversed(stack):
            if frame.blind:
                frame.others.clear()
                return
            if not self._facts.passive[frame.operation]:
                return

    def run(self) -> bool:
        """True when there is an order. Raises Undecided."""
        model, facts = self._model, self._facts
        state, rank, placed = model.initial, 0, 0
        seen: dict[tuple[int, Any], list[int]] = {}
        stack: list[_Frame] = []
        others = self._candidates(state, rank)
        while self._remaining:
            while not others:
                if not stack:
                    return False
                frame = stack.pop()
                state, rank, others = frame.before, frame.rank, frame.others
                placed &= ~(1 << frame.operation)
                self._take_back(frame.operation)
            node, after = others.pop()
            self._left -= 1
            if self._left < 0:
                raise Undecided("no order of the operations was found or excluded within the limit of steps")
            now = placed | 1 << node
            if not _new(seen, (now & self._finished, after), now & ~self._finished):
                continue
            before = model.view(state)
            blind = facts.blind[node] and not self._excluding and not self._wanted[before]
            stack.append(_Frame(node, state, rank, others, blind))
            self._place(node)
            rank += node in self._rank_of
            placed, state = now, after
            if blind or facts.passive[node]:
                self._settle(stack, state)
            others = self._candidates(state, rank)
        return True


def _new(seen: dict[tuple[int, Any], list[int]], key: tuple[int, Any], unknown: int) -> bool:
    """Note a configuration; False when one as good was seen: the same, with no more of the unknown operations used up."""
    known = seen.get(key)
    if known is None:
        seen[key] = [unknown]
        return True
    if any(other & unknown == other for other in known):
        return False
    known[:] = [other for other in known if other & unknown != unknown]
    known.append(unknown)
    return True
