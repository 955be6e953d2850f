# SPDX-License-Identifier: Apache-2.0
"""Hands a simulated history to the linearizability checker of tests/linear: each key is a register of numbers, 0 at first."""

from __future__ import annotations

from collections.abc import Sequence

from tests import linear
from tests.linear.operations import CAS as LINEAR_CAS
from tests.linear.operations import READ as LINEAR_READ
from tests.linear.operations import WRITE as LINEAR_WRITE
from tests.sim import checks
from tests.sim.checks import Violation


def check(history: Sequence[checks.Operation]) -> None:
    """Raises Violation when no order of the operations explains what clients were told."""
    operations = [o for number, one in enumerate(history) if (o := _translate(number, one)) is not None]
    found = linear.check(linear.Register(0), operations)
    if found is not None:
        raise Violation(str(found))


def _translate(number: int, one: checks.Operation) -> linear.Operation | None:
    if one.ok is False or (one.kind == checks.READ and one.ok is None):
        return None  # it surely had no effect, or showed nothing
    returned = float(one.returned) if one.ok and one.returned is not None else None
    process, invoked = f"c{number}", float(one.invoked)
    if one.kind == checks.READ:
        return linear.Operation(process, one.key, LINEAR_READ, None, one.value, invoked, returned)
    if one.kind == checks.WRITE:
        return linear.Operation(process, one.key, LINEAR_WRITE, one.value, None, invoked, returned)
    argument = (one.expected, one.value)
    return linear.Operation(process, one.key, LINEAR_CAS, argument, one.found, invoked, returned)
