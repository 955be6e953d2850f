# SPDX-License-Identifier: GPL-3.0-or-later
"""What brings the node to a host: the archive's builder, the installer and the probe. (The plays use all three for real.)"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import types
import typing as t

import pytest

FILES = pathlib.Path(__file__).resolve().parents[3] / "roles" / "node" / "files"
SOURCE = FILES.parents[2] / "node"


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def builder() -> types.ModuleType:
    return load("build_archive")


def test_platforms_of_a_target(builder: types.ModuleType) -> None:
    options = builder.platform("cp311-x86_64-glibc2.36")
    assert "--python-version=3.11" in options
    assert "--platform=manylinux_2_28_x86_64" in options
    assert "--platform=manylinux_2_38_x86_64" not in options, "a wheel for a newer C library than the host's"
    assert "--platform=musllinux_1_2_aarch64" in builder.platform("cp313-aarch64-musl")
    for target in ("cp311-riscv64-glibc2.36", "cp27-x86_64-glibc2.36", "rubbish"):
        with pytest.raises(builder.Failed, match="no wheels for"):
            builder.platform(target)


def fill(lock: str, targets: list[str], source: pathlib.Path, wheels: pathlib.Path) -> None:
    for name in ("pip-26.2-py3-none-any.whl", "holdfast-2-py3-none-any.whl", "a-1-cp311-x.whl", "a-1-cp312-x.whl"):
        (wheels / name).write_bytes(name.encode())


@pytest.fixture
def built(builder: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, t.Any]:
    monkeypatch.setattr(builder, "collect", fill)
    return t.cast("dict[str, t.Any]", builder.build(["cp311-x86_64-glibc2.36"], tmp_path, SOURCE, False))


def test_archive(builder: types.ModuleType, built: dict[str, t.Any], tmp_path: pathlib.Path) -> None:
    assert built["changed"]
    with tarfile.open(built["path"]) as tar:
        names = tar.getnames()
        lock = tar.extractfile("requirements.lock").read().decode()  # type: ignore[union-attr]
    assert names[:4] == ["install.py", "supervise.py", "requirements.lock", "pip-26.2-py3-none-any.whl"]
    assert sorted(names[4:]) == ["wheels/a-1-cp311-x.whl", "wheels/a-1-cp312-x.whl", "wheels/holdfast-2-py3-none-any.whl"]
    digest = hashlib.sha256(b"a-1-cp312-x.whl").hexdigest()
    assert re.search(rf"(?m)^a==1 --hash=sha256:\w+ --hash=sha256:{digest}$|^a==1 --hash=sha256:{digest} ", lock)
    content = pathlib.Path(built["path"]).read_bytes()
    assert builder.build(["cp311-x86_64-glibc2.36"], tmp_path, SOURCE, False) == {**built, "changed": False}
    os.unlink(built["path"])
    builder.build(["cp311-x86_64-glibc2.36"], tmp_path, SOURCE, False)
    assert pathlib.Path(built["path"]).read_bytes() == content, "the same sources make the same archive"
    assert list(tmp_path.glob(".build-*")) == []


def test_another_target_is_another_archive_of_the_same_version(
    builder: types.ModuleType, built: dict[str, t.Any], tmp_path: pathlib.Path
) -> None:
    other = builder.build(["cp311-x86_64-glibc2.36", "cp312-x86_64-glibc2.39"], tmp_path, SOURCE, True)
    assert other["changed"]
    assert other["path"] != built["path"]
    assert other["version"] == built["version"]
    assert not os.path.exists(other["path"]), "check builds nothing"


def test_the_lock_pins_what_the_node_needs() -> None:
    lock = (FILES / "requirements.lock").read_text()
    pinned = dict(re.findall(r"(?m)^([A-Za-z0-9_-]+)==([^ ]+) \\$", lock))
    wanted = re.search(r"(?ms)^dependencies = \[(.*?)^\]", (SOURCE / "pyproject.toml").read_text())
    assert wanted is not None
    for name, version in re.findall(r'"([A-Za-z0-9_.-]+)==([^"]+)"', wanted[1]):
        assert pinned.get(name) == version, f"{name}: run make lock"
    assert "pip" in pinned
    assert not re.search(r"(?m)^(?!#)(?!\s+--hash=sha256:[0-9a-f]{64}( \\)?$)(?![\w-]+==\S+ \\$).+$", lock)


def test_a_host_without_the_wheels_is_left_as_it_was(tmp_path: pathlib.Path) -> None:
    archive = tmp_path / "empty.tar"
    tarfile.open(archive, "w").close()
    command = [sys.executable, "-I", str(FILES / "install.py"), str(tmp_path / "opt"), "1", "--archive", str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no archive of the node" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "opt" / "current").exists()
    checked = subprocess.run([*command[:5], "--check"], capture_output=True, text=True, check=True)
    assert json.loads(checked.stdout)["changed"] is True


def test_probe(tmp_path: pathlib.Path) -> None:
    (tmp_path / "opt" / "1-abi").mkdir(parents=True)
    (tmp_path / "opt" / "1-abi" / ".complete").touch()
    (tmp_path / "opt" / "2-abi").mkdir()
    (tmp_path / "opt" / "current").symlink_to("1-abi")
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o640)
    wish = {"prefix": str(tmp_path / "opt"), "paths": [str(tmp_path / "file"), "/no/such"], "unit": "none", "state_file": "/none"}
    seen = json.loads(subprocess.check_output([sys.executable, str(FILES / "probe.py"), json.dumps(wish)]))
    assert (seen["complete"], seen["current"], seen["running"]) == (["1-abi"], "1-abi", {})
    assert seen["python"] == list(sys.version_info[:3])
    assert re.fullmatch(r"cp3\d+-\w+-(glibc2\.\d+|musl)", seen["target"])
    found = seen["paths"][str(tmp_path / "file")]
    assert (found["mode"], found["sha256"]) == ("0640", hashlib.sha256(b"x").hexdigest())
    assert seen["paths"]["/no/such"] == {}


def test_a_relative_source_is_the_directory_and_no_package_of_that_name(
    builder: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is called "node", and so is a package in the index."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(builder, "pip", lambda *arguments: asked.append(arguments))
    monkeypatch.chdir(SOURCE.parent)
    monkeypatch.setattr(sys, "argv", ["x", "--target", "cp311-x86_64-glibc2.36", "--cache", str(tmp_path), "--source", "node"])
    with pytest.raises(SystemExit, match="own wheel is not among"):
        builder.main()
    assert [call[2] for call in asked if call[:2] == ("wheel", "--no-deps") and call[2] != "--require-hashes"] == [str(SOURCE)]
