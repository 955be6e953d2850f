# SPDX-License-Identifier: Apache-2.0
"""A request as the API handlers see it, and their answer; the same over HTTP and from a standby."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

JSON = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Call:
    """One API call. `path` has no "/v1/"; header names are lower case; `body` is complete, at most max_request_size."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    remote_addr: str = ""
    request_id: str = ""
    forwarded: bool = False
    _query: dict[str, list[str]] | None = field(default=None, repr=False)

    def query_values(self) -> dict[str, list[str]]:
        """The decoded query string: every value of every name."""
        if self._query is None:
            self._query = {}
            if self.query:
                for name, value in parse_qsl(self.query.decode("latin-1"), keep_blank_values=True):
                    self._query.setdefault(name, []).append(value)
        return self._query

    def target(self) -> str:
        """Path and query as they go into a redirect or to the leader (still percent-encoded)."""
        query = self.query.decode("latin-1")
        return "/v1/" + quote(self.path, safe="/:@!$&'()*+,;=~-._") + (f"?{query}" if query else "")


@dataclass(slots=True)
class Reply:
    """An answer that is complete in memory. `headers` beside Content-Type and Content-Length."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: bytes = JSON
    headers: Headers = ()

    def header_list(self) -> list[tuple[bytes, bytes]]:
        """All headers, as ASGI wants them."""
        found = [*self.headers]
        if self.body:
            found.append((b"content-type", self.content_type))
        if self.status != 204:
            found.append((b"content-length", b"%d" % len(self.body)))
        return found


class Refused(Exception):
    """HTTP itself refuses the request (no such route, wrong verb, too large …); carries the finished answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply.status))
        self.reply = reply


JsonObject = dict[str, Any]
