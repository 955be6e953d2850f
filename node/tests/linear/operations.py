# SPDX-License-Identifier: Apache-2.0
"""What clients did and saw, as a list of operations that can be kept in a file (one JSON object a line)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

READ, WRITE, CAS, DELETE = "read", "write", "cas", "delete"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. What has definitely not taken effect and has shown nothing is left out of a history.

    `argument` and `result` mean what the model says (models.py); both are hashable. `invoked` and `returned` are seconds on one
    clock for all clients; `returned` is None when the outcome is unknown: the operation may take effect at any time after
    `invoked`, or never, and its `result` says nothing.
    """

    process: str
    key: str
    kind: str
    argument: Any
    result: Any
    invoked: float
    returned: float | None

    def __str__(self) -> str:
        end = "unknown" if self.returned is None else f"{self.returned:.6f}"
        told = "" if self.returned is None else f" -> {self.result!r}"
        return f"[{self.invoked:.6f} .. {end}] {self.process}: {self.kind}({self.argument!r}){told}"


def dump(path: Path, history: Iterable[Operation]) -> None:
    """Write a history, in the order of invocation."""
    with path.open("w", encoding="utf-8") as file:
        for operation in sorted(history, key=lambda o: o.invoked):
            file.write(json.dumps(asdict(operation)) + "\n")


def load(path: Path) -> list[Operation]:
    """Read a history that `dump` wrote. Lists become tuples, as they were."""

    def hashable(value: Any) -> Any:
        return tuple(hashable(v) for v in value) if isinstance(value, list) else value

    with path.open(encoding="utf-8") as file:
        return [Operation(**{k: hashable(v) for k, v in json.loads(line).items()}) for line in file]
