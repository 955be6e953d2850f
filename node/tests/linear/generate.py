# SPDX-License-Identifier: Apache-2.0
"""Histories of a real object: clients overlap, each call takes effect once at a random moment inside, some never hear of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.linear.operations import CAS, DELETE, READ, WRITE, Operation


@dataclass(frozen=True, slots=True)
class Shape:
    """How a history looks. `values`: distinct values to write, 0 for a fresh one each time; `lost`: share of lost answers."""

    clients: int = 4
    operations: int = 40
    values: int = 0
    lost: float = 0.05
    kinds: tuple[str, ...] = (READ, READ, WRITE, CAS, DELETE)


def register(random: Random, shape: Shape, key: str = "k") -> list[Operation]:
    """A history for `Register`."""

    def act(kind: str, argument: Any) -> Any:
        before = cell[0]
        if kind == READ:
            return before
        if kind == CAS:
            if before != argument[0]:
                return False
            cell[0] = argument[1]
            return True
        cell[0] = argument if kind == WRITE else None
        return None

    cell: list[Any] = [None]
    return _run(random, shape, key, act, lambda: cell[0])


def versioned(random: Random, shape: Shape, key: str = "k") -> list[Operation]:
    """A history for `Versioned`."""

    def act(kind: str, argument: Any) -> Any:
        version, _ = cell[0]
        if kind == READ:
            return cell[0]
        if kind == DELETE:
            cell[0] = (version, None)
            return None
        if kind == CAS and argument[0] != version:
            return None
        cell[0] = (version + 1, argument[1] if kind == CAS else argument)
        return version + 1

    cell: list[Any] = [(0, None)]
    return _run(random, shape, key, act, lambda: cell[0][0])


def revisions(random: Random, shape: Shape, key: str = "k") -> list[Operation]:
    """A history for `Revisions`; other keys take revisions too."""

    def act(kind: str, argument: Any) -> Any:
        if kind == READ:
            return cell[0]
        if kind == CAS and argument[0] != cell[0][0]:
            return None
        clock[0] += random.randint(1, 3)
        cell[0] = (0, None) if kind == DELETE else (clock[0], argument[1] if kind == CAS else argument)
        return clock[0]

    cell: list[Any] = [(0, None)]
    clock = [1]
    return _run(random, shape, key, act, lambda: cell[0][0])


def _run(random: Random, shape: Shape, key: str, act: Any, expect: Any) -> list[Operation]:
    history: list[Operation] = []
    now, made = 0.0, 0
    # Each client: (when its next moment comes, what it is: idle, called or done, its operation)
    clients: list[tuple[float, str, Operation | None]] = [(random.random(), "idle", None)] * shape.clients
    while len(history) < shape.operations:
        number = min(range(shape.clients), key=lambda n: clients[n][0])
        now, phase, operation = clients[number]
        if phase == "idle":
            kind = random.choice(shape.kinds)
            made += 1
            value = random.randrange(shape.values) if shape.values else made
            argument = {READ: None, DELETE: None, WRITE: value}.get(kind, (expect(), value))
            operation, phase = Operation(f"c{number}", key, kind, argument, None, now, None), "called"
        elif phase == "called":
            assert operation is not None
            if random.random() < shape.lost:  # crashed: it may still take effect, much later
                history.append(operation)
                if random.random() < 0.5:
                    clients.append((now + random.random() * 20, "ghost", operation))
                operation, phase = None, "idle"
            else:
                operation, phase = replace(operation, result=act(operation.kind, operation.argument)), "done"
        elif phase == "ghost":
            assert operation is not None
            act(operation.kind, operation.argument)
            clients.pop(number)
            continue
        else:
            assert operation is not None
            history.append(replace(operation, returned=now))
            operation, phase = None, "idle"
        clients[number] = (now + random.random(), phase, operation)
    # What others had under way, and may have done, is a lost answer too.
    history += [o for _, phase, o in clients[: shape.clients] if o is not None and phase != "idle"]
    return history
