# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.harness import LocalCluster


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[[int], LocalCluster]]:
    """Builds clusters; every process is gone afterwards."""
    made: list[LocalCluster] = []

    def build(count: int = 3) -> LocalCluster:
        cluster = LocalCluster(tmp_path / f"c{len(made)}")
        made.append(cluster)
        return cluster.build(count)

    yield build
    for cluster in made:
        cluster.close()
