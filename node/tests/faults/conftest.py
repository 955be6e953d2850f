# SPDX-License-Identifier: Apache-2.0
"""Clusters with TLS and a shim in every process; the seed of the run; long tests only when asked for."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cluster import FaultCluster, certificate
from tests.faults.judge import TOTALS
from tests.faults.shim import NoCompiler, build

LONG = os.environ.get("HOLDFAST_FAULTS") == "long"
SEED = int(os.environ.get("HOLDFAST_FAULTS_SEED") or random.SystemRandom().randrange(2**32))
HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes its time; runs with HOLDFAST_FAULTS=long only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without HOLDFAST_FAULTS=long the long tests are left out."""
    if LONG:
        return
    left_out = [i for i in items if i.path.is_relative_to(HERE) and i.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [i for i in items if i not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOTALS.clusters:
        terminalreporter.write_line(f"faults: {TOTALS}; HOLDFAST_FAULTS_SEED={SEED}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test; printed, so that it is in the report of a failure."""
    print(f"HOLDFAST_FAULTS_SEED={SEED} {'HOLDFAST_FAULTS=long ' if LONG else ''}{request.node.nodeid}")
    return SEED


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    """How often: (in the ordinary run, in the long one)."""
    return lambda ordinary, long: long if LONG else ordinary


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., FaultCluster]]:
    """Builds clusters with both mounts; every process is gone afterwards."""
    made: list[FaultCluster] = []

    def build_one(count: int, library: Path | None = None, **more: Any) -> FaultCluster:
        tls = certificate(tmp_path, ["127.0.0.1"])
        cluster = FaultCluster(tmp_path / f"cluster{len(made)}", tls, library, **more)
        made.append(cluster)
        cluster.build(count)
        cluster.mount()
        return cluster

    yield build_one
    for cluster in made:
        cluster.close()
