# SPDX-License-Identifier: Apache-2.0
"""The list of mutants, and how one is tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.consensus.types import JournalError
from tests.sim.checks import Violation
from tests.sim.scenario import run

Patch = pytest.MonkeyPatch
MUTANTS: dict[str, tuple[str, Callable[[Patch], None]]] = {}


def mutant(fault: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a mutant; `fault` is the B-number or the promise it attacks."""

    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS[apply.__name__] = (fault, apply)
        return apply

    return register


def seeds_to_catch(apply: Callable[[Patch], None], limit: int) -> tuple[int, str] | None:
    """(seeds run, what was violated), or None when `limit` seeds passed."""
    with pytest.MonkeyPatch.context() as patch:
        apply(patch)
        for seed in range(1, limit + 1):
            try:
                run(seed)
            except (Violation, JournalError, FileNotFoundError) as error:
                return seed, str(error).split("\n")[0]
            except Exception:
                continue
    return None
