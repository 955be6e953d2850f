# SPDX-License-Identifier: GPL-3.0-or-later
"""One cluster from its first build to its end. The tests build on one another, in this order."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import time
import typing as t

import pytest
import requests
from local_cluster import LocalCluster

pytestmark = pytest.mark.usefixtures("cluster")


def tree(directory: pathlib.Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")} if directory.exists() else set()


def store(cluster: LocalCluster, name: str, value: str, server: str = "n1") -> None:
    answer = cluster.session().post(f"{cluster.url(server)}/v1/secret/data/{name}", json={"data": {"v": value}}, timeout=20)
    answer.raise_for_status()


def fetch(cluster: LocalCluster, name: str, server: str = "n1") -> str | None:
    answer = cluster.session().get(f"{cluster.url(server)}/v1/secret/data/{name}", timeout=20)
    return str(answer.json()["data"]["data"]["v"]) if answer.status_code == 200 else None


def secrets_of(cluster: LocalCluster) -> list[str]:
    text = cluster.shares_file.read_text()
    values = [word for word in text.replace('"', " ").replace(",", " ").split() if len(word) > 20]
    assert len(values) >= 11, "five shares twice and the root token"
    return values


def assert_no_secret(cluster: LocalCluster, output: str) -> None:
    for secret in secrets_of(cluster):
        assert secret not in output


def test_check_mode_before_anything_is_there(cluster: LocalCluster) -> None:
    recap = cluster.play("build", "--check", "--diff")
    assert recap.changed > 0
    assert tree(cluster.state / "cluster") == set()
    assert "not built yet" in cluster.play("status").output


def test_a_host_with_an_old_python_is_refused_before_any_change(cluster: LocalCluster, tmp_path: pathlib.Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\necho \'{"python": [3, 9, 2], "running": {}, "paths": {}, "complete": [], "current": ""}\'\n')
    old.chmod(0o755)
    recap = cluster.play("build", "-e", f"node_python={old}", "-e", "holdfast_pki=false", fails=True)
    assert "has Python 3.9.2" in recap.output
    assert recap.changed == 0
    assert tree(cluster.state / "cluster") == set()


def test_build(cluster: LocalCluster) -> None:
    recap = cluster.play("build", "--diff", "-vv")
    assert recap.changed > 0
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}
    assert stat.S_IMODE(cluster.shares_file.stat().st_mode) == 0o600
    assert str(cluster.shares_file) in recap.output
    for name in ("n1", "n2", "n3"):
        assert cluster.url(name) in recap.output
    assert_no_secret(cluster, recap.output)


def test_what_build_says_to_do_next_works(cluster: LocalCluster) -> None:
    """The lines are run as they stand."""
    shown = cluster.play("status").output
    assert_no_secret(cluster, shown)
    lines = [line.strip().removeprefix("- ") for line in shown.splitlines()]
    export = next(line for line in lines if line.startswith("export VAULT_ADDR="))
    cli = next(line for line in lines if line.endswith("/current/bin/holdfast operator raft list-peers"))
    listed = subprocess.run(["bash", "-ec", f"{export}\n{cli}"], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in ("n1", "n2", "n3"))
    again = next(line for line in lines if "ansible-playbook -i " in line and "status" in line)
    told = subprocess.run(["bash", "-ec", again], env=cluster.environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_a_lost_disk_is_mended_as_told(cluster: LocalCluster) -> None:
    running = cluster.state / "cluster" / "run" / "n3" / "state.json"
    os.kill(json.loads(running.read_text())["supervisor"], signal.SIGTERM)
    until_gone(running)
    shutil.rmtree(cluster.state / "cluster" / "lib" / "n3")
    assert "-e holdfast_remove=n3 -e holdfast_wipe=false" in " ".join(cluster.play("build", fails=True).output.split())
    cluster.play("shrink", "-e", "holdfast_remove=n3", "-e", "holdfast_wipe=false")
    cluster.play("build")
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}


def until_gone(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 60
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nothing_private_is_readable_by_others(cluster: LocalCluster) -> None:
    base = cluster.state / "cluster"
    for path in [*(base / "etc").rglob("*"), *(base / "lib").rglob("*"), *(base / "secrets").rglob("*"), *base.glob("pki/*.key")]:
        if "/opt/" not in str(path):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_second_build_changes_nothing(cluster: LocalCluster) -> None:
    assert cluster.play("build", "--check", "--diff").changed == 0
    assert cluster.play("build", "--diff").changed == 0
    assert cluster.play("build", "--limit", "n2").changed == 0
    for recap in (cluster.play("status"), cluster.play("status", "--check", "--limit", "n3")):
        assert recap.changed == 0
        assert "follower" in recap.output


def test_snapshot(cluster: LocalCluster) -> None:
    mount = {"type": "kv", "options": {"version": "2"}}
    cluster.session().post(f"{cluster.url('n1')}/v1/sys/mounts/secret", json=mount, timeout=20).raise_for_status()
    store(cluster, "a", "before")
    path = cluster.state / "saved" / "a.snap"
    option = ("-e", f"holdfast_snapshot_file={path}")
    assert cluster.play("snapshot", "--check", *option).changed > 0
    assert not path.parent.exists()
    assert cluster.play("snapshot", *option).changed > 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cluster.play("snapshot", *option).changed == 0
    assert cluster.play("snapshot").changed > 0
    assert len(list((cluster.state / "cluster" / "snapshots").glob("local-*.snap"))) == 1


def test_restore(cluster: LocalCluster) -> None:
    store(cluster, "a", "after")
    store(cluster, "b", "after")
    option = ("-e", f"holdfast_snapshot_file={cluster.state / 'saved' / 'a.snap'}")
    assert cluster.play("restore", "--check", *option).changed > 0
    assert fetch(cluster, "a") == "after"
    recap = cluster.play("restore", *option)
    assert recap.changed == 1
    for server in ("n1", "n2", "n3"):
        assert (fetch(cluster, "a", server), fetch(cluster, "b", server)) == ("before", None)
    assert_no_secret(cluster, recap.output)


def test_restore_refuses_rubbish(cluster: LocalCluster, tmp_path: pathlib.Path) -> None:
    rubbish = tmp_path / "cut.snap"
    rubbish.write_bytes((cluster.state / "saved" / "a.snap").read_bytes()[:-1])
    assert "no complete snapshot" in cluster.play("restore", "-e", f"holdfast_snapshot_file={rubbish}", fails=True).output
    assert "Name the file" in cluster.play("restore", fails=True).output
    assert fetch(cluster, "a") == "before"


def test_grow(cluster: LocalCluster) -> None:
    assert cluster.play("grow", "--check", nodes=5).changed > 0
    assert not (cluster.state / "cluster" / "etc" / "n4").exists()
    assert cluster.play("grow", nodes=5).changed > 0
    assert cluster.members() == {f"n{number}": True for number in range(1, 6)}
    assert fetch(cluster, "a", "n5") == "before"
    assert cluster.play("grow", nodes=5).changed == 0


def test_shrink_with_the_leader(cluster: LocalCluster) -> None:
    leader = cluster.leader()
    other = "n4" if leader != "n4" else "n5"
    option = ("-e", f"holdfast_remove={leader},{other}")
    predicted = cluster.play("shrink", "--check", *option, nodes=5)
    assert predicted.changed > 0
    assert len(cluster.members()) == 5
    assert cluster.play("shrink", *option, nodes=5).changed > 0
    left = next(name for name in ("n1", "n2", "n3") if name not in (leader, other))
    assert set(cluster.members(left)) == {"n1", "n2", "n3", "n4", "n5"} - {leader, other}
    assert fetch(cluster, "a", left) == "before"
    assert not (cluster.state / "cluster" / "lib" / leader).exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(cluster.url(leader), timeout=5, verify=str(cluster.ca_cert))
    assert cluster.play("shrink", *option, nodes=5).changed == 0
    assert cluster.play("grow", nodes=5).changed > 0, "what was removed and wiped joins again under its name"
    assert len(cluster.members()) == 5
    assert cluster.play("shrink", "-e", "holdfast_remove=n4,n5", nodes=5).changed > 0
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}


@pytest.mark.parametrize(
    ("playbook", "arguments", "text"),
    [
        ("shrink", ("-e", "holdfast_remove=n1,n2,n3"), "leave at least one"),
        ("shrink", ("-e", "holdfast_remove=n9"), "must name hosts of the inventory"),
        ("clean", ("-e", "holdfast_clean=other"), "would be lost"),
    ],
)
def test_refused(cluster: LocalCluster, playbook: str, arguments: tuple[str, ...], text: str) -> None:
    assert text in " ".join(cluster.play(playbook, *arguments, fails=True).output.split())
    assert len(cluster.members()) == 3


def test_a_killed_server_comes_back_and_is_unsealed(cluster: LocalCluster) -> None:
    leader = cluster.leader()
    os.kill(cluster.pid(leader), signal.SIGKILL)
    assert cluster.play("build").changed > 0
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}
    assert [cluster.get("sys/seal-status", name)["sealed"] for name in ("n1", "n2", "n3")] == [False] * 3
    assert fetch(cluster, "a") == "before"
    assert cluster.play("build").changed == 0


def test_a_new_configuration_is_rolled_out_one_by_one(cluster: LocalCluster) -> None:
    before = {name: cluster.pid(name) for name in ("n1", "n2", "n3")}
    option = ("-e", "node_log_level=debug")
    assert cluster.play("build", "--check", *option).changed > 0
    assert {name: cluster.pid(name) for name in before} == before
    recap = cluster.play("build", *option)
    assert recap.changed > 0
    assert all(cluster.pid(name) != pid for name, pid in before.items())
    assert [cluster.get("sys/seal-status", name)["sealed"] for name in before] == [False] * 3
    assert cluster.play("build", *option).changed == 0


def test_certificates_near_their_end_are_renewed_without_a_restart(cluster: LocalCluster) -> None:
    before = {name: cluster.pid(name) for name in ("n1", "n2", "n3")}
    option = ("-e", "node_log_level=debug", "-e", "pki_valid_days=500", "-e", "pki_renew_before_days=400")
    assert cluster.play("build", *option).changed > 0
    assert {name: cluster.pid(name) for name in before} == before
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}
    assert cluster.play("build", *option).changed == 0


def test_clean_leaves_nothing(cluster: LocalCluster) -> None:
    pids = [cluster.pid(name) for name in ("n1", "n2", "n3")]
    cluster.clean()
    assert not (cluster.state / "cluster").exists()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert processes_below(str(cluster.state)) == []


def processes_below(directory: str) -> list[t.Any]:
    """Command lines of processes that mention C(directory), this one aside."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if directory in line and "pytest" not in line.split(directory)[0]:
                found.append(line)
    return found
