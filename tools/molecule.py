# SPDX-License-Identifier: GPL-3.0-or-later
"""`python tools/molecule.py test`: molecule, with free ports, a directory of its own and the node's archive built once."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

from local_cluster import ROOT, LocalCluster, build_archive, collections_path


def main() -> int:
    (ROOT / ".state").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".state", prefix="molecule-") as work:
        cluster = LocalCluster(pathlib.Path(work), build_archive(ROOT / ".state" / "cache"))
        binaries = str(pathlib.Path(sys.executable).parent)
        environment = {
            **cluster.environment,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "MOLECULE_EPHEMERAL_DIRECTORY": f"{work}/molecule",
        }
        where = collections_path() / "ansible_collections" / "holdfast" / "raft"
        return subprocess.run([f"{binaries}/molecule", *sys.argv[1:]], cwd=where, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
