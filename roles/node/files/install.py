# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs the node on a host that has Python 3.11 or later and nothing else: no internet, no pip, no ensurepip.

    python3 -I install.py PREFIX VERSION [--archive FILE] [--check]

Without --archive it installs from the directory it lies in (an unpacked archive). The environment is
PREFIX/VERSION-SOABI; PREFIX/current points to it. Running it again changes nothing. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv

MARK = ".complete"
LEAST = (3, 11)


class Failed(Exception):
    """Ends the run with one sentence."""


def install(prefix: pathlib.Path, version: str, archive: pathlib.Path | None, check: bool) -> bool:
    """Whether anything changed (would change, with C(check))."""
    if sys.version_info < LEAST:
        raise Failed(f"Python {sys.version.split()[0]} at {sys.executable} is too old: 3.11 or later is needed")
    target = prefix / f"{version}-{sysconfig.get_config_var('SOABI')}"
    current = prefix / "current"
    if check:
        return not ((target / MARK).exists() and current.resolve() == target)
    prefix.mkdir(parents=True, exist_ok=True)
    with open(prefix / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several instances of one host may install at the same time
        changed = False
        if not (target / MARK).exists():
            shutil.rmtree(target, ignore_errors=True)  # what an interrupted run left
            fill(target, prefix, archive)
            changed = True
        if current.resolve() != target:
            temporary = prefix / ".current"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target.name)
            os.replace(temporary, current)
            changed = True
        if archive is not None:
            archive.unlink(missing_ok=True)
    return changed


def fill(target: pathlib.Path, prefix: pathlib.Path, archive: pathlib.Path | None) -> None:
    """Makes the environment and puts the mark into it last."""
    if archive is None:
        populate(target, pathlib.Path(__file__).resolve().parent)
    else:
        with tempfile.TemporaryDirectory(dir=prefix, prefix=".unpack-") as unpacked:
            try:
                with tarfile.open(archive) as tar:
                    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    tar.extractall(unpacked, **safe)  # nosec: the archive is the operator's own, copied by the play
            except (OSError, tarfile.TarError) as exc:
                raise Failed(f"{archive} cannot be unpacked: {exc}") from None
            populate(target, pathlib.Path(unpacked))
    with open(target / MARK, "w") as mark:
        os.fsync(mark.fileno())


def populate(target: pathlib.Path, source: pathlib.Path) -> None:
    """An environment without pip, filled by pip's own wheel (which runs as it is, being a zip) from the wheels alone."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(target)
    pip = next(source.glob("pip-*.whl"), None)
    if pip is None:
        raise Failed(f"{source} holds no wheel of pip: this is no archive of the node")
    command = [str(target / "bin" / "python"), "-I", f"{pip}/pip", "--isolated", "--disable-pip-version-check", "install"]
    command += ["--quiet", "--no-index", "--no-cache-dir", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--find-links", str(source / "wheels"), "-r", str(source / "requirements.lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise Failed(f"pip could not install the wheels: {reason[-1] if reason else done.returncode}")
    (target / "libexec").mkdir()
    shutil.copy(source / "supervise.py", target / "libexec" / "supervise.py")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix", type=pathlib.Path)
    parser.add_argument("version")
    parser.add_argument("--archive", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.umask(0o022)
    try:
        changed = install(options.prefix.resolve(), options.version, options.archive, options.check)
    except (Failed, OSError) as exc:
        sys.exit(f"holdfast was not installed: {exc}")
    print(json.dumps({"changed": changed, "current": str(options.prefix / "current")}))


if __name__ == "__main__":
    main()
