# SPDX-License-Identifier: Apache-2.0
"""The joiner's HTTPS client. Blocking: call it in a worker thread (raft-api.md 2.2, 2.4)."""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

_REDIRECTS = (301, 302, 307, 308)
_MAX_REDIRECTS = 3
_MAX_ANSWER = 4 * 1024 * 1024
_TIMEOUT = urllib3.Timeout(connect=5.0, read=15.0)


class LeaderError(Exception):
    """The leader could not be asked, or refused. One sentence; `status` is the HTTP status of a refusal, else 0."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class TlsMaterialError(ValueError):
    """The PEM texts of a join cannot be used; one sentence, never a key. `pair` is True for a mismatched pair."""

    def __init__(self, reason: str, *, pair: bool = False) -> None:
        super().__init__(reason)
        self.pair = pair


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM texts and the name to verify; all optional, certificate and key only together."""

    ca: str = ""
    cert: str = ""
    key: str = field(default="", repr=False)
    servername: str = ""

    def context(self) -> ssl.SSLContext:
        """A verifying client context, TLS 1.2 or later. Raises TlsMaterialError."""
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
        except (ssl.SSLError, ValueError):
            raise TlsMaterialError("leader_ca_cert is not a PEM certificate") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if bool(self.cert) != bool(self.key):
            raise TlsMaterialError("leader_client_cert and leader_client_key must be given together")
        if self.cert:
            self._check_pair()
            _load_pair(context, self.cert, self.key)
        return context

    def _check_pair(self) -> None:
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            public = x509.load_pem_x509_certificates(self.cert.encode())[0].public_key().public_bytes(*form)
        except (ValueError, IndexError):
            raise TlsMaterialError("leader_client_cert is not a PEM certificate") from None
        try:
            own = load_pem_private_key(self.key.encode(), None).public_key().public_bytes(*form)
        except (ValueError, TypeError):
            raise TlsMaterialError("leader_client_key is not an unencrypted PEM private key") from None
        if own != public:
            raise TlsMaterialError("leader_client_key does not belong to leader_client_cert", pair=True)


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """The ssl module reads files only: a private directory (0700), gone at once."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as directory:
        path = Path(directory) / "pair.pem"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{cert.strip()}\n{key.strip()}\n")
        try:
            context.load_cert_chain(path)
        except ssl.SSLError:
            raise TlsMaterialError("leader_client_cert and leader_client_key cannot be used together") from None


class LeaderClient:
    """Calls one leader's API. Raises TlsMaterialError or LeaderError at construction for an unusable address."""

    def __init__(self, address: str, tls: TlsMaterial) -> None:
        self.address = address.rstrip("/")
        self._servername = tls.servername
        self._context = tls.context()
        try:
            parts = urlsplit(self.address)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise LeaderError("the address must be a URL like https://10.0.0.1:8200")

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """PUT `body` to /v1/`path`, follow redirects, return the `data` of the answer. Raises LeaderError."""
        url = f"{self.address}/v1/{path}"
        for _ in range(_MAX_REDIRECTS + 1):
            status, headers, text = self._send(url, json.dumps(body).encode())
            if status not in _REDIRECTS:
                return _data(status, text)
            target = urljoin(url, headers.get("Location", ""))
            if url.startswith("https:") and not target.startswith("https:"):
                raise LeaderError("the server redirects from https to http, which is refused")
            if not target.startswith(("http://", "https://")) or target == url:
                raise LeaderError("the server redirects to no usable address")
            url = target
        raise LeaderError(f"more than {_MAX_REDIRECTS} redirects")

    def _send(self, url: str, body: bytes) -> tuple[int, Any, bytes]:
        options: dict[str, Any] = {"timeout": _TIMEOUT, "retries": False}
        if url.startswith("https:"):
            options["ssl_context"] = self._context
            if self._servername:
                options |= {"server_hostname": self._servername, "assert_hostname": self._servername}
        try:
            with urllib3.PoolManager(**options) as pool:
                response = pool.request(
                    "PUT",
                    url,
                    body=body,
                    headers={"Content-Type": "application/json", "X-Vault-Request": "true"},
                    redirect=False,
                    preload_content=False,
                )
                text = response.read(_MAX_ANSWER)
                response.release_conn()
                return response.status, response.headers, text
        except urllib3.exceptions.HTTPError as error:
            raise LeaderError(_reason(error)) from None
        except (OSError, ValueError) as error:
            raise LeaderError(f"{type(error).__name__}: {error}") from None


def _reason(error: Exception) -> str:
    """The innermost cause of urllib3's error, which names it best."""
    cause: BaseException = error
    seen = 0
    while seen < 8:
        inner = getattr(cause, "reason", None) or cause.__cause__ or cause.__context__
        if not isinstance(inner, BaseException):
            break
        cause, seen = inner, seen + 1
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    text = str(cause) or type(cause).__name__
    return text.split("): ", 1)[-1] if "object at 0x" in text or "Pool(" in text else text


def _data(status: int, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    if status != 200:
        errors = document.get("errors")
        shown = "; ".join(str(error).strip() for error in errors) if isinstance(errors, list) and errors else ""
        raise LeaderError(f"the server answered {status}" + (f": {shown}" if shown else ""), status)
    data = document.get("data")
    if not isinstance(data, dict):
        raise LeaderError("the answer is not that of a server of this API")
    return data
