# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pathlib
import ssl
import stat
import typing as t

import pytest

from ansible_collections.holdfast.raft.plugins.modules import raft_certificate
from ansible_collections.holdfast.raft.tests.unit.plugins.conftest import ModuleFailed, run_module


def run(params: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
    return run_module(raft_certificate.main, params, check)


@pytest.fixture
def ca(tmp_path: pathlib.Path) -> dict[str, t.Any]:
    return {
        "path": str(tmp_path / "ca.pem"),
        "privatekey_path": str(tmp_path / "ca.key"),
        "usage": "ca",
        "common_name": "test CA",
        "valid_days": 3650,
    }


@pytest.fixture
def server(tmp_path: pathlib.Path, ca: dict[str, t.Any]) -> dict[str, t.Any]:
    run(ca)
    return {
        "path": str(tmp_path / "n1.pem"),
        "privatekey_path": str(tmp_path / "n1.key"),
        "usage": "server",
        "ca_cert": ca["path"],
        "ca_key": ca["privatekey_path"],
        "common_name": "n1",
        "subject_alt_names": ["IP:127.0.0.1", "DNS:Localhost", "IP:0:0:0:0:0:0:0:1"],
    }


def test_made_once(server: dict[str, t.Any]) -> None:
    predicted = run(server, check=True)
    assert not os.path.exists(server["path"])
    result = run(server)
    assert result["changed"]
    assert result["reasons"] == predicted["reasons"] == ["no key", "no certificate"]
    assert result["diff"]["after"]["names"] == ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]
    assert predicted["diff"]["after"]["names"] == result["diff"]["after"]["names"]
    assert stat.S_IMODE(os.stat(server["privatekey_path"]).st_mode) == 0o600
    again = run(server)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]


def test_openssl_accepts_the_chain(ca: dict[str, t.Any], server: dict[str, t.Any]) -> None:
    run(server)
    context = ssl.create_default_context(cafile=ca["path"])
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(server["path"], server["privatekey_path"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    other = listener.wrap_bio(outgoing, incoming, server_side=True)
    for _turn in range(4):
        for side in (client, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.getpeercert()["subject"] == ((("commonName", "n1"),),)  # type: ignore[index]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"subject_alt_names": ["DNS:other"]}, "other names"),
        ({"common_name": "n2"}, "other common_name"),
        ({"usage": "client"}, "other usage"),
        ({"renew_before_days": 364, "valid_days": 366}, None),
        ({"renew_before_days": 366, "valid_days": 400}, "expires soon"),
    ],
)
def test_made_anew_when_it_differs(server: dict[str, t.Any], extra: dict[str, t.Any], reason: str | None) -> None:
    run(server)
    key = pathlib.Path(server["privatekey_path"]).read_bytes()
    result = run({**server, **extra})
    assert result["reasons"] == ([reason] if reason else [])
    assert pathlib.Path(server["privatekey_path"]).read_bytes() == key
    assert not run({**server, **extra})["changed"]


def test_another_ca(server: dict[str, t.Any], ca: dict[str, t.Any]) -> None:
    run(server)
    for name in ("path", "privatekey_path"):
        os.unlink(ca[name])
    run(ca)
    assert run(server)["reasons"] == ["not signed by this CA"]


def test_a_renewed_ca_still_vouches(server: dict[str, t.Any], ca: dict[str, t.Any]) -> None:
    run(server)
    os.unlink(ca["path"])
    assert run(ca)["reasons"] == ["no certificate"]
    assert not run(server)["changed"]


def test_the_mode_of_a_key_is_mended(server: dict[str, t.Any]) -> None:
    run(server)
    os.chmod(server["privatekey_path"], 0o644)
    assert run(server)["reasons"] == ["mode of the key"]
    assert stat.S_IMODE(os.stat(server["privatekey_path"]).st_mode) == 0o600


def test_killed_between_key_and_certificate(server: dict[str, t.Any]) -> None:
    run(server)
    os.unlink(server["path"])
    assert run(server)["reasons"] == ["no certificate"]
    pathlib.Path(server["path"]).write_text("rubbish")
    assert run(server)["reasons"] == ["no certificate"]


def test_a_key_that_is_none_is_never_replaced(server: dict[str, t.Any]) -> None:
    pathlib.Path(server["privatekey_path"]).write_text("rubbish")
    with pytest.raises(ModuleFailed, match="move it away"):
        run(server)
    assert pathlib.Path(server["privatekey_path"]).read_text() == "rubbish"


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"subject_alt_names": ["host"]}, "write DNS:host or IP:address"),
        ({"subject_alt_names": ["IP:host"]}, "no IP address"),
        ({"ca_cert": None}, "ca_cert"),
        ({"ca_key": "/no/such"}, "make it first"),
        ({"renew_before_days": 365}, "every run would make a new"),
        ({"path": "/no/such/dir/a.pem"}, "cannot be written"),
    ],
)
def test_bad_input(server: dict[str, t.Any], extra: dict[str, t.Any], text: str) -> None:
    with pytest.raises(ModuleFailed, match=text):
        run({**server, **extra})
