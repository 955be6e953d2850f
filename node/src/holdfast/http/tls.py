# SPDX-License-Identifier: Apache-2.0
"""The TLS side of a listener: a server context that can take new certificates while it serves (SIGHUP)."""

from __future__ import annotations

import ssl

from holdfast.config.tree import Listener

_VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


class TlsError(Exception):
    """Certificate, key or CA cannot be used. The text is one sentence."""


def server_context(listener: Listener) -> ssl.SSLContext:
    """A context with the listener's certificate, TLS 1.3 unless configured lower, and client verification if wanted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[listener.tls_min_version]
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, listener)
    if listener.tls_client_ca_file and not listener.tls_disable_client_certs:
        try:
            context.load_verify_locations(cafile=listener.tls_client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"cannot use tls_client_ca_file {listener.tls_client_ca_file}: {_reason(error)}") from None
        wanted = listener.tls_require_and_verify_client_cert
        context.verify_mode = ssl.CERT_REQUIRED if wanted else ssl.CERT_OPTIONAL
    return context


def reload_certificate(context: ssl.SSLContext, listener: Listener) -> None:
    """Put the certificate and key files' present content into a live context; new connections use it.

    Raises TlsError and leaves the context as it was when the files do not fit together.
    """
    _load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), listener)
    _load_chain(context, listener)


def _load_chain(context: ssl.SSLContext, listener: Listener) -> None:
    try:
        # Without a password function OpenSSL would ask on the terminal for the password of an encrypted key.
        context.load_cert_chain(listener.tls_cert_file, listener.tls_key_file, password=lambda: b"")
    except (OSError, ssl.SSLError, ValueError) as error:
        files = f"tls_cert_file {listener.tls_cert_file} with tls_key_file {listener.tls_key_file}"
        raise TlsError(f"cannot use {files}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is not valid PEM").replace("_", " ").lower()
    return (getattr(error, "strerror", None) or str(error)).lower()
