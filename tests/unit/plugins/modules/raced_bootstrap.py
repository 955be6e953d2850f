# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs raft_bootstrap with the arguments on standard input; between preparing custody and the init it waits, in the directory
named on the command line, until the other run of the race is there too or has ended."""

from __future__ import annotations

import os
import pathlib
import sys
import time
import typing as t

from ansible.module_utils import basic

from ansible_collections.holdfast.raft.plugins.module_utils import _client
from ansible_collections.holdfast.raft.plugins.modules import raft_bootstrap


def main() -> None:
    meeting = pathlib.Path(sys.argv[1])
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    if hasattr(basic, "_ANSIBLE_PROFILE"):
        basic._ANSIBLE_PROFILE = "legacy"
    put_raw = _client.Client.put_raw

    def meet(self: _client.Client, *args: t.Any, **kwargs: t.Any) -> bytes:
        (meeting / f"there-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while len(os.listdir(meeting)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return put_raw(self, *args, **kwargs)

    _client.Client.put_raw = meet  # type: ignore[method-assign]
    try:
        raft_bootstrap.main()
    finally:
        (meeting / f"ended-{os.getpid()}").touch()


if __name__ == "__main__":
    main()
