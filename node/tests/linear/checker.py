# SPDX-License-Identifier: Apache-2.0
"""Checks a history key by key (linearizability is local) and shows the shortest beginning that cannot be explained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.linear.models import Model
from tests.linear.operations import Operation
from tests.linear.search import Search

LIMIT = 5_000_000  # steps of one search; a step takes some microseconds
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A key that no single copy can explain, and its history up to the first return that cannot be explained.

    In `operations`, what had not returned by then has an unknown outcome; the last one in time to return is `last`.
    """

    key: str
    operations: tuple[Operation, ...]
    last: Operation

    def __str__(self) -> str:
        shown = [o for o in self.operations if o is not self.last][-_SHOWN:]
        left_out = len(self.operations) - 1 - len(shown)
        lines = [f"the history of {self.key!r} is not linearizable; no order explains its last result:"]
        lines += [f"  ({left_out} earlier operations)"] if left_out else []
        lines += [f"  {o}" for o in shown]
        return "\n".join([*lines, f"> {self.last}"])


def check(model: Model, history: Iterable[Operation], limit: int = LIMIT) -> Counterexample | None:
    """None when every key's operations are linearizable, else the first key's counterexample. Raises Undecided, ValueError.

    `limit` bounds the steps of one search; too many concurrent operations without distinct values may need very many.
    """
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        if operation.returned is not None and operation.returned < operation.invoked:
            raise ValueError(f"returned before it was invoked: {operation}")
        keys.setdefault(operation.key, []).append(operation)
    for key in sorted(keys):
        operations = sorted(keys[key], key=lambda o: o.invoked)
        if not Search(model, operations, limit).run():
            return _shortest(model, key, operations, limit)
    return None


def _until(operations: list[Operation], end: float) -> list[Operation]:
    """What an observer had seen by `end`: what returned later has an unknown outcome. Explicable as long as the whole is."""
    begun = [o for o in operations if o.invoked <= end]
    return [replace(o, returned=None) if o.returned is not None and o.returned > end else o for o in begun]


def _shortest(model: Model, key: str, operations: list[Operation], limit: int) -> Counterexample:
    """By bisection: once a beginning cannot be explained, no longer one can."""
    ends = sorted({o.returned for o in operations if o.returned is not None})
    low, high = 0, len(ends) - 1  # the beginning up to ends[high] is known to be bad
    while low < high:
        middle = (low + high) // 2
        if Search(model, _until(operations, ends[middle]), limit).run():
            low = middle + 1
        else:
            high = middle
    prefix = _until(operations, ends[high])
    last = max((o for o in prefix if o.returned is not None), key=lambda o: o.returned or 0.0)
    return Counterexample(key, tuple(prefix), last)
