# SPDX-License-Identifier: Apache-2.0
"""The barrier: everything above sees plaintext, everything below sees ciphertext (raft-api.md 6.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from holdfast.barrier.keyring import BarrierError, Keyring, decrypt_value, encrypt_value, split_value
from holdfast.storage.types import Delete, Item, Op, Put, Storage


class BarrierSealed(BarrierError):
    """There is no keyring: the node is sealed."""

    def __init__(self) -> None:
        super().__init__("Vault is sealed")


class Barrier:
    """Encrypts and decrypts the values of one `Storage`. Closed until `open` is called."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._keyring: Keyring | None = None
        self._encryptions = 0

    @property
    def keyring(self) -> Keyring:
        """The open keyring. Raises BarrierSealed."""
        if self._keyring is None:
            raise BarrierSealed
        return self._keyring

    @property
    def encryptions(self) -> int:
        """Values encrypted with the active key as far as this process knows."""
        return self.keyring.active.encryptions + self._encryptions

    def is_open(self) -> bool:
        """Whether a keyring is loaded."""
        return self._keyring is not None

    def open(self, keyring: Keyring) -> None:
        """Use `keyring` from now on; replaces an earlier one."""
        self._keyring = keyring
        self._encryptions = 0

    def close(self) -> None:
        """Drop every key."""
        self._keyring = None

    def decrypt(self, key: str, value: bytes) -> bytes:
        """The plaintext of a value stored at `key`. Raises BarrierError."""
        term, version = split_value(value)
        cipher = self.keyring.ciphers.get(term)
        if cipher is None:
            raise BarrierError(f"no key for term {term}")
        return decrypt_value(cipher, version, key, value)

    def encrypt(self, key: str, plaintext: bytes) -> bytes:
        """The ciphertext to store at `key`."""
        keyring = self.keyring
        self._encryptions += 1
        return encrypt_value(keyring.ciphers[keyring.active_term], keyring.active_term, key, plaintext)

    def get(self, key: str) -> Item | None:
        """Plaintext and revision of `key`, or None. Raises BarrierError."""
        item = self._storage.get(key)
        return None if item is None else Item(self.decrypt(key, item.value), item.revision)

    def revision(self, key: str) -> int:
        """Revision of `key`, 0 when it is absent; nothing is decrypted. Equal revisions mean equal values."""
        item = self._storage.get(key)
        return 0 if item is None else item.revision

    def list(self, prefix: str) -> list[str]:
        """Sorted immediate children below `prefix` ("" or ending in "/"); folders end in "/"."""
        return self._storage.list(prefix)

    def scan(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, sorted, in full."""
        return self._storage.scan(prefix)

    async def commit(
        self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None, *, prefix: str = ""
    ) -> int:
        """Encrypt the values of `ops` and store them as one atomic batch; errors as `Storage.commit`.

        `preconditions` maps keys to the revisions they must still have (0: absent); every key is relative to `prefix`.
        Returns the batch's revision.
        """
        sealed: list[Op] = []
        for op in ops:
            key = prefix + op.key
            sealed.append(Put(key, self.encrypt(key, op.value)) if isinstance(op, Put) else Delete(key))
        if prefix and preconditions:
            preconditions = {prefix + key: revision for key, revision in preconditions.items()}
        return await self._storage.commit(sealed, preconditions)

    async def read_barrier(self) -> None:
        """As `Storage.read_barrier`."""
        await self._storage.read_barrier()

    def view(self, prefix: str) -> View:
        """The part of the barrier below `prefix`, with keys relative to it."""
        return View(self, prefix)


class View:
    """A subtree of the barrier; satisfies what engines ask for (engines.types.View)."""

    __slots__ = ("_barrier", "_prefix")

    def __init__(self, barrier: Barrier, prefix: str) -> None:
        self._barrier = barrier
        self._prefix = prefix

    def get(self, key: str) -> Item | None:
        """As `Barrier.get`."""
        return self._barrier.get(self._prefix + key)

    def list(self, prefix: str) -> list[str]:
        """As `Barrier.list`."""
        return self._barrier.list(self._prefix + prefix)

    def scan(self, prefix: str) -> Iterator[str]:
        """As `Barrier.scan`; keys come back relative to the view."""
        start = len(self._prefix)
        return (key[start:] for key in self._barrier.scan(self._prefix + prefix))

    async def commit(self, ops: Sequence[Op], preconditions: Mapping[str, int] | None = None) -> int:
        """As `Barrier.commit`."""
        return await self._barrier.commit(ops, preconditions, prefix=self._prefix)

    async def read_barrier(self) -> None:
        """As `Storage.read_barrier`."""
        await self._barrier.read_barrier()
