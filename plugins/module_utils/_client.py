# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Transport to one API address, on requests. Private to holdfast.raft.

requests is imported when the first client is made, so that modules which do not need it do not pay for it.
Redirects are followed by hand: the token goes to the leader that a 307 names, never down from https to http.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import traceback
import typing as t
from urllib.parse import urljoin, urlsplit

from ansible_collections.holdfast.raft.plugins.module_utils._errors import (
    ApiError,
    Forbidden,
    MissingLibrary,
    NotFound,
    OutcomeUnknown,
    RaftError,
    Sealed,
    Unreachable,
)

MAX_REDIRECTS = 3
CHUNK = 1 << 16
REDIRECTS = (301, 302, 307, 308)
CLASSES: dict[int, type[ApiError]] = {403: Forbidden, 404: NotFound, 503: Sealed}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to talk to any server of one cluster. C(timeout) in seconds, for connecting and between two packets."""

    token: str | None = dataclasses.field(default=None, repr=False)
    ca_cert: str | None = None
    ca_path: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    tls_server_name: str | None = None
    validate_certs: bool = True
    namespace: str | None = None
    timeout: float = 30.0
    use_proxy: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """Status and JSON body ({} when there is none)."""

    status: int
    body: t.Mapping[str, t.Any]

    @property
    def data(self) -> t.Mapping[str, t.Any]:
        """The payload: C(data) of an enveloped answer, the body of a bare one."""
        return (self.body.get("data") or {}) if "request_id" in self.body else self.body


class Client:
    """One API address. Raises Unreachable (no answer) or ApiError (an error status) from every call.

    Raises RaftError when it is made with files that are not there: no waiting would mend that.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(f"{url!r} is not an API address; it looks like https://host:8200")
        for name in ("ca_cert", "ca_path", "client_cert", "client_key"):
            path = getattr(settings, name)
            if path and not os.path.exists(path):
                raise RaftError(f"{name}: there is no {path} on the host where the module runs")
        self.url = url.rstrip("/")
        self.settings = settings
        self._session = _session(settings)

    def get(self, path: str, ok: t.Sequence[int] = (200,)) -> Answer:
        return self._json("GET", path, None, ok)

    def put(self, path: str, body: t.Mapping[str, t.Any], timeout: float | None = None) -> Answer:
        return self._json("PUT", path, body, (200, 204), timeout)

    def put_raw(self, path: str, body: t.Mapping[str, t.Any]) -> bytes:
        """The bytes of a successful answer, unparsed: for what must be written before anything else is done with it."""
        with self._send("PUT", path, json.dumps(body).encode()) as response:
            content = _read(response)
            if response.status_code != 200:
                raise _error(response.status_code, self._where(path), content)
            return content

    def download(self, path: str, write: t.Callable[[bytes], t.Any]) -> int:
        """Streams the body of GET C(path) into C(write); returns its length. The caller checks that it is complete."""
        length = 0
        with self._send("GET", path, None, {"Accept-Encoding": "identity"}) as response:
            if response.status_code != 200:
                raise _error(response.status_code, self._where(path), _read(response))
            with _transport_errors(self._where(path)):
                for chunk in response.iter_content(CHUNK):
                    length += len(chunk)
                    write(chunk)
        return length

    def upload(self, path: str, stream: t.BinaryIO, timeout: float | None = None) -> Answer:
        """Streams C(stream) as the body of POST C(path)."""
        headers = {"Content-Type": "application/octet-stream"}
        with self._send("POST", path, stream, headers, timeout) as response:
            return _answer(response, self._where(path), (200, 204))

    def _json(
        self, method: str, path: str, body: t.Mapping[str, t.Any] | None, ok: t.Sequence[int], timeout: float | None = None
    ) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        with self._send(method, path, data, headers, timeout) as response:
            return _answer(response, self._where(path), ok)

    def _where(self, path: str) -> str:
        return f"{self.url}/v1/{path}"

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | t.BinaryIO | None,
        headers: t.Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> t.Any:
        """The streamed response after redirects; a rewound C(body) is sent again to where a 307 points."""
        url = self._where(path)
        start = None if body is None or isinstance(body, bytes) else body.tell()
        for _hop in range(MAX_REDIRECTS + 1):
            with _transport_errors(url):
                response = self._session.request(
                    method,
                    url,
                    data=body,
                    headers={**_headers(self.settings), **(headers or {})},
                    timeout=(min(10.0, self.settings.timeout), timeout or self.settings.timeout),
                    stream=True,
                    allow_redirects=False,
                )
            if response.status_code not in REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            target = urljoin(url, response.headers["Location"])
            if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
                raise Unreachable(f"{url} redirects to {target}: a token never leaves https; check the leader's api_addr")
            if start is not None and not isinstance(body, bytes) and body is not None:
                body.seek(start)
            url = target
        raise Unreachable(f"{self._where(path)} redirects more than {MAX_REDIRECTS} times; check api_addr of the servers")


