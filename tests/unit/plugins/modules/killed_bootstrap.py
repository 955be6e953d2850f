# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs raft_bootstrap with the arguments on standard input, and dies at the point named on the command line."""

from __future__ import annotations

import os
import signal
import sys
import typing as t

from ansible.module_utils import basic

from ansible_collections.holdfast.raft.plugins.module_utils import _client, _custody
from ansible_collections.holdfast.raft.plugins.modules import raft_bootstrap


def die(*_args: t.Any, **_kwargs: t.Any) -> t.NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


def main() -> None:
    point = sys.argv[1]
    basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
    if hasattr(basic, "_ANSIBLE_PROFILE"):
        basic._ANSIBLE_PROFILE = "legacy"
    keep = _custody.FileCustody.keep

    def write_and_die(self: _custody.FileCustody, answer: bytes) -> None:
        os.pwrite(self._fd, answer, 0)
        die()

    if point == "before-init":
        _client.Client.put_raw = die  # type: ignore[method-assign]
    elif point == "before-write":
        _custody.FileCustody.keep = die  # type: ignore[method-assign]
    elif point == "after-write":
        _custody.FileCustody.keep = write_and_die  # type: ignore[method-assign]
    elif point == "before-rename":
        os.replace = die
        assert keep is _custody.FileCustody.keep
    raft_bootstrap.main()


if __name__ == "__main__":
    main()
