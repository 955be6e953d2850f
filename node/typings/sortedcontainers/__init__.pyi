from collections.abc import Iterator
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

class SortedDict(dict[K, V]):
    def irange(self, minimum: K | None = ..., maximum: K | None = ...) -> Iterator[K]: ...
