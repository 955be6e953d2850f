# SPDX-License-Identifier: Apache-2.0
"""Print the table of mutants; exit 1 when one survived."""

from __future__ import annotations

import logging
import sys

from tests.sim.mutants import MUTANTS, seeds_to_catch

LIMIT = 300


def main() -> int:
    """Try the named mutants, or all."""
    logging.disable()
    names = sys.argv[1:] or list(MUTANTS)
    survived = 0
    print("| mutant | attacks | seeds | caught by |\n|---|---|---|---|")
    for name in names:
        fault, apply = MUTANTS[name]
        found = seeds_to_catch(apply, LIMIT)
        survived += found is None
        seeds, what = found if found else (f"more than {LIMIT}", "nothing")
        print(f"| {name.replace('_', ' ')} | {fault} | {seeds} | {what[:90]} |", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
