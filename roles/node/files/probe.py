# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role must know of a host, in one run and without a change; works on any Python 3. Prints one JSON object.

    python3 probe.py JSON

JSON: {"prefix": DIR, "paths": [PATH, ...], "unit": NAME, "state_file": FILE, "listen": HOST:PORT}
"""

import base64
import hashlib
import json
import os
import platform
import pwd
import socket
import ssl
import subprocess
import sys
import sysconfig


def libc():
    name, version = platform.libc_ver()
    if name == "glibc":
        return "glibc" + version
    return "musl" if "musl" in (sysconfig.get_config_var("SOABI") or "") or not name else name + version


def environments(prefix):
    """The complete environments, and the one in use."""
    found = []
    for name in sorted(os.listdir(prefix)) if os.path.isdir(prefix) else []:
        if os.path.exists(os.path.join(prefix, name, ".complete")) and not os.path.islink(os.path.join(prefix, name)):
            found.append(name)
    current = os.path.join(prefix, "current")
    return found, os.path.basename(os.path.realpath(current)) if os.path.islink(current) else ""


def describe(path):
    """Mode, owner, and for a file the hash of its content; {} when it is not there or may not be read."""
    try:
        stat = os.stat(path)
        try:
            owner = pwd.getpwuid(stat.st_uid).pw_name
        except KeyError:
            owner = str(stat.st_uid)
        found = {"mode": oct(stat.st_mode & 0o777)[2:].zfill(4), "owner": owner, "directory": os.path.isdir(path)}
        if not found["directory"]:
            with open(path, "rb") as stream:
                found["sha256"] = hashlib.sha256(stream.read()).hexdigest()
        return found
    except OSError:
        return {}


def unit_pid(unit):
    """PID of a systemd unit's main process, 0 when there is none."""
    try:
        return int(subprocess.check_output(["systemctl", "show", "-p", "MainPID", "--value", unit]).strip() or 0)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def supervised_pid(state_file):
    """PID of the node under supervise.py, 0 when it does not run."""
    try:
        with open(state_file) as stream:
            state = json.load(stream)
        os.kill(state["supervisor"], 0)
        return state["pid"]
    except (OSError, ValueError, KeyError):
        return 0


def running(pid):
    """What the running node was started with: its configuration's hash stands in its environment."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as stream:
            pairs = [pair.split(b"=", 1) for pair in stream.read().split(b"\0") if b"=" in pair]
        return {"pid": pid, "hash": dict(pairs).get(b"HOLDFAST_CONFIG_HASH", b"").decode()}
    except OSError:
        return {}


def served(listen):
    """The hash of the certificate that a listener shows: of the base64 text in its PEM, without white space. "" when it shows none.

    Nothing is verified and nothing is sent: the question is only whether the process has loaded the file that is there."""
    host, _colon, port = listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1", "": "127.0.0.1"}.get(host, host.strip("[]"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            with context.wrap_socket(plain) as stream:
                return hashlib.sha256(base64.b64encode(stream.getpeercert(True))).hexdigest()
    except (OSError, ValueError):
        return ""


def main():
    wish = json.loads(sys.argv[1])
    complete, current = environments(wish["prefix"])
    systemd = os.path.isdir("/run/systemd/system")
    pid = unit_pid(wish["unit"]) if systemd else 0
    pid = pid or supervised_pid(wish["state_file"])
    print(
        json.dumps(
            {
                "python": list(sys.version_info[:3]),
                "executable": sys.executable,
                "soabi": sysconfig.get_config_var("SOABI") or "",
                "target": "cp%d%d-%s-%s" % (*sys.version_info[:2], platform.machine(), libc()),
                "systemd": systemd,
                "user": pwd.getpwuid(os.getuid()).pw_name,
                "complete": complete,
                "current": current,
                "paths": {path: describe(path) for path in wish["paths"]},
                "running": running(pid) if pid else {},
                "served": served(wish["listen"]) if pid and wish.get("listen") else "",
            }
        )
    )


if __name__ == "__main__":
    main()
