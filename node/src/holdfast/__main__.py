# SPDX-License-Identifier: Apache-2.0
"""`python -m holdfast` and the console script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its status."""
    from holdfast.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
