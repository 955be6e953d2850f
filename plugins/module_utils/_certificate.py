# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A small CA for the API listeners, on the cryptography library. Private to holdfast.raft.

Keys are EC P-256. A renewal keeps the key, so a renewed CA goes on vouching for what it signed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import tempfile
import traceback
import typing as t

from ansible_collections.holdfast.raft.plugins.module_utils._errors import CustodyError, MissingLibrary, RaftError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    IMPORT_ERROR = ""
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A certificate as it should be. C(usage) is C(ca), C(server) or C(client); C(names) are C(DNS:...) and C(IP:...)."""

    usage: str
    common_name: str
    names: tuple[str, ...]
    valid_days: int
    renew_before_days: int


@dataclasses.dataclass(frozen=True)
class Place:
    """The files of one certificate and of the CA that signs it (its own, for a CA)."""

    cert: str
    key: str
    ca_cert: str
    ca_key: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is there (C(shown), for a diff), and why it must be made anew; C(reasons) is empty when it need not."""

    shown: dict[str, t.Any]
    reasons: tuple[str, ...]


def require_library() -> None:
    """Raises MissingLibrary when cryptography is not there."""
    if IMPORT_ERROR:
        raise MissingLibrary("cryptography", IMPORT_ERROR)


def normal_names(names: t.Sequence[str]) -> tuple[str, ...]:
    """The names in one spelling and order. Raises RaftError for one that is neither C(DNS:) nor C(IP:)."""
    result = set()
    for name in names:
        kind, _colon, value = name.partition(":")
        if kind == "DNS" and value:
            result.add(f"DNS:{value.lower()}")
        elif kind == "IP":
            try:
                result.add(f"IP:{ipaddress.ip_address(value)}")
            except ValueError:
                raise RaftError(f"{name!r} is no IP address") from None
        else:
            raise RaftError(f"{name!r} is no name for a certificate; write DNS:host or IP:address")
    return tuple(sorted(result))


def inspect(place: Place, wanted: Wanted, now: datetime.datetime) -> Finding:
    """Compares what is there with C(wanted)."""
    key, certificate = load_key(place.key), load_certificate(place.cert)
    reasons = []
    if key is None:
        reasons.append("no key")
    elif _mode(place.key) != 0o600:
        reasons.append("mode of the key")
    if certificate is None:
        return Finding({}, (*reasons, "no certificate"))
    issuer = certificate if wanted.usage == "ca" else load_certificate(place.ca_cert)
    shown = describe(certificate)
    if key is not None and _public(key.public_key()) != _public(certificate.public_key()):
        reasons.append("certificate of another key")
    if issuer is None or not _signed_by(certificate, issuer):
        reasons.append("not signed by this CA")
    for name, value in (("common_name", wanted.common_name), ("names", list(wanted.names)), ("usage", wanted.usage)):
        if shown[name] != value:
            reasons.append(f"other {name}")
    if certificate.not_valid_after_utc - now < datetime.timedelta(days=wanted.renew_before_days):
        reasons.append("expires soon")
    return Finding(shown, tuple(reasons))


def issue(place: Place, wanted: Wanted, now: datetime.datetime) -> None:
    """Writes key (kept when there is one) and certificate; each file appears whole or not at all, keys with mode 0600."""
    key = load_key(place.key)
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        _write(place.key, _pem_of(key), 0o600)
    elif _mode(place.key) != 0o600:
        os.chmod(place.key, 0o600)
    if wanted.usage == "ca":
        ca_key, ca_name = key, _name(wanted.common_name)
    else:
        signer, ca = load_key(place.ca_key), load_certificate(place.ca_cert)
        if signer is None or ca is None:
            raise RaftError(f"no CA in {place.ca_cert} and {place.ca_key}; make it first, with usage=ca")
        ca_key, ca_name = signer, ca.subject
    _write(place.cert, _certificate(wanted, key, ca_key, ca_name, now).public_bytes(serialization.Encoding.PEM), 0o644)


def describe(certificate: x509.Certificate) -> dict[str, t.Any]:
    """What a diff shows of a certificate."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return {
        "common_name": names[0].value if names else "",
        "names": _names_in(certificate),
        "usage": _usage_of(certificate),
        "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def load_key(path: str) -> ec.EllipticCurvePrivateKey | None:
    """The key in a file, or None when there is no file. Raises CustodyError for a file that holds no usable key."""
    content = _content(path)
    if content is None:
        return None
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CustodyError(f"{path} holds no unencrypted PEM key; move it away to have a new one made") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CustodyError(f"{path} holds a key that is not of an elliptic curve; move it away to have a new one made")
    return key


def load_certificate(path: str) -> x509.Certificate | None:
    """The certificate in a file, or None when there is no file or none in it (a certificate can be made again)."""
    content = _content(path)
    try:
        return x509.load_pem_x509_certificate(content) if content else None
    except ValueError:
        return None


def _certificate(wanted: Wanted, key: t.Any, ca_key: t.Any, ca_name: x509.Name, now: datetime.datetime) -> x509.Certificate:
    ca = wanted.usage == "ca"
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(wanted.common_name))
        .issuer_name(ca_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=wanted.valid_days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(_key_usage(ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if not ca:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if wanted.usage == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if wanted.names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in wanted.names]), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    kind, _colon, value = name.partition(":")
    return x509.DNSName(value) if kind == "DNS" else x509.IPAddress(ipaddress.ip_address(value))


def _names_in(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = [f"DNS:{name.lower()}" for name in names.get_values_for_type(x509.DNSName)]
    return sorted(found + [f"IP:{address}" for address in names.get_values_for_type(x509.IPAddress)])


def _usage_of(certificate: x509.Certificate) -> str:
    with contextlib.suppress(x509.ExtensionNotFound):
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "ca"
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return "server" if ExtendedKeyUsageOID.SERVER_AUTH in usages else "client"
    return "none"


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _public(key: t.Any) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return t.cast(bytes, key.public_bytes(encoding, form))


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CustodyError(f"{path} cannot be read: {exc.strerror}") from exc


def _write(path: str, content: bytes, mode: int) -> None:
    """Through a file of mode 0600 in the same directory; its name and final mode come last."""
    try:
        fd, partial = tempfile.mkstemp(prefix=".pki-", dir=os.path.dirname(os.path.abspath(path)))
        with os.fdopen(fd, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as exc:
        raise CustodyError(f"{path} cannot be written: {exc.strerror}") from exc
