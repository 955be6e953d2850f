# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.sim FIRST [LAST]`: run seeds and print what they did; a failing seed is printed to be replayed."""

from __future__ import annotations

import logging
import sys
import time
import traceback

from tests.sim.scenario import run


def main() -> int:
    """Run the seeds; 1 when any failed."""
    logging.disable()  # what the servers report is part of the run
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first
    failed = []
    started = time.monotonic()
    for seed in range(first, last + 1):
        try:
            world = run(seed)
        except Exception as error:
            failed.append(seed)
            where = traceback.format_exc() if first == last else ""
            print(f"seed {seed}: {type(error).__name__}: {error}\n{where}")
            continue
        if first == last or seed % 50 == 0:
            checks = world.checks
            print(
                f"seed {seed}: {len(checks.acked)} acknowledged, {checks.reads} reads, {checks.last_committed} entries, "
                f"{len(checks.leaders)} terms, {checks.restores} restores"
            )
    took = time.monotonic() - started
    print(f"{last - first + 1} seeds in {took:.1f} s, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
