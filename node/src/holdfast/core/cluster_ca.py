# SPDX-License-Identifier: Apache-2.0
"""The cluster port's own certificate authority and the node certificates it signs (design.md 12)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

RAFT_TLS_KEY = "core/raft/tls"
_FORMAT = 1
_CA_DAYS = _CERT_DAYS = 3650  # removal from the membership is the revocation, not expiry
_SKEW = timedelta(hours=1)
_NODE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)


class CertificateError(ValueError):
    """A certificate request, a key or a node_id cannot be used; one sentence."""


def check_node_id(node_id: str) -> str:
    """The same node_id when it fits a certificate's common name. Raises CertificateError."""
    if not _NODE_ID.fullmatch(node_id):
        raise CertificateError(
            "a server id must have 1 to 64 letters, digits, dots, dashes or underscores "
            "and begin and end with a letter or digit"
        )
    return node_id


@dataclass(frozen=True, slots=True)
class ClusterCa:
    """CA certificate and private key, PEM."""

    cert_pem: str
    key_pem: str = field(repr=False)

    @classmethod
    def generate(cls, cluster_id: str) -> ClusterCa:
        """A new CA (EC P-256) named after the cluster's UUID."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"holdfast cluster {cluster_id}"[:64])])
        now = datetime.now(UTC)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate), _key_pem(key))

    def to_bytes(self) -> bytes:
        """The value of core/raft/tls (inside the barrier)."""
        return json.dumps({"format": _FORMAT, "ca_cert": self.cert_pem, "ca_key": self.key_pem}).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> ClusterCa:
        """The inverse of `to_bytes`. Raises CertificateError for another format (OpenBao's keyring, for one)."""
        try:
            fields = json.loads(value)
            if fields["format"] == _FORMAT:
                return cls(fields["ca_cert"], fields["ca_key"])
        except (ValueError, LookupError, TypeError):
            pass
        raise CertificateError("core/raft/tls does not hold a cluster CA of a known format")

    def sign(self, csr_pem: str, node_id: str) -> str:
        """A certificate (PEM) for the key of a request, with CN and DNS SAN `node_id`. Raises CertificateError.

        Names inside the request are ignored: the leader decides who a key belongs to.
        """
        check_node_id(node_id)
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
            valid = request.is_signature_valid
            public_key = request.public_key()
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError("csr is not a PEM certificate request") from None
        if not valid:
            raise CertificateError("the signature of the csr is not valid")
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            raise CertificateError("the csr must be for an EC P-256 key")
        issuer = x509.load_pem_x509_certificate(self.cert_pem.encode())
        key = serialization.load_pem_private_key(self.key_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        now = datetime.now(UTC)
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)]))
            .issuer_name(issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(min(now + timedelta(days=_CERT_DAYS), issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(node_id)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return _pem(certificate)

    def trusted_by(self, ca_pem: str) -> bool:
        """Whether our certificate is one of those in `ca_pem` (the replicated configuration's)."""
        own = x509.load_pem_x509_certificate(self.cert_pem.encode())
        try:
            return own in x509.load_pem_x509_certificates(ca_pem.encode())
        except ValueError:
            return False


def new_request(node_id: str) -> tuple[str, str]:
    """A new private key and a certificate request for it, both PEM."""
    check_node_id(node_id)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return _key_pem(key), request.public_bytes(serialization.Encoding.PEM).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
