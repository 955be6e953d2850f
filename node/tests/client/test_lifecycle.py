# SPDX-License-Identifier: Apache-2.0
"""A server process from start to end: signals, certificates, bad configuration."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PLAIN = 'storage "inmem" {}\nlistener "tcp" {\n  address = "127.0.0.1:0"\n  tls_disable = true\n}\n'


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def peer(address: str, **limits: Any) -> tuple[str, str]:
    """(TLS version, common name) that the server presents."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in limits.items():
        setattr(context, name, value)
    host, port = address.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), 5) as raw, context.wrap_socket(raw) as secure:
        der = secure.getpeercert(binary_form=True)
        assert der is not None
        subject = x509.load_der_x509_certificate(der).subject
        return str(secure.version()), str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_sigterm(start_server: Callable[..., Any], tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    server = start_server(PLAIN + f'pid_file = "{pid_file}"\n')
    assert pid_file.read_text() == f"{server.process.pid}\n"
    assert server.stop() == 0
    assert "stopped" in server.text()
    assert not pid_file.exists()
    assert "Traceback" not in server.text()


def test_a_request_in_flight_is_finished(start_server: Callable[..., Any]) -> None:
    server = start_server(PLAIN)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as busy, socket.create_connection((host, int(port)), 5) as idle:
        body = b'{"secret_shares":1,"secret_threshold":1}'
        busy.sendall(b"PUT /v1/sys/init HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:10])
        idle.sendall(b"GET /v1/sys/init HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"200" in idle.recv(4096)
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(4096) == b""  # an idle connection is closed at once
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((host, int(port)), 5)
        busy.sendall(body[10:])
        answer = b""
        while piece := busy.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["root_token"]
    assert server.process.wait(15) == 0


def test_tls_and_sighup(start_server: Callable[..., Any], tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    text = (
        f'storage "inmem" {{}}\nlistener "tcp" {{\n  address = "127.0.0.1:0"\n'
        f'  tls_cert_file = "{cert}"\n  tls_key_file = "{key}"\n}}\n'
    )
    server = start_server(text + 'log_level = "error"\n')
    assert peer(server.address) == ("TLSv1.3", "first")
    with pytest.raises(ssl.SSLError):
        peer(server.address, maximum_version=ssl.TLSVersion.TLSv1_2)
    certificate(tmp_path, "second")
    assert "reloaded" not in server.text()
    server.config.write_text(text + 'log_level = "info"\n', encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("reloaded")
    assert peer(server.address) == ("TLSv1.3", "second")
    cert.write_text("rubbish", encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("certificate not reloaded.*cert.pem")
    assert peer(server.address) == ("TLSv1.3", "second")
    assert server.stop() == 0


def test_tls12_when_configured(start_server: Callable[..., Any], tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "old")
    server = start_server(
        f'storage "inmem" {{}}\nlistener "tcp" {{\n  address = "127.0.0.1:0"\n  tls_min_version = "tls12"\n'
        f'  tls_cert_file = "{cert}"\n  tls_key_file = "{key}"\n}}\n'
    )
    assert peer(server.address, maximum_version=ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"


def test_dev_server(start_server: Callable[..., Any]) -> None:
    server = start_server("", "-dev", "-dev-listen-address=127.0.0.1:0", "-dev-root-token-id=root")
    server.wait_for("Root Token: root")
    request = urllib.request.Request(
        f"{server.address}/v1/secret/data/a", b'{"data":{"x":1}}', {"X-Vault-Token": "root"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert json.load(answer)["data"]["version"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('storage "raft" {\n  path = "DIR/data"\n  path2 =\n}\n', ":3: this is not valid HCL"),
        ('storage "raft" {\n  path = "DIR/data"\n}\n', 'there is no listener "tcp" block'),
        (
            'storage "raft" {\n  path = "DIR/data"\n}\nlistener "tcp" {\n'
            '  tls_cert_file = "DIR/server.hcl"\n  tls_key_file = "DIR/server.hcl"\n}\n',
            "cannot use tls_cert_file",
        ),
    ],
)
def test_bad_configuration_touches_nothing(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "server.hcl"
    config.write_text(text.replace("DIR", str(tmp_path)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "server", "--config", str(config)],
        env=dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [config]


def test_port_in_use(start_server: Callable[..., Any], tmp_path: Path) -> None:
    first = start_server(PLAIN)
    config = tmp_path / "second.hcl"
    config.write_text(PLAIN.replace("127.0.0.1:0", first.address.removeprefix("http://")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "server", "--config", str(config)],
        env=dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: cannot listen on 127.0.0.1:")
