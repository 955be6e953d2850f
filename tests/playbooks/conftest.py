# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole plays against real nodes on this machine, each cluster with a directory and ports of its own."""

from __future__ import annotations

import pathlib
import sys
import typing as t

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from local_cluster import LocalCluster, build_archive


@pytest.fixture(scope="session")
def archive() -> str:
    """The node's archive, built once, so that no change of the sources in between looks like an upgrade."""
    return build_archive(ROOT / ".state" / "cache")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, archive: str) -> t.Iterator[LocalCluster]:
    """A place for a cluster; whatever the tests leave there is stopped and removed."""
    found = LocalCluster(tmp_path_factory.mktemp("cluster"), archive)
    yield found
    if (found.state / "cluster").exists():
        found.clean()
