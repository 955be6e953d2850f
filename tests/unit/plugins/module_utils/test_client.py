# SPDX-License-Identifier: GPL-3.0-or-later
"""Transport over real sockets and TLS."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import socket

import pytest

from ansible_collections.holdfast.raft.plugins.module_utils._client import Client, Settings, _decode, _plain
from ansible_collections.holdfast.raft.plugins.module_utils._errors import (
    ApiError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RaftError,
    Sealed,
    Unreachable,
)
from ansible_collections.holdfast.raft.tests.unit.plugins.fake_cluster import Lab


def settings(lab: Lab, **extra: object) -> Settings:
    return dataclasses.replace(Settings(ca_cert=str(lab.tls / "ca.pem"), timeout=5), **extra)  # type: ignore[arg-type]


def test_get(lab: Lab) -> None:
    node = lab.node("n1")
    answer = Client(node.url, settings(lab)).get("sys/seal-status")
    assert answer.body["initialized"] is False
    assert answer.data == answer.body


def test_enveloped(lab: Lab) -> None:
    cluster = lab.cluster("n1")
    client = Client(lab.nodes["n1"].url, settings(lab, token=cluster.token))
    assert client.get("sys/storage/raft/configuration").data["config"]["servers"][0]["node_id"] == "n1"


def test_errors_by_status(lab: Lab) -> None:
    node = lab.node("n1")
    client = Client(node.url, settings(lab))
    with pytest.raises(Sealed, match="Vault is sealed"):
        client.get("sys/storage/raft/configuration")
    cluster = lab.cluster("n2")
    client = Client(lab.nodes["n2"].url, settings(lab, token="wrong-secret"))
    with pytest.raises(Forbidden, match="permission denied") as caught:
        client.get("sys/mounts")
    assert caught.value.details["status"] == 403
    assert "wrong-secret" not in str(caught.value.__dict__)
    with pytest.raises(NotFound, match="unsupported path"):
        Client(lab.nodes["n2"].url, settings(lab, token=cluster.token)).get("sys/nothing")


def test_tls_is_checked(lab: Lab) -> None:
    node = lab.node("n1")
    with pytest.raises(Unreachable, match=r"no TLS connection.*certificate"):
        Client(node.url, Settings(timeout=5)).get("sys/seal-status")
    with pytest.raises(RaftError, match="there is no /no/such"):
        Client(node.url, Settings(ca_cert="/no/such/ca.pem", timeout=5)).get("sys/seal-status")
    assert Client(node.url, Settings(validate_certs=False, timeout=5)).get("sys/seal-status").status == 200


def test_tls_server_name(lab: Lab) -> None:
    node = lab.node("n1", certificate="named")
    with pytest.raises(Unreachable, match="no TLS connection"):
        Client(node.url, settings(lab)).get("sys/seal-status")
    assert Client(node.url, settings(lab, tls_server_name="holdfast.test")).get("sys/seal-status").status == 200
    with pytest.raises(Unreachable, match="no TLS connection"):
        Client(node.url, settings(lab, tls_server_name="other.test")).get("sys/seal-status")


def test_nobody_there(lab: Lab) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"no connection to https://127.0.0.1:{port}/v1/sys/init: .*refused") as caught:
            Client(f"https://127.0.0.1:{port}", settings(lab)).get("sys/init")
    assert "object at 0x" not in str(caught.value)


@pytest.mark.parametrize("url", ["10.0.0.1:8200", "ftp://host:8200", "https://", ""])
def test_no_address(url: str, lab: Lab) -> None:
    with pytest.raises(Unreachable, match="is not an API address"):
        Client(url, settings(lab))


def test_an_answer_that_never_comes(lab: Lab) -> None:
    node = lab.node("n1")
    node.drop_init_answer = True
    with pytest.raises(OutcomeUnknown):
        Client(node.url, settings(lab)).put_raw("sys/init", {"secret_shares": 1, "secret_threshold": 1})


def test_redirects_are_followed_with_token_and_body(lab: Lab) -> None:
    cluster = lab.cluster("n1", "n2")
    client = Client(lab.nodes["n2"].url, settings(lab, token=cluster.token))
    out = io.BytesIO()
    client.download("sys/storage/raft/snapshot", out.write)
    assert out.getvalue()[:2] == b"\x1f\x8b"
    stream = io.BytesIO(b"skipped" + out.getvalue())
    stream.seek(7)
    assert client.upload("sys/storage/raft/snapshot", stream).status == 204
    assert lab.nodes["n1"].requests.count(("POST", "sys/storage/raft/snapshot")) == 1


def test_redirects_end_somewhere(lab: Lab) -> None:
    one, two = lab.node("n1"), lab.node("n2")
    one.redirect_to, two.redirect_to = two.url, one.url
    with pytest.raises(Unreachable, match="redirects more than 3 times"):
        Client(one.url, settings(lab)).get("sys/init")
    one.redirect_to = "http://127.0.0.1:1"
    with pytest.raises(Unreachable, match="never leaves https"):
        Client(one.url, settings(lab)).get("sys/init")


def test_a_cut_off_download_is_an_error_or_shorter_but_never_silent(lab: Lab, tmp_path: pathlib.Path) -> None:
    cluster = lab.cluster("n1")
    lab.nodes["n1"].cut_download = True
    whole = len(cluster.state)
    out = io.BytesIO()
    Client(lab.nodes["n1"].url, settings(lab, token=cluster.token)).download("sys/storage/raft/snapshot", out.write)
    assert len(out.getvalue()) > whole / 4  # the transport cannot know; the archive check does (test_raft_snapshot)


def test_the_token_is_not_shown() -> None:
    assert "s.secret" not in repr(Settings(token="s.secret"))


def test_bodies() -> None:
    assert _decode(b"") == {}
    assert _decode(b'{"errors": ["a"]}\n{"errors": ["b"]}') == {"errors": ["a"]}
    assert _decode(b"<html>") is None
    assert _decode(b"[1]") is None
    assert _plain("1 error occurred:\n\t* permission denied\n\n") == "permission denied"
    assert _plain("plain") == "plain"


def test_not_a_vault(lab: Lab) -> None:
    cluster = lab.cluster("n1")
    client = Client(lab.nodes["n1"].url, settings(lab, token=cluster.token))
    with pytest.raises(ApiError, match="no JSON object"):
        client.get("sys/storage/raft/snapshot")
