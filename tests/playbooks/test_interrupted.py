# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook killed half way, at many points, and run again: it finishes the work, and the run after that changes nothing."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import time
import typing as t

from local_cluster import LocalCluster


def killed_at(cluster: LocalCluster, task: str, playbook: str, *arguments: str, nodes: int = 3, after: str = "") -> bool:
    """Runs a playbook and kills it, with all its workers, when it comes to C(task) (and then to a line with C(after)).

    False when it came to its end instead: a module that the last kill left behind had done that part already.
    """
    process = subprocess.Popen(
        cluster.command(playbook, *arguments, nodes=nodes),
        env={**cluster.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    output, seen = [], False
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        seen = seen or (line.startswith("TASK [") and task in line)
        if seen and after in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    status = process.wait()
    assert status in (0, -signal.SIGKILL), "".join(output)
    return status != 0


POINTS: list[tuple[str, str]] = [
    ("Install", "changed: [n"),
    ("Write the configuration", "changed: [n"),
    ("Run it as a supervised process", ""),
    ("Initialise the first server", "changed: [n1"),
    ("Let every server join", "changed: [n2"),
    ("Wait until all of them vote", ""),
]


def test_build_killed_at_ever_later_points(cluster: LocalCluster) -> None:
    killed = [killed_at(cluster, task, "build", after=after) for task, after in POINTS]
    assert killed.count(True) >= len(POINTS) - 2
    cluster.play("build")
    assert cluster.members() == {"n1": True, "n2": True, "n3": True}
    assert cluster.play("build").changed == 0


def serial_served(cluster: LocalCluster, name: str) -> str:
    """The certificate that a node's listener shows, as PEM."""
    host, port = cluster.url(name).removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=20)


def test_killed_between_a_new_certificate_and_its_loading(cluster: LocalCluster) -> None:
    cluster.play("build")
    issued = cluster.ca_cert.parent / "n1.pem"
    before = serial_served(cluster, "n1")
    issued.unlink()
    assert killed_at(cluster, "Let it read a new certificate", "build")
    written = ssl.PEM_cert_to_DER_cert(issued.read_text())
    assert (cluster.state / "cluster" / "etc" / "n1" / "tls.pem").read_bytes() == issued.read_bytes()
    assert serial_served(cluster, "n1") == before
    assert cluster.play("build", "--check").changed == 1
    assert cluster.play("build").changed == 1
    until(lambda: ssl.PEM_cert_to_DER_cert(serial_served(cluster, "n1")) == written)
    assert cluster.play("build").changed == 0


def until(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_grow_killed_while_servers_join(cluster: LocalCluster) -> None:
    killed_at(cluster, "Let every server join", "grow", nodes=5, after="changed: [n4")
    killed_at(cluster, "Wait until all of them vote", "grow", nodes=5)
    cluster.play("grow", nodes=5)
    assert cluster.members() == {f"n{number}": True for number in range(1, 6)}
    assert cluster.play("grow", nodes=5).changed == 0


def test_shrink_killed_before_and_after_the_removal(cluster: LocalCluster) -> None:
    leader = cluster.leader()
    leaving = [leader, "n5" if leader != "n5" else "n4"]
    option = ("-e", f"holdfast_remove={','.join(leaving)}")
    killed_at(cluster, "Remove, one safe step at a time", "shrink", *option, nodes=5)
    killed_at(cluster, "Stop the process", "shrink", *option, nodes=5)
    cluster.play("shrink", *option, nodes=5)
    stayed = [name for name in (f"n{number}" for number in range(1, 6)) if name not in leaving]
    assert cluster.members(stayed[0]) == dict.fromkeys(stayed, True)
    for name in leaving:
        assert not (cluster.state / "cluster" / "lib" / name).exists()
    assert cluster.play("shrink", *option, nodes=5).changed == 0


def restored(cluster: LocalCluster, server: str) -> t.Any:
    return cluster.session().get(f"{cluster.url(server)}/v1/secret/data/a", timeout=20).json().get("data", {}).get("data")


def test_a_restore_into_another_cluster_killed_in_the_middle(cluster: LocalCluster, tmp_path_factory: t.Any, archive: str) -> None:
    members = cluster.play("status", nodes=5).output
    assert "leader" in members
    stayed = next(name for name in (f"n{number}" for number in range(1, 6)) if f"- {name} " in members)
    session, base = cluster.session(), cluster.url(stayed)
    session.post(f"{base}/v1/sys/mounts/secret", json={"type": "kv", "options": {"version": "2"}}, timeout=20).raise_for_status()
    session.post(f"{base}/v1/secret/data/a", json={"data": {"v": "kept"}}, timeout=20).raise_for_status()
    path = cluster.state / "a.snap"
    cluster.play("snapshot", "-e", f"holdfast_snapshot_file={path}", nodes=5)
    other = LocalCluster(tmp_path_factory.mktemp("other"), archive)
    try:
        other.play("build")
        option = ("-e", f"holdfast_snapshot_file={path}", "-e", f"holdfast_restore_shares_file={cluster.shares_file}")
        killed_at(other, "Restore", "restore", *option)
        killed_at(other, "Keep the keys that count", "restore", *option)
        other.play("restore", *option)
        assert other.shares_file.read_bytes() == cluster.shares_file.read_bytes()
        assert [restored(other, name) for name in ("n1", "n2", "n3")] == [{"v": "kept"}] * 3
        assert other.play("build").changed == 0
        text = foreigner(cluster, other, stayed)
        assert "is a server of another cluster" in text
        assert "empty its data directory" in text
        assert set(cluster.members(stayed)) == set(other_members(cluster, stayed))
    finally:
        other.clean()


def other_members(cluster: LocalCluster, server: str) -> list[str]:
    """What autopilot counts as members."""
    return list(cluster.get("sys/storage/raft/autopilot/state", server)["data"]["servers"])


def foreigner(cluster: LocalCluster, other: LocalCluster, leader: str) -> str:
    """What is said to a server of C(other) that is told to join C(cluster)."""
    both = other.state / "both.pem"
    both.write_bytes(cluster.ca_cert.read_bytes() + other.ca_cert.read_bytes())
    options = {
        "url": other.url("n1"),
        "node_id": "foreigner",
        "leader_api_addr": cluster.url(leader),
        "leader_ca_cert_file": str(cluster.ca_cert),
        "ca_cert": str(both),
        "token_file": str(cluster.shares_file),
        "wait_timeout": 20,
    }
    program = str(pathlib.Path(sys.executable).parent / "ansible")
    command = [program, "localhost", "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    command += ["-m", "holdfast.raft.raft_join", "-a", json.dumps(options)]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode != 0
    return " ".join((done.stdout + done.stderr).split())
