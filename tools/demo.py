# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: the life of a cluster on this machine, with what it does as it does it, and how long each part took."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import typing as t

import requests
from local_cluster import ROOT, LocalCluster, PlayFailed, Recap, build_archive

SECRETS = 1000
NAMES = [f"demo/{number}" for number in range(SECRETS)]


class Stage:
    """Prints what is being done, and remembers how long it took."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []

    def __call__(self, text: str, work: t.Callable[[], t.Any]) -> t.Any:
        print(f"==> {text}", flush=True)
        began = time.monotonic()
        result = work()
        took = time.monotonic() - began
        self.times.append((text, took))
        if isinstance(result, Recap):
            self.table(result.output)
        print(f"    done in {took:.1f} s\n", flush=True)
        return result

    @staticmethod
    def table(output: str) -> None:
        """The members, as the playbooks show them."""
        lines = [line.strip(" -'") for line in output.splitlines()]
        for line in lines:
            if line.startswith("node_id ") or (line[:1] == "n" and ("leader " in line or "follower " in line)):
                print(f"    {line}")

    def summary(self) -> None:
        print("What                                                              seconds")
        for text, took in self.times:
            print(f"{text[:65]:65} {took:7.1f}")


def progress(text: str, done: int, total: int) -> None:
    if sys.stdout.isatty() or done in (total // 4, total // 2, 3 * total // 4, total):
        end = "\r" if sys.stdout.isatty() and done < total else "\n"
        print(f"    {text} {done}/{total}", end=end, flush=True)


def each(cluster: LocalCluster, server: str, text: str, call: t.Callable[[requests.Session, str, str], None]) -> None:
    """C(call) for every secret, over one connection."""
    session, base = cluster.session(), f"{cluster.url(server)}/v1/secret"
    for number, name in enumerate(NAMES, 1):
        call(session, base, name)
        progress(text, number, SECRETS)


def write(session: requests.Session, base: str, name: str) -> None:
    session.post(f"{base}/data/{name}", json={"data": {"value": name}}, timeout=30).raise_for_status()


def read(session: requests.Session, base: str, name: str) -> None:
    answer = session.get(f"{base}/data/{name}", timeout=30)
    answer.raise_for_status()
    if answer.json()["data"]["data"] != {"value": name}:
        raise PlayFailed(f"{name} does not hold what was written")


def delete(session: requests.Session, base: str, name: str) -> None:
    session.delete(f"{base}/metadata/{name}", timeout=30).raise_for_status()


def gone(session: requests.Session, base: str, name: str) -> None:
    if session.get(f"{base}/data/{name}", timeout=30).status_code != 404:
        raise PlayFailed(f"{name} is still there")


def demo(work: pathlib.Path) -> None:
    stage = Stage()
    archive = stage("Pack the node for this machine", lambda: build_archive(ROOT / ".state" / "cache"))
    first, second = LocalCluster(work / "first", archive), LocalCluster(work / "second", archive)
    snapshot = work / "demo.snap"
    try:
        stage("Build a cluster of three", lambda: first.play("build"))
        mount = {"type": "kv", "options": {"version": "2"}}
        first.session().post(f"{first.url('n1')}/v1/sys/mounts/secret", json=mount, timeout=30).raise_for_status()
        stage(f"Write {SECRETS} secrets", lambda: each(first, "n1", "written", write))
        stage("Save a snapshot", lambda: first.play("snapshot", "-e", f"holdfast_snapshot_file={snapshot}"))
        stage("Grow to five", lambda: first.play("grow", nodes=5))
        leader = first.leader()
        leaving = f"{leader},{'n5' if leader != 'n5' else 'n4'}"
        shrunk = ("-e", json.dumps({"holdfast_remove": leaving}))
        stage(f"Shrink to three, removing {leaving}; {leader} leads", lambda: first.play("shrink", *shrunk, nodes=5))
        stayed = next(name for name in ("n1", "n2", "n3") if name not in leaving)
        stage("Delete the secrets", lambda: each(first, stayed, "deleted", delete))
        stage("See that they are gone", lambda: each(first, stayed, "gone", gone))
        restore = ("-e", f"holdfast_snapshot_file={snapshot}")
        stage("Restore the snapshot", lambda: first.play("restore", *restore, *shrunk, nodes=5))
        stage("Read all of them back", lambda: each(first, stayed, "read", read))
        stage("Build a new cluster of three, with its own keys", lambda: second.play("build"))
        foreign = ("-e", f"holdfast_restore_shares_file={first.shares_file}")
        stage("Restore the same snapshot into it", lambda: second.play("restore", *restore, *foreign))
        stage("Read all of them back from there", lambda: each(second, "n2", "read", read))
    finally:
        for cluster in (first, second):
            if (cluster.state / "cluster").exists():
                stage(f"Clean {cluster.state.name}", cluster.clean)
    stage.summary()


def main() -> None:
    os.umask(0o077)
    (ROOT / ".state").mkdir(exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(dir=ROOT / ".state", prefix="demo-"))
    try:
        demo(work)
    except (PlayFailed, requests.RequestException) as exc:
        sys.exit(f"the demonstration failed: {exc}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
