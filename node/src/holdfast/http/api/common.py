# SPDX-License-Identifier: Apache-2.0
"""What the API modules share: verbs, namespaces, and the logical request of a call."""

from __future__ import annotations

from typing import Any

from holdfast.core.types import Operation, Request
from holdfast.http.auth import token_of
from holdfast.http.envelope import errors
from holdfast.http.message import Call, Refused

WRITES = ("PUT", "POST")


def only(call: Call, *methods: str) -> None:
    """Raise Refused(405) for any other verb, with the empty error list that OpenBao sends."""
    if call.method not in methods:
        raise Refused(errors(405))


def root_namespace_only(call: Call) -> None:
    """Raise Refused(400) when the client asks for a namespace (raft-api.md 0.1, Namespaces)."""
    if namespace_of(call):
        raise Refused(errors(400, "operation unavailable in namespaces"))


def namespace_of(call: Call) -> str:
    """`X-Vault-Namespace` without slashes; "" for the root namespace."""
    name = call.headers.get(b"x-vault-namespace", b"").decode("latin-1").strip().strip("/")
    return "" if name == "root" else name


def request_of(call: Call, operation: Operation, data: dict[str, Any] | None = None) -> Request:
    """The core's view of a call."""
    return Request(
        operation=operation,
        path=call.path,
        data=data if data is not None else {},
        token=token_of(call.headers),
        namespace=namespace_of(call),
        remote_addr=call.remote_addr,
        request_id=call.request_id,
        forwarded=call.forwarded,
    )
