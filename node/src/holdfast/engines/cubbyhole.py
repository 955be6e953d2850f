# SPDX-License-Identifier: Apache-2.0
"""Cubbyhole: a private KV space per token, which dies with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from holdfast.engines.kv1 import Kv1
from holdfast.engines.types import Answer, Call, View
from holdfast.storage.types import Delete, Item, Op, Put


class Cubbyhole:
    """The built-in `cubbyhole/` mount: KV version 1 below the caller's own prefix."""

    def __init__(self, view: View) -> None:
        self._view = view

    def exists(self, call: Call) -> bool | None:
        """Whether the token has a value at the path."""
        return self._of(call.owner).exists(call)

    async def handle(self, call: Call) -> Answer | None:
        """As KV version 1, without a lease."""
        answer = await self._of(call.owner).handle(call)
        if answer is not None:
            answer.lease_duration = 0
        return answer

    def keys_of(self, owner: str) -> list[str]:
        """Everything a token has stored, as keys of this engine's view; for its removal with the token."""
        return list(self._view.scan(owner + "/"))

    def _of(self, owner: str) -> Kv1:
        return Kv1(_Private(self._view, owner + "/"))


class _Private:
    def __init__(self, view: View, prefix: str) -> None:
        self._view = view
        self._prefix = prefix

    def get(self, key: str) -> Item | None:
        return self._view.get(self._prefix + key)

    def list(self, prefix: str) -> list[str]:
        return self._view.list(self._prefix + prefix)

    def scan(self, prefix: str) -> Iterator[str]:
        start = len(self._prefix)
        return (key[start:] for key in self._view.scan(self._prefix + prefix))

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        moved: list[Op] = [
            Put(self._prefix + op.key, op.value) if isinstance(op, Put) else Delete(self._prefix + op.key) for op in ops
        ]
        return await self._view.commit(
            moved, {self._prefix + key: value for key, value in (preconditions or {}).items()}
        )

    async def read_barrier(self) -> None:
        await self._view.read_barrier()
