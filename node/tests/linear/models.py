# SPDX-License-Identifier: Apache-2.0
"""What one key is: the sequential object that a history is compared with.

A model must have `initial` and `step`. The other methods are knowledge that lets the search give up early; each may be left
as it is here. They must be true of the model, or the search would refuse good histories.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from tests.linear.operations import CAS, DELETE, READ, WRITE, Operation

UNREAD = "<a value that nobody read>"


class Model:
    """Base of all models. States are hashable and never None."""

    initial: Any

    def step(self, state: Any, operation: Operation) -> Any | None:
        """The state after `operation`; None when it cannot have had its result in `state`.

        With an unknown outcome (`returned` is None) the result is not looked at: the state if it does take effect.
        """
        raise ValueError(f"{type(self).__name__} does not know {operation.kind}")

    def passive(self, operation: Operation) -> bool:
        """True when it only looks: a step that leaves the state as it was has no effect on any other operation."""
        return False

    def view(self, state: Any) -> Hashable:
        """The part of the state that `needs` and `makes` speak of."""
        return None

    def needs(self, operation: Operation) -> Hashable:
        """The one view in which the operation is possible; None when that cannot be told."""
        return None

    def makes(self, operation: Operation) -> Hashable:
        """The view that the operation leads to; None when it leads to none that was there before."""
        return None

    def blind(self, operation: Operation) -> bool:
        """True when it is possible in every state and the state after it does not hang on the one before."""
        return False

    def excludes(self, operation: Operation) -> bool:
        """True when it is possible in all views but some: then `blind` operations can matter without being seen."""
        return False

    def rank(self, operation: Operation) -> float | None:
        """Operations with a rank happen in its order, none between two of the same being left out; None: any time."""
        return None

    def simplify(self, operations: Sequence[Operation]) -> list[Operation]:
        """The same history with fewer differences, where they cannot matter."""
        return list(operations)


class Register(Model):
    """An optional value, check-and-set by value. States: (value,), None for absent.

    read: result is the value. write: argument is the value. cas: argument (expected, new), result whether it was done.
    delete: absent afterwards, whatever there was.
    """

    def __init__(self, initial: Hashable = None) -> None:
        self.initial = (initial,)

    def step(self, state: Any, operation: Operation) -> Any | None:
        match operation.kind:
            case "read":
                return state if operation.returned is None or state[0] == operation.result else None
            case "write":
                return (operation.argument,)
            case "delete":
                return (None,)
            case "cas":
                expected, new = operation.argument
                if operation.returned is not None and not operation.result:
                    return state if state[0] != expected else None
                return (new,) if state[0] == expected else None
        return super().step(state, operation)

    def passive(self, operation: Operation) -> bool:
        return operation.kind == READ or self.excludes(operation)

    def excludes(self, operation: Operation) -> bool:
        return operation.kind == CAS and operation.returned is not None and not operation.result

    def view(self, state: Any) -> Hashable:
        return (state[0],)

    def needs(self, operation: Operation) -> Hashable:
        if operation.kind == READ:
            return (operation.result,)
        if operation.kind == CAS and not self.excludes(operation):
            return (operation.argument[0],)
        return None

    def makes(self, operation: Operation) -> Hashable:
        if operation.kind == WRITE:
            return (operation.argument,)
        if operation.kind == CAS and not self.excludes(operation):
            return (operation.argument[1],)
        return (None,) if operation.kind == DELETE else None

    def blind(self, operation: Operation) -> bool:
        return operation.kind in (WRITE, DELETE)

    def simplify(self, operations: Sequence[Operation]) -> list[Operation]:
        """Values that no read returned and no cas expected are all one."""
        seen = {o.result for o in operations if o.kind == READ}
        return _fold(operations, seen | {o.argument[0] for o in operations if o.kind == CAS})


class Versioned(Model):
    """A secret of kv version 2: every write makes the next version. States: (version, value); (0, None) before the first.

    read: result (version, value); value None when that version is deleted. write: argument the value, result the new version.
    cas: argument (expected version, value), result the new version, or None when another version was found.
    delete: of the latest version, which stays the latest.
    """

    initial = (0, None)

    def step(self, state: Any, operation: Operation) -> Any | None:
        version, _ = state
        known = operation.returned is not None
        match operation.kind:
            case "read":
                return state if not known or state == operation.result else None
            case "write":
                return (version + 1, operation.argument) if not known or operation.result == version + 1 else None
            case "delete":
                return (version, None)
            case "cas":
                expected, value = operation.argument
                if known and operation.result is None:
                    return state if version != expected else None
                if version != expected or (known and operation.result != version + 1):
                    return None
                return (version + 1, value)
        return super().step(state, operation)

    def _refused(self, operation: Operation) -> bool:
        return operation.kind == CAS and operation.returned is not None and operation.result is None

    def passive(self, operation: Operation) -> bool:
        return operation.kind == READ or self._refused(operation)

    def excludes(self, operation: Operation) -> bool:
        return self._refused(operation)

    def view(self, state: Any) -> Hashable:
        return int(state[0])

    def needs(self, operation: Operation) -> Any:
        result = operation.result
        if operation.kind == READ:
            return int(result[0])
        if operation.kind == CAS and not self._refused(operation):
            return operation.argument[0]
        return result - 1 if operation.kind == WRITE and operation.returned is not None else None

    def rank(self, operation: Operation) -> float | None:
        """Versions come in order."""
        if operation.returned is None or operation.kind not in (WRITE, CAS) or operation.result is None:
            return None
        return float(operation.result)

    def simplify(self, operations: Sequence[Operation]) -> list[Operation]:
        """Values that no read returned are all one."""
        return _fold(operations, {o.result[1] for o in operations if o.kind == READ})


class Revisions(Model):
    """A key of our storage: each write gets a revision, higher than all before, 0 for absent (Item in storage/types.py).

    States: (lowest, highest, value); the two revisions differ while only a later read can tell which one an unknown write got.
    read: result (revision, value), (0, None) when absent. write: argument the value, result the revision.
    cas: argument (expected revision, value), result the revision, or None when another revision was found.
    delete: result its revision, or None when that was not told; the key is absent afterwards.
    """

    initial = (0, 0, None)  # of an absent key: the revision of its deletion
    _TOP = 2**63

    def step(self, state: Any, operation: Operation) -> Any | None:
        known = operation.returned is not None
        result: Any = operation.result
        match operation.kind:
            case "read":
                return self._seen(state, *result) if known else state
            case "write":
                return self._written(state, operation.argument, result if known else None)
            case "delete":
                after = self._written(state, None, result if known else None)
                return after and (after[0], after[0], None)
            case "cas":
                expected, value = operation.argument
                if known and result is None:
                    # An unresolved revision is taken to differ: there is always another one it may have been.
                    return state if not (state[0] == state[1] and self._revision(state) == expected) else None
                found = self._found(state, expected)
                return found and self._written(found, value, result if known else None)
        return super().step(state, operation)

    @staticmethod
    def _revision(state: Any) -> int:
        return 0 if state[2] is None else int(state[0])

    def _found(self, state: Any, revision: int) -> Any | None:
        """The state, once it is known to have this revision."""
        lowest, highest, value = state
        if value is None:
            return state if revision == 0 else None
        return (revision, revision, value) if lowest <= revision <= highest and revision > 0 else None

    def _seen(self, state: Any, revision: int, value: Any) -> Any | None:
        return self._found(state, revision) if state[2] == value else None

    def _written(self, state: Any, value: Any, revision: int | None) -> Any | None:
        if revision is None:
            return (state[0] + 1, self._TOP, value)
        return (revision, revision, value) if revision > state[0] else None

    def passive(self, operation: Operation) -> bool:
        return operation.kind == READ or self.excludes(operation)

    def excludes(self, operation: Operation) -> bool:
        return operation.kind == CAS and operation.returned is not None and operation.result is None

    def view(self, state: Any) -> Hashable:
        return state[0] if state[0] == state[1] and state[2] is not None else None

    def needs(self, operation: Operation) -> Hashable:
        if operation.kind == READ:
            return operation.result[0] or None
        if operation.kind == CAS and not self.excludes(operation):
            return operation.argument[0] or None
        return None

    def rank(self, operation: Operation) -> float | None:
        """Revisions come in order."""
        if operation.returned is None or operation.kind == READ or operation.result is None:
            return None
        return float(operation.result)

    def simplify(self, operations: Sequence[Operation]) -> list[Operation]:
        """Values that no read returned are all one."""
        return _fold(operations, {o.result[1] for o in operations if o.kind == READ})


def _fold(operations: Sequence[Operation], seen: set[Hashable]) -> list[Operation]:
    """Write UNREAD for every value but those in `seen`, and None."""
    simple = []
    for operation in operations:
        argument: Any = operation.argument
        if operation.kind == WRITE and argument not in seen and argument is not None:
            operation = replace(operation, argument=UNREAD)
        elif operation.kind == CAS and argument[1] not in seen and argument[1] is not None:
            operation = replace(operation, argument=(argument[0], UNREAD))
        simple.append(operation)
    return simple
