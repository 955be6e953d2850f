# SPDX-License-Identifier: Apache-2.0
"""One Raft server alone in a process, without HTTP: `python -m tests.process.host DIRECTORY NODE_ID PORT`.

Commands come as lines on stdin, answers go as JSON lines to stdout; the log goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from holdfast.storage.raft import RaftSettings, RaftStorage
from holdfast.storage.types import Put
from holdfast.telemetry import setup_logging


def settings(path: Path, node_id: str, port: int) -> RaftSettings:
    return RaftSettings(path, node_id, ("127.0.0.1", port), f"127.0.0.1:{port}", "http://nowhere", "1")


async def _do(storage: RaftStorage, verb: str, arguments: list[str]) -> Any:
    if verb == "status":
        return storage.status() | {"leads": storage.is_leader(), "removed": storage.removed()}
    if verb == "put":
        return await storage.commit([Put(arguments[0], b"x")])
    if verb == "add":
        await storage.add_server(arguments[0], arguments[1], True)
        return None
    if verb == "remove":
        return await storage.remove_server(arguments[0])
    raise ValueError(verb)


async def main(path: str, node_id: str, port: str) -> None:
    setup_logging("info", "json")
    storage = RaftStorage(settings(Path(path), node_id, int(port)))
    await storage.start()
    storage.set_eligible(True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, *arguments = line.split()
        try:
            answer = {"ok": await _do(storage, verb, arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await storage.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