def _headers(settings: Settings) -> dict[str, str]:
    headers = {"X-Vault-Request": "true", "Accept": "*/*"}
    if settings.token:
        headers["X-Vault-Token"] = settings.token
    if settings.namespace:
        headers["X-Vault-Namespace"] = settings.namespace
    return headers


def _session(settings: Settings) -> t.Any:
    """A requests session: no netrc, no environment proxies unless asked, and the TLS name that was asked for."""
    try:
        import requests  # pylint: disable=import-outside-toplevel
        from requests.adapters import HTTPAdapter  # pylint: disable=import-outside-toplevel
    except ImportError:
        raise MissingLibrary("requests", traceback.format_exc()) from None

    class ServerNameAdapter(HTTPAdapter):
        """Checks the certificate against C(tls_server_name) instead of the host of the URL, and sends it as SNI."""

        def init_poolmanager(self, *args: t.Any, **kwargs: t.Any) -> None:
            name = settings.tls_server_name
            super().init_poolmanager(*args, server_hostname=name, assert_hostname=name, **kwargs)

    session = requests.Session()
    session.trust_env = settings.use_proxy
    session.verify = (settings.ca_cert or settings.ca_path or True) if settings.validate_certs else False
    if settings.client_cert:
        session.cert = (settings.client_cert, settings.client_key) if settings.client_key else settings.client_cert
    if settings.tls_server_name:
        session.mount("https://", ServerNameAdapter())
    if not settings.validate_certs:
        import urllib3  # pylint: disable=import-outside-toplevel

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return session


@contextlib.contextmanager
def _transport_errors(url: str) -> t.Iterator[None]:
    """requests' exceptions -> Unreachable or OutcomeUnknown, with the innermost reason only."""
    import requests  # pylint: disable=import-outside-toplevel

    try:
        yield
    except requests.exceptions.SSLError as exc:
        raise Unreachable(f"no TLS connection to {url}: {_reason(exc)}", url=url) from exc
    except requests.exceptions.ConnectTimeout:
        raise Unreachable(f"no connection to {url}: timed out", url=url) from None
    except requests.exceptions.ReadTimeout:
        raise OutcomeUnknown(f"{url} did not answer in time; the request may have taken effect", url=url) from None
    except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as exc:
        reason = _reason(exc)
        if isinstance(exc, requests.exceptions.ChunkedEncodingError) or "reset" in reason or "closed" in reason:
            raise OutcomeUnknown(f"{url} broke the connection off: {reason}", url=url) from exc
        raise Unreachable(f"no connection to {url}: {reason}", url=url) from exc
    except (requests.exceptions.RequestException, OSError) as exc:
        # OSError: requests' own answer to a CA or certificate file that is not there.
        raise Unreachable(f"cannot ask {url}: {_reason(exc)}", url=url) from exc


def _reason(exc: BaseException) -> str:
    """The innermost cause in words, without the object addresses that urllib3 prints."""
    seen: BaseException = exc
    for _depth in range(8):
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        if inner is None:
            inner = seen.__cause__ if not seen.args else None
        if inner is None:
            break
        seen = inner
    verify = getattr(seen, "verify_message", "")
    text = getattr(seen, "strerror", None) or str(seen.args[-1] if seen.args else seen)
    text = re.sub(r"^.*\[Errno -?\d+\] ", "", text)  # "HTTPSConnection(host='...'): Failed to establish ...: [Errno 111] ..."
    return f"{text} ({verify})" if verify and verify not in text else text


def _read(response: t.Any) -> bytes:
    with _transport_errors(response.url):
        return t.cast(bytes, response.content)


def _answer(response: t.Any, where: str, ok: t.Sequence[int]) -> Answer:
    content = _read(response)
    if response.status_code not in ok:
        raise _error(response.status_code, where, content)
    body = _decode(content)
    if body is None:
        raise ApiError(
            f"{where} answered {response.status_code} with something that is no JSON object; is this the API of a Vault-like server?",
            response.status_code,
            where,
        )
    return Answer(response.status_code, body)


def _decode(content: bytes) -> dict[str, t.Any] | None:
    """The first JSON object of a body (OpenBao's bootstrap writes two), {} for an empty one, None for anything else."""
    text = content.decode("utf-8", "replace").strip()
    if not text:
        return {}
    try:
        body, _end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _error(status: int, where: str, content: bytes) -> ApiError:
    errors = [_plain(str(error)) for error in (_decode(content) or {}).get("errors") or []]
    text = "; ".join(errors) or "no reason given"
    return CLASSES.get(status, ApiError)(f"{where} answered {status}: {text}", status, where, errors)


def _plain(text: str) -> str:
    """C(1 error occurred:\\n\\t* permission denied\\n\\n) -> C(permission denied)."""
    lines = [line.strip(" \t*") for line in text.strip().splitlines()]
    if len(lines) > 1 and lines[0].endswith(("error occurred:", "errors occurred:")):
        lines = lines[1:]
    return " ".join(line for line in lines if line)
