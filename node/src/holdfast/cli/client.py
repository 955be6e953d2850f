# SPDX-License-Identifier: Apache-2.0
"""The client side of the command line: one HTTP API call at a time with urllib3, configured by BAO_*/VAULT_* (5.8)."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import urllib3

_DEFAULT_ADDRESS = "https://127.0.0.1:8200"
_REDIRECTS = (301, 302, 307, 308)
_PIECE = 256 * 1024


class ClientError(Exception):
    """The call failed; the text is for stderr. `status`: HTTP status (0: no answer); `errors`: the server's texts."""

    def __init__(self, text: str, status: int = 0, errors: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.errors = errors


def variable(name: str, environ: Mapping[str, str] | None = None) -> str:
    """BAO_<name>, else VAULT_<name>, else ""."""
    source = os.environ if environ is None else environ
    return source.get(f"BAO_{name}") or source.get(f"VAULT_{name}") or ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to connect. `timeout` in seconds, for connecting and for each read."""

    address: str = _DEFAULT_ADDRESS
    token: str = field(default="", repr=False)
    ca_cert: str = ""
    ca_path: str = ""
    client_cert: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    skip_verify: bool = False
    namespace: str = ""
    timeout: float = 60.0

    @classmethod
    def from_environment(cls, **given: Any) -> Settings:
        """The environment's settings; arguments that are not empty win. Raises ClientError for a bad value."""
        token = variable("TOKEN")
        if not token:
            try:
                token = (Path.home() / ".vault-token").read_text(encoding="utf-8").strip()
            except (OSError, RuntimeError, UnicodeDecodeError):
                token = ""
        raw_timeout = variable("CLIENT_TIMEOUT").removesuffix("s")
        try:
            timeout = float(raw_timeout) if raw_timeout else 60.0
        except ValueError:
            raise ClientError("BAO_CLIENT_TIMEOUT is not a number of seconds") from None
        values: dict[str, Any] = {
            "address": variable("ADDR") or _DEFAULT_ADDRESS,
            "token": token,
            "ca_cert": variable("CACERT"),
            "ca_path": variable("CAPATH"),
            "client_cert": variable("CLIENT_CERT"),
            "client_key": variable("CLIENT_KEY"),
            "tls_server_name": variable("TLS_SERVER_NAME"),
            "skip_verify": variable("SKIP_VERIFY").lower() in ("1", "true", "t", "yes"),
            "namespace": variable("NAMESPACE"),
            "timeout": timeout,
        }
        values |= {name: value for name, value in given.items() if value not in (None, "", False)}
        return cls(**values)


class Client:
    """Calls the API at `settings.address`; follows one redirect, never from https to http (raft-api.md 0.2)."""

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"the address {settings.address} is not a URL such as https://127.0.0.1:8200 (BAO_ADDR)")
        self.settings = settings
        options: dict[str, Any] = {"timeout": urllib3.Timeout(settings.timeout), "retries": False}
        if parts.scheme == "https":
            options |= _tls(settings)
        self._pool = urllib3.PoolManager(**options)

    def get(self, path: str) -> Any:
        """The decoded answer, None for an empty one. Raises ClientError."""
        return self._call("GET", path)

    def put(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The same with a JSON body."""
        return self._call("PUT", path, json.dumps(body or {}).encode("utf-8"))

    def download(self, path: str) -> tuple[Iterator[bytes], int | None]:
        """(pieces, length or None) of a streamed answer. Raises ClientError, also while it is read."""
        response = self._request("GET", path, None, stream=True)
        if response.status != 200:
            raise _failure("GET", path, response.status, response.read(1 << 20))
        length = response.headers.get("content-length")
        return self._pieces(response), int(length) if length else None

    def upload(self, path: str, file: BinaryIO) -> None:
        """POST the content of a file. Raises ClientError."""
        size = os.fstat(file.fileno()).st_size
        # The answer comes when the restore is visible: nobody can say beforehand how long that takes.
        response = self._request("POST", path, file, headers={"Content-Length": str(size)}, patience=None)
        if response.status not in (200, 204):
            raise _failure("POST", path, response.status, response.data)

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        response = self._request(method, path, body)
        data = response.data
        if not 200 <= response.status < 300 and not (path == "sys/health" and response.status in (429, 472, 473)):
            raise _failure(method, path, response.status, data)
        if not data.strip():
            return None
        try:
            return json.loads(data)
        except ValueError:
            raise ClientError(f"the answer of {self.settings.address} to {method} {path} is not JSON") from None

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        patience: float | None = -1.0,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self.settings.address.rstrip('/')}/v1/{path}"
        timeout = self.settings.timeout if patience == -1.0 else patience
        for _ in range(2):
            if hasattr(body, "seek"):
                body.seek(0)
            try:
                response = self._pool.request(
                    method,
                    url,
                    body=body,
                    headers=self._headers(body) | dict(headers or {}),
                    preload_content=not stream,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=self.settings.timeout, read=timeout),
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ClientError(f"cannot reach {_origin(url)}: {_reason(error)}") from None
            if response.status not in _REDIRECTS or "location" not in response.headers:
                return response
            target = urljoin(url, response.headers["location"])
            if url.startswith("https:") and not target.startswith("https:"):
                raise ClientError(f"{_origin(url)} redirects from https to {_origin(target)}, which is refused")
            response.release_conn()
            url = target
        raise ClientError(f"{self.settings.address} redirects more than once")

    def _headers(self, body: Any) -> dict[str, str]:
        headers = {"X-Vault-Request": "true", "User-Agent": "holdfast"}
        if self.settings.token:
            headers["X-Vault-Token"] = self.settings.token
        if self.settings.namespace:
            headers["X-Vault-Namespace"] = self.settings.namespace
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        return headers

    def _pieces(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            yield from response.stream(_PIECE)
        except (urllib3.exceptions.HTTPError, OSError):
            where = self.settings.address
            raise ClientError(f"the connection to {where} broke in the middle of the snapshot") from None


def _tls(settings: Settings) -> dict[str, Any]:
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert or None, capath=settings.ca_path or None)
    except (OSError, ssl.SSLError):
        raise ClientError(f"cannot read the CA certificates {settings.ca_cert or settings.ca_path}") from None
    if settings.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key or None, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError):
            raise ClientError(f"cannot use the client certificate {settings.client_cert}") from None
    options: dict[str, Any] = {"ssl_context": context}
    if settings.skip_verify:
        options |= {"cert_reqs": ssl.CERT_NONE, "assert_hostname": False}
    if settings.tls_server_name:
        options["server_hostname"] = settings.tls_server_name
        if not settings.skip_verify:
            options["assert_hostname"] = settings.tls_server_name
    return options


def _failure(method: str, path: str, status: int, data: bytes) -> ClientError:
    try:
        errors = tuple(str(text) for text in json.loads(data).get("errors") or ())
    except (ValueError, AttributeError):
        errors = ()
    reason = "; ".join(" ".join(text.split()) for text in errors) or "no reason given"
    return ClientError(f"{method} {path} was answered with {status}: {reason}", status, errors)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _reason(error: BaseException) -> str:
    """The innermost cause, in the system's words."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    text = str(getattr(error, "strerror", None) or error)
    return text.rsplit(": ", 1)[-1] if "object at 0x" in text else text
