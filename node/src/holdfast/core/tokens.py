# SPDX-License-Identifier: Apache-2.0
"""The token store (raft-api.md 5.4): salted ids, accessors, parents, expiry.

Keys: sys/token/id/h<id>, sys/token/accessor/<accessor>, sys/token/parent/<parent>/<child>, where ids and accessors are
HMAC-SHA256 under the salt at sys/token/salt. The token itself is stored nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import hmac
import json
import secrets
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from holdfast.barrier.barrier import Barrier
from holdfast.core.types import ApiError
from holdfast.storage.types import Delete, Item, Op, PreconditionFailed, Put

ID_PREFIX = "sys/token/id/"
ACCESSOR_PREFIX = "sys/token/accessor/"
PARENT_PREFIX = "sys/token/parent/"
SALT_KEY = "sys/token/salt"
MAX_TTL = 2_764_800.0  # 768 h, also the default
_ALPHABET = string.ascii_letters + string.digits
_MAX_BATCH = 256 * 1024  # bytes of keys in one batch of deletions
_ATTEMPTS = 5
_CACHE = 50_000


def random_text(length: int = 24) -> str:
    """`length` characters of base62 from the system's generator."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


@dataclass(slots=True)
class TokenEntry:
    """What is stored of a token. Times are Unix seconds; `expires` None means never; ttls in seconds, 0 for none.

    `parent` is the salted id of the parent, "" for an orphan.
    """

    accessor: str
    parent: str
    policies: list[str]
    path: str
    display_name: str
    creation_time: float
    ttl: float = 0.0
    explicit_max_ttl: float = 0.0
    period: float = 0.0
    num_uses: int = 0
    renewable: bool = False
    meta: dict[str, str] | None = None
    expires: float | None = None
    last_renewal: float | None = None
    cubbyhole_id: str = field(default_factory=random_text)

    def to_bytes(self) -> bytes:
        """The stored form: JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> TokenEntry:
        """The inverse of `to_bytes`. Raises ValueError for a foreign form (OpenBao's own entries are not honoured)."""
        try:
            return cls(**json.loads(value))
        except TypeError:
            raise ValueError("a token entry of another format") from None

    @property
    def root(self) -> bool:
        """Whether it carries the root policy."""
        return "root" in self.policies

    def expired(self, now: float | None = None) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= (time.time() if now is None else now)

    def remaining(self) -> int:
        """Whole seconds left, 0 for a token that never expires."""
        return 0 if self.expires is None else max(0, round(self.expires - time.time()))


@dataclass(slots=True)
class Client:
    """An authenticated caller: its entry, its salted id, and whether this was the token's last use."""

    entry: TokenEntry
    salted: str
    spent: bool = False


def initial_ops(salt: str, token: str, entry: TokenEntry) -> list[Op]:
    """What init stores for the root token (plaintext values for the barrier)."""
    salted = _salt(salt.encode(), token)
    return [Put(SALT_KEY, salt.encode()), *_entry_ops(salt.encode(), salted, entry)]


def root_entry() -> TokenEntry:
    """A root token as init makes it: orphan, never expires."""
    return TokenEntry(random_text(), "", ["root"], "auth/token/root", "root", time.time())


def _salt(salt: bytes, text: str) -> str:
    return "h" + hmac.digest(salt, text.encode(), "sha256").hex()


def _entry_ops(salt: bytes, salted: str, entry: TokenEntry) -> list[Op]:
    about = json.dumps({"token_id": salted, "accessor_id": entry.accessor}).encode()
    ops: list[Op] = [
        Put(ID_PREFIX + salted, entry.to_bytes()),
        Put(ACCESSOR_PREFIX + _salt(salt, entry.accessor), about),
    ]
    if entry.parent:
        ops.append(Put(f"{PARENT_PREFIX}{entry.parent}/{salted}", b"1"))
    return ops


class TokenStore:
    """Tokens in the barrier, cached by salted id. `belongings` lists further keys that die with a token.

    A cached entry counts only while the stored one has its revision, so no change or removal can be missed, not even
    one whose commit was cut off and took effect later.
    """

    def __init__(self, barrier: Barrier, belongings: Callable[[TokenEntry], list[str]]) -> None:
        self._barrier = barrier
        self._belongings = belongings
        self._salt_bytes = b""
        # Salted ids of valid tokens, found by a hash under a key of this process (HMAC costs five times as much).
        self._known: dict[bytes, str] = {}
        self._hash_key = secrets.token_bytes(32)
        self._cache: dict[str, tuple[int, TokenEntry]] = {}  # by salted id, with the revision
        self._expiries: list[tuple[float, str]] = []
        self._due = asyncio.Event()

    def forget(self) -> None:
        """Drop caches: the state below has changed."""
        self._salt_bytes = b""
        self._known.clear()
        self._cache.clear()
        self._expiries.clear()

    def salted(self, token: str) -> str:
        """The storage id of a token."""
        if not self._salt_bytes:
            item = self._barrier.get(SALT_KEY)
            if item is None:
                raise ApiError(500, "the token salt is missing from storage; restore a snapshot of this cluster")
            self._salt_bytes = item.value
        return _salt(self._salt_bytes, token)

    def _load(self, salted: str) -> tuple[TokenEntry, int] | None:
        item: Item | None = self._barrier.get(ID_PREFIX + salted)
        if item is None:
            return None
        try:
            return TokenEntry.from_bytes(item.value), item.revision
        except ValueError:
            return None

    def find(self, salted: str) -> TokenEntry | None:
        """A token that is neither unknown, expired nor used up."""
        known = self._cache.get(salted)
        if known is not None and known[0] == self._barrier.revision(ID_PREFIX + salted):
            entry = known[1]
        else:
            loaded = self._load(salted)
            if loaded is None:
                self._cache.pop(salted, None)
                return None
            entry = loaded[0]
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            self._cache[salted] = (loaded[1], entry)
        return None if entry.num_uses < 0 or entry.expired() else entry

    def by_accessor(self, accessor: str) -> tuple[str, TokenEntry] | None:
        """Salted id and entry of the token behind an accessor."""
        self.salted("")
        item = self._barrier.get(ACCESSOR_PREFIX + _salt(self._salt_bytes, accessor))
        if item is None:
            return None
        salted = json.loads(item.value)["token_id"]
        entry = self.find(salted)
        return None if entry is None else (salted, entry)

    def accessors(self) -> list[str]:
        """Every accessor."""
        found = (self._barrier.get(key) for key in self._barrier.scan(ACCESSOR_PREFIX))
        return sorted(json.loads(item.value)["accessor_id"] for item in found if item)

    async def use(self, token: str, *, count: bool = True) -> Client | None:
        """The caller behind a token; None when it is not valid. A token with num_uses loses one of them here."""
        if not token:
            return None
        digest = hashlib.blake2b(token.encode(), key=self._hash_key, digest_size=32).digest()
        salted = self._known.get(digest) or self.salted(token)
        entry = self.find(salted)
        if entry is None:
            self._known.pop(digest, None)
            return None
        if len(self._known) >= _CACHE:
            self._known.clear()
        self._known[digest] = salted
        if not entry.num_uses or not count:
            return Client(entry, salted)
        for _ in range(_ATTEMPTS):
            loaded = self._load(salted)
            if loaded is None or loaded[0].num_uses < 1:
                return None
            entry, revision = loaded
            entry.num_uses = entry.num_uses - 1 or -1  # -1: on its last errand, nobody else may use it
            try:
                await self._barrier.commit([Put(ID_PREFIX + salted, entry.to_bytes())], {ID_PREFIX + salted: revision})
            except PreconditionFailed:
                continue
            return Client(entry, salted, spent=entry.num_uses < 0)
        raise ApiError(409, "the token is being used by too many requests at once; try again")

    async def create(self, token: str, entry: TokenEntry) -> str:
        """Store a new token; returns its salted id. Raises ApiError 400 when the id or the accessor is taken."""
        salted = self.salted(token)
        conditions = {ID_PREFIX + salted: 0}
        if entry.parent:
            # The parent must still be there when the child is stored, or the child would outlive it.
            parent = self._barrier.get(ID_PREFIX + entry.parent)
            if parent is None:
                raise ApiError(400, "parent token lookup failed: no parent found")
            conditions[ID_PREFIX + entry.parent] = parent.revision
        try:
            await self._barrier.commit(_entry_ops(self._salt_bytes, salted, entry), conditions)
        except PreconditionFailed as error:
            if error.key == ID_PREFIX + salted:
                raise ApiError(400, "cannot create a token with a duplicate ID") from None
            raise
        self._watch(salted, entry)
        return salted

    async def update(self, salted: str, change: Callable[[TokenEntry], None]) -> TokenEntry:
        """Load, change and store an entry on condition that nobody else did. Raises ApiError 403 when it is gone."""
        for _ in range(_ATTEMPTS):
            loaded = self._load(salted)
            if loaded is None or loaded[0].expired() or loaded[0].num_uses < 0:
                raise ApiError(403, "bad token")
            entry, revision = loaded
            change(entry)
            try:
                await self._barrier.commit([Put(ID_PREFIX + salted, entry.to_bytes())], {ID_PREFIX + salted: revision})
            except PreconditionFailed:
                continue
            self._watch(salted, entry)
            return entry
        raise ApiError(409, "the token kept changing; try again")

    async def revoke(self, salted: str, *, orphan_children: bool = False) -> None:
        """Remove a token and its descendants, or make its children orphans.

        The token itself goes last and together with whatever children it has then, so neither an interruption nor a
        child made meanwhile leaves a token that outlives its parent.
        """
        loaded = self._load(salted)
        top = f"{PARENT_PREFIX}{loaded[0].parent}/{salted}" if loaded and loaded[0].parent else ""
        while True:
            members = {salted: top} if orphan_children else self._family(salted, top)
            ops: list[Op] = self._adoption(salted) if orphan_children else []
            for member, index in members.items():
                ops += self._removal(member, index)
            batch, *rest = batches(ops)
            await self._barrier.commit(batch)
            for member in members:
                self._cache.pop(member, None)
            if not rest:
                return

    def _family(self, salted: str, top: str) -> dict[str, str]:
        """The token and all its descendants, deepest first, each with the index key that it is found by."""
        found, queue = {salted: top}, [salted]
        for member in queue:
            for child in self._barrier.list(f"{PARENT_PREFIX}{member}/"):
                if child not in found:
                    found[child] = f"{PARENT_PREFIX}{member}/{child}"
                    queue.append(child)
        return {member: found[member] for member in reversed(queue)}

    def _adoption(self, salted: str) -> list[Op]:
        """What makes the token's children orphans."""
        ops: list[Op] = []
        for child in self._barrier.list(f"{PARENT_PREFIX}{salted}/"):
            ops.append(Delete(f"{PARENT_PREFIX}{salted}/{child}"))
            loaded = self._load(child)
            if loaded is not None:
                loaded[0].parent = ""
                ops.append(Put(ID_PREFIX + child, loaded[0].to_bytes()))
        return ops

    def _removal(self, salted: str, index: str) -> list[Op]:
        """Everything of one token, in an order that can be cut anywhere: what the rest is found by goes last."""
        ops: list[Op] = []
        loaded = self._load(salted)
        if loaded is not None:
            self.salted("")
            ops.append(Delete(ACCESSOR_PREFIX + _salt(self._salt_bytes, loaded[0].accessor)))
            ops += (Delete(key) for key in self._belongings(loaded[0]))
        ops.append(Delete(ID_PREFIX + salted))
        if index:
            ops.append(Delete(index))
        return ops

    # -- expiry

    def _watch(self, salted: str, entry: TokenEntry) -> None:
        if entry.expires is not None:
            heapq.heappush(self._expiries, (entry.expires, salted))
            self._due.set()

    async def sweep(self) -> None:
        """Runs on the leader until cancelled: removes tokens whose time is over. Use of a token never waits for it."""
        for index, key in enumerate(list(self._barrier.list(ID_PREFIX))):
            loaded = self._load(key)
            if loaded is not None:
                if loaded[0].num_uses < 0:  # its last errand ended with the process
                    await self.revoke(key)
                else:
                    self._watch(key, loaded[0])
            if index % 200 == 199:
                await asyncio.sleep(0)
        while True:
            wait = self._expiries[0][0] - time.time() if self._expiries else 3600.0
            if wait > 0:
                self._due.clear()
                try:
                    await asyncio.wait_for(self._due.wait(), min(wait, 3600.0))
                except TimeoutError:
                    continue
                continue
            _, salted = heapq.heappop(self._expiries)
            loaded = self._load(salted)
            if loaded is not None and loaded[0].expired():  # it may have been renewed since
                await self.revoke(salted)


def batches(ops: Iterable[Op]) -> Iterable[list[Op]]:
    """Cut a long list of operations into batches well below the size limit of an entry."""
    batch: list[Op] = []
    size = 0
    for op in ops:
        size += len(op.key) + (len(op.value) if isinstance(op, Put) else 0)
        batch.append(op)
        if size >= _MAX_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
