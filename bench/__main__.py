# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`: see bench.bench."""

import sys

from bench.bench import main

sys.exit(main())
