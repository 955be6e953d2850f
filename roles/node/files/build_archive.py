# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the one archive that brings the node to hosts without internet. Runs on the controller, where pip is.

    python3 build_archive.py --target cp311-x86_64-glibc2.36 [--target ...] --cache DIR [--source node/] [--check]

A target is (Python, machine, libc) as probe.py finds it on a host. Every wheel comes from requirements.lock by its hash;
pysyncobj, which has no wheel, is built from its sdist, the node from C(--source), or taken as the wheel that lies beside
this file. The archive's name holds a hash of all that went into it, so an unchanged one is found in the cache.
Prints one JSON object: {"path", "version", "changed"}.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
EPOCH = "1767225600"  # fixed, so that the same sources make the same wheel
GLIBC = ((2, 5), (2, 12), (2, 17), (2, 24), (2, 26), (2, 27), (2, 28), (2, 31), (2, 34), (2, 35), (2, 38), (2, 39))
ADDED = ("install.py", "supervise.py")


class Failed(Exception):
    """Ends the run with one sentence."""


def build(targets: list[str], cache: pathlib.Path, source: pathlib.Path | None, check: bool) -> dict[str, object]:
    lock = (HERE / "requirements.lock").read_text()
    own = own_hash(source)
    parts = [lock.encode(), own.encode(), *[(HERE / name).read_bytes() for name in (*ADDED, "build_archive.py")]]
    key = hashlib.sha256(b"".join([*parts, " ".join(sorted(targets)).encode()])).hexdigest()[:8]
    # The environment's name has nothing of the targets: hosts of one kind need not change when another kind comes.
    version = f"{own_version(source)}-{hashlib.sha256(b''.join(parts)).hexdigest()[:8]}"
    path = cache / f"holdfast-node-{version}-{key}.tar"
    if path.exists() or check:
        return {"path": str(path), "version": version, "changed": not path.exists()}
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as work:
        wheels = pathlib.Path(work) / "wheels"
        wheels.mkdir()
        collect(lock, targets, source, wheels)
        if not list(wheels.glob("holdfast-*.whl")):
            raise Failed("the node's own wheel is not among those that were built")
        pip = next(wheels.glob("pip-*.whl"))
        partial = pathlib.Path(work) / "archive.tar"
        pack(partial, wheels, pip)
        os.replace(partial, path)
    return {"path": str(path), "version": version, "changed": True}


def collect(lock: str, targets: list[str], source: pathlib.Path | None, wheels: pathlib.Path) -> None:
    """Every wheel of every target, checked against the lock; then the two that are built here."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", lock))[1:]
    with tempfile.TemporaryDirectory() as work:
        binary, sdist = pathlib.Path(work, "binary.txt"), pathlib.Path(work, "sdist.txt")
        binary.write_text("".join(entry for entry in entries if not entry.startswith("pysyncobj")))
        sdist.write_text("".join(entry for entry in entries if entry.startswith("pysyncobj")))
        for target in targets:
            pip("download", "--no-deps", "--require-hashes", "-r", str(binary), "-d", str(wheels), *platform(target))
        pip("wheel", "--no-deps", "--require-hashes", "-r", str(sdist), "-w", str(wheels))
        if source is not None:
            pip("wheel", "--no-deps", str(source), "-w", str(wheels))
        else:
            (wheels / own_wheel().name).write_bytes(own_wheel().read_bytes())


def platform(target: str) -> list[str]:
    """pip's options for a target such as C(cp311-x86_64-glibc2.36)."""
    found = re.fullmatch(r"cp3(\d+)-(x86_64|aarch64)-(?:glibc2\.(\d+)|musl)", target)
    if found is None:
        raise Failed(f"there are no wheels for {target}; give node_archive a tar that you made for it")
    minor, machine, glibc = found.groups()
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version=3.{minor}", f"--abi=cp3{minor}", "--abi=abi3"]
    names = ["musllinux_1_1", "musllinux_1_2"]
    if glibc:
        names = ["manylinux1", "manylinux2010", "manylinux2014"]
        names += [f"manylinux_{major}_{least}" for major, least in GLIBC if least <= int(glibc)]
    return [*options, "--abi=none", *[f"--platform={name}_{machine}" for name in names]]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Failed(f"pip {arguments[0]} failed: {lines[-1] if lines else done.returncode}")


def own_hash(source: pathlib.Path | None) -> str:
    """Of the node's sources, or of its wheel."""
    digest = hashlib.sha256()
    if source is None:
        digest.update(own_wheel().read_bytes())
    else:
        files = [source / "pyproject.toml", *sorted((source / "src").rglob("*"))]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def own_version(source: pathlib.Path | None) -> str:
    if source is None:
        return own_wheel().name.split("-")[1]
    found = re.search(r'(?m)^version = "([^"]+)"', (source / "pyproject.toml").read_text())
    if found is None:
        raise Failed(f"{source / 'pyproject.toml'} names no version")
    return found[1]


def own_wheel() -> pathlib.Path:
    found = sorted(HERE.glob("holdfast-*.whl"))
    if not found:
        raise Failed(f"{HERE} holds no wheel of the node: run `make dist` in a checkout, or give node_archive a ready tar")
    return found[-1]


def pack(path: pathlib.Path, wheels: pathlib.Path, pip_wheel: pathlib.Path) -> None:
    """A plain tar in a fixed order, with a lock of exactly the wheels inside."""
    inside = sorted(file for file in wheels.iterdir() if file != pip_wheel)
    pinned: dict[str, list[str]] = {}
    for file in inside:
        name, version = file.name.split("-")[:2]
        pinned.setdefault(f"{name}=={version}", []).append(hashlib.sha256(file.read_bytes()).hexdigest())
    lock = "".join(f"{name} {' '.join('--hash=sha256:' + h for h in hashes)}\n" for name, hashes in sorted(pinned.items()))
    with tarfile.open(path, "w") as tar:
        for name in ADDED:
            add(tar, name, (HERE / name).read_bytes())
        add(tar, "requirements.lock", lock.encode())
        for file in (pip_wheel, *inside):
            add(tar, file.name if file == pip_wheel else f"wheels/{file.name}", file.read_bytes())


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, int(EPOCH)
    tar.addfile(info, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    # Absolute, so that pip cannot take a directory's name for that of a package in the index.
    source = options.source.resolve() if options.source and (options.source / "pyproject.toml").exists() else None
    try:
        print(json.dumps(build(sorted(set(options.target)), options.cache.resolve(), source, options.check)))
    except (Failed, OSError) as exc:
        sys.exit(f"the node's archive was not built: {exc}")


if __name__ == "__main__":
    main()
