# SPDX-License-Identifier: Apache-2.0
"""pysyncobj: only the proven source, and never an unpickled byte."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.consensus import seam

SOURCE = Path(__file__).parents[3] / "src"


@pytest.mark.parametrize("name", sorted(seam._SOURCES))
def test_a_source_that_differs_in_one_byte_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("pysyncobj")
    assert spec is not None
    assert spec.origin is not None
    copy = tmp_path / "pysyncobj"
    shutil.copytree(Path(spec.origin).parent, copy)
    other = importlib.util.spec_from_file_location("pysyncobj", copy / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: other)
    seam._verify()
    target = copy / f"{name}.py"
    target.write_bytes(target.read_bytes() + b"\n")
    with pytest.raises(ImportError, match=rf"pysyncobj/{name}\.py is not the source of release 0\.3\.17"):
        seam._verify()
    changed = dict(seam._SOURCES) | {name: hashlib.sha256(target.read_bytes()).hexdigest()}
    seam._verify(changed)  # it is the hash that decides
    target.unlink()
    with pytest.raises(ImportError, match=r"install exactly pysyncobj==0\.3\.17"):
        seam._verify()


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ImportError, match="not installed"):
        seam._verify()


def test_every_module_with_code_that_runs_is_verified() -> None:
    """Whatever of pysyncobj is loaded and has code of its own is in the table, or is never used by us."""
    loaded = {n.partition(".")[2] for n in sys.modules if n.startswith("pysyncobj.")}
    inert = {"atomic_replace", "dns_resolver", "encryptor", "fast_queue", "monotonic", "pipe_notifier", "poller"}
    inert |= {"tcp_connection", "tcp_server", "utility", "version", "win_inet_pton", "revision", "debug_utils"}
    assert loaded - inert - set(seam._SOURCES) == set()


def test_no_name_of_pickle_is_left_in_pysyncobj() -> None:
    found = 0
    for name, module in sorted(sys.modules.items()):
        if name != "pysyncobj" and not name.startswith("pysyncobj."):
            continue
        for attribute in ("pickle", "cPickle"):
            if hasattr(module, attribute) and name != "pysyncobj":
                value = getattr(module, attribute)
                found += 1
                with pytest.raises(RuntimeError, match="pickle is switched off"):
                    value.loads(b"x")
                with pytest.raises(RuntimeError, match="pickle is switched off"):
                    value.dumps(1)
        for attribute in ("loads", "load", "dumps", "dump", "Unpickler", "Pickler"):
            if hasattr(module, attribute):
                found += 1
                with pytest.raises(RuntimeError, match="pickle is switched off"):
                    getattr(module, attribute)(b"x")
    assert found >= 4


def test_the_node_works_where_unpickling_raises(tmp_path: Path) -> None:
    """`import holdfast.node`, then a whole server's life, in a process in which every way to unpickle raises."""
    code = f"""
import pickle, _pickle
def no(*args, **kwargs):
    raise RuntimeError("something was unpickled")
for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, no)
pickle._loads = pickle._load = no
pickle._Unpickler.load = no  # the class itself is named when pysyncobj is imported
import asyncio, pathlib
import holdfast.node
from holdfast.core.cluster_ca import ClusterCa, new_request
from holdfast.storage.raft import RaftSettings, RaftStorage
from holdfast.storage.types import Identity, Put
async def main():
    key, csr = new_request("n1")
    ca = ClusterCa.generate("cl")
    settings = RaftSettings(pathlib.Path({str(tmp_path)!r}), "n1", ("127.0.0.1", 0), "127.0.0.1:1", "http://x", "1")
    storage = RaftStorage(settings)
    await storage.bootstrap(Identity("cl", "n1", ca.cert_pem, ca.sign(csr, "n1"), key))
    await storage.commit([Put("a", b"1")])
    await storage.stop()
    storage = RaftStorage(settings)
    await storage.start()
    print(storage.get("a").value)
    await storage.stop()
asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "b'1'\n"
