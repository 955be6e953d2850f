# SPDX-License-Identifier: Apache-2.0
"""The two-phase join between two cores over a real loopback connection."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast.core.cluster_ca import new_request
from holdfast.storage.types import Delete, Event, Put

NewNode = Callable[..., Any]
GENERIC = "failed to join raft cluster: failed to get raft challenge"
Answerer = Callable[[str, dict[str, Any]], Awaitable[tuple[int, Any, dict[str, str]]]]


class Server:
    """A minimal HTTP server in the test's own loop."""

    def __init__(self, answer: Answerer, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._context = context
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._context else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in head if line.lower().startswith("content-length"))
        body = json.loads(await reader.readexactly(length))
        status, answer, headers = await self._answer(head[0].split(" ")[1].removeprefix("/v1/"), body)
        text = json.dumps(answer).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(text)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + text)
        await writer.drain()
        writer.close()


def serving(node: Any, context: ssl.SSLContext | None = None) -> Server:
    async def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        status, reply = await node.call("PUT", path, body, token="")
        return status, reply, {}

    return Server(answer, context)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def cluster(new_node: NewNode) -> Any:
    """A leader with five shares, three needed."""
    node = new_node("raft1")
    await node.init()
    await node.unseal()
    yield node
    await node.core.shutdown()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 500, "leader_api_addr is missing"),
        ({"leader_api_addr": "http://127.0.0.1:1", "auto_join": "provider=mdns"}, 500, "not both"),
        ({"auto_join": "provider=nothing"}, 500, 'no such provider "nothing"'),
        ({"auto_join": "nonsense"}, 500, 'no such provider "nonsense"'),
        ({"leader_api_addr": "http://127.0.0.1:1"}, 500, "http://127.0.0.1:1: connection refused"),
        ({"leader_api_addr": "127.0.0.1"}, 500, "must be a URL"),
        ({"leader_api_addr": "http://127.0.0.1:1", "leader_ca_cert": "bad"}, 500, "leader_ca_cert is not a PEM"),
        ({"leader_api_addr": "http://127.0.0.1:1", "leader_client_key": "x"}, 500, "must be given together"),
        ({"leader_api_addr": "https://127.0.0.1:1", "leader_ca_cert": "bad", "retry": True}, 500, "not a PEM"),
    ],
)
async def test_failures_say_why_after_the_known_sentence(
    new_node: NewNode, body: dict[str, Any], status: int, text: str
) -> None:
    node = new_node("raft2")
    got, answer = await node.call("POST", "sys/storage/raft/join", body)
    assert got == status
    assert answer["errors"][0].startswith(GENERIC + ": ")
    assert text in answer["errors"][0]
    assert not node.core.initialized()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"auto_join_scheme": "ftp"}, 'invalid scheme "ftp"; must either be http or https'),
        (
            {"auto_join_port": -1},
            "failed to decode JSON input: json: cannot unmarshal number -1 into Go struct field "
            "JoinRequest.auto_join_port of type uint",
        ),
        (
            {"leader_api_addr": 5},
            "failed to decode JSON input: json: cannot unmarshal number into Go struct field "
            "JoinRequest.leader_api_addr of type string",
        ),
        ({"retry": "yes"}, "failed to decode JSON input"),
    ],
)
async def test_malformed_requests(new_node: NewNode, body: dict[str, Any], text: str) -> None:
    status, answer = await new_node("raft2").call("POST", "sys/storage/raft/join", body)
    assert status == 400
    assert answer["errors"][0].startswith(text)


async def test_without_raft(new_node: NewNode) -> None:
    node = new_node(raft=False)
    assert await node.call("POST", "sys/storage/raft/join", {}) == (500, {"errors": ["raft backend not in use"]})


async def test_a_sealed_leader_is_named(new_node: NewNode) -> None:
    first, second = new_node("raft1"), new_node("raft2")
    async with serving(first) as server:
        status, body = await second.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
    assert status == 500
    assert body["errors"] == [f"{GENERIC}: {server.url}: the server answered 503: Vault is sealed"]


async def test_join_as_recorded(cluster: Any, new_node: NewNode) -> None:
    node = new_node("raft2")
    async with serving(cluster) as server:
        join = {"leader_api_addr": server.url}
        assert await node.call("POST", "sys/storage/raft/join", join) == (200, {"joined": True})
        assert node.core.joining()
        body = node.core.seal_status()
        assert (body["initialized"], body["sealed"], body["t"], body["n"]) == (True, True, 3, 5)
        assert await node.call("GET", "sys/init") == (200, {"initialized": True})
        assert (await node.call("GET", "sys/health"))[0] == 503
        status, body = await node.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        assert (status, body) == (400, {"errors": ["Vault is already initialized"]})
        for wrong, progress in (("11" * 33, 1), ("22" * 32 + "02", 2)):
            _, body = await node.call("PUT", "sys/unseal", {"key": wrong})
            assert body["progress"] == progress
        status, body = await node.call("PUT", "sys/unseal", {"key": "33" * 32 + "03"})
        assert (status, body) == (
            400,
            {"errors": ["error decrypting challenge: cipher: message authentication failed"]},
        )
        assert node.core.joining()
        assert node.core.seal_status()["progress"] == 0
        assert "raft2" not in cluster.cluster.world.servers
        for key in cluster.keys[:3]:
            status, body = await node.call("PUT", "sys/unseal", {"key": key})
            assert status == 200
        await eventually(lambda: not node.core.sealed())
    assert node.cluster.eligible
    assert (await node.call("GET", "sys/health"))[0] == 429
    assert (await node.call("GET", "auth/token/lookup-self", token=cluster.token))[0] == 307
    _, body = await cluster.call("GET", "sys/storage/raft/configuration")
    assert body["data"]["config"]["servers"] == [
        {"node_id": "raft1", "address": "raft1.test:8201", "leader": True, "protocol_version": "3", "voter": True},
        {"node_id": "raft2", "address": "raft2.test:8201", "leader": False, "protocol_version": "3", "voter": False},
    ]
    identity = node.cluster.identity
    certificate = x509.load_pem_x509_certificate(identity.cert_pem.encode())
    issuer = x509.load_pem_x509_certificate(identity.ca_pem.encode())
    certificate.verify_directly_issued_by(issuer)
    assert certificate.subject.rfc4514_string() == "CN=raft2"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["raft2"]
    assert await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": "http://127.0.0.1:1"}) == (
        200,
        {"joined": True},
    )
    await node.core.shutdown()


async def test_non_voter_is_honoured(cluster: Any, new_node: NewNode) -> None:
    node = new_node("raft2")
    async with serving(cluster) as server:
        await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url, "non_voter": True})
        await node.unseal(cluster.keys)
        await eventually(lambda: not node.core.sealed())
    assert cluster.cluster.world.servers["raft2"].permanent_non_voter
    await node.core.shutdown()


async def test_a_leader_that_restarted_between_the_phases(
    cluster: Any, new_node: NewNode, restart: Callable[[Any], Any]
) -> None:
    node, current = new_node("raft2"), [cluster]

    async def answer(path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return *(await current[0].call("PUT", path, body, token="")), {}

    async with Server(answer) as server:
        await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        await cluster.core.shutdown()
        current[0] = restart(cluster)
        await current[0].unseal()
        await node.unseal(cluster.keys)
        await eventually(lambda: not node.core.sealed())
        assert not node.core.joining()
    await node.core.shutdown()
    await current[0].core.shutdown()


async def test_retry_goes_on_until_there_is_a_leader(new_node: NewNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.core.joining._RETRY_PAUSE", 0.01)
    first, second = new_node("raft1"), new_node("raft2")
    async with serving(first) as server:
        body = {"leader_api_addr": server.url, "retry": True}
        assert await second.call("POST", "sys/storage/raft/join", body) == (200, {"joined": False})
        assert not second.core.joining()
        await first.init()
        await first.unseal()
        await eventually(second.core.joining)
        await second.unseal(first.keys)
        await eventually(lambda: not second.core.sealed())
    await second.core.shutdown()
    await first.core.shutdown()


async def test_redirects_are_followed_three_times_at_most(cluster: Any, new_node: NewNode) -> None:
    async with serving(cluster) as target:

        async def once(path: str, _: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
            return 307, {}, {"Location": f"{target.url}/v1/{path}"}

        async with Server(once) as standby:
            node = new_node("raft2")
            assert await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": standby.url}) == (
                200,
                {"joined": True},
            )

    hops = [0]

    async def forever(path: str, _: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        hops[0] += 1
        return 307, {}, {"Location": f"/v1/{path}?{hops[0]}"}

    async with Server(forever) as loop:
        status, body = await new_node("raft3").call("POST", "sys/storage/raft/join", {"leader_api_addr": loop.url})
    assert status == 500
    assert "more than 3 redirects" in body["errors"][0]
    assert hops == [4]


async def test_conflicts_are_refused_before_any_share_is_asked_for(cluster: Any, new_node: NewNode) -> None:
    world = cluster.cluster.world
    await cluster.cluster.add_server("raft2", "elsewhere:8201", False)
    async with serving(cluster) as server:
        join = {"leader_api_addr": server.url}
        node = new_node("raft2")
        status, body = await node.call("POST", "sys/storage/raft/join", join)
        assert status == 500
        assert "already in use by a live server at elsewhere:8201" in body["errors"][0]
        world.dead.add("raft2")
        assert (await node.call("POST", "sys/storage/raft/join", join))[0] == 200
        same = new_node("raft1")
        status, body = await same.call("POST", "sys/storage/raft/join", join)
        assert status == 500
        assert "that of the leader" in body["errors"][0]
        await cluster.cluster.add_server("raft9", "raft3.test:8201", False)
        status, body = await new_node("raft3").call("POST", "sys/storage/raft/join", join)
        assert status == 500
        assert "belongs to the server raft9" in body["errors"][0]


async def test_a_wiped_server_rejoins_as_a_learner(cluster: Any, new_node: NewNode) -> None:
    world = cluster.cluster.world
    await cluster.cluster.add_server("raft2", "raft2.test:8201", False)
    await cluster.cluster.promote("raft2")
    node = new_node("raft2")
    async with serving(cluster) as server:
        await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        await node.unseal(cluster.keys)
        await eventually(lambda: not node.core.sealed())
    assert not world.servers["raft2"].voter
    await node.core.shutdown()


async def test_data_of_another_cluster_or_of_a_former_member(cluster: Any, new_node: NewNode) -> None:
    stranger = new_node("other")
    await stranger.init(1, 1)
    async with serving(cluster) as server:
        status, body = await stranger.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        assert status == 400
        assert "belongs to another cluster" in body["errors"][0]
        assert "wipe its data directory" in body["errors"][0]
        former = new_node("raft2")
        await former.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        await former.unseal(cluster.keys)
        await eventually(lambda: not former.core.sealed())
        await cluster.call("POST", "sys/storage/raft/remove-peer", {"server_id": "raft2"})
        assert former.core.seal_status()["removed_from_cluster"] is True
        assert (await former.call("GET", "sys/health"))[0] == 530
        status, body = await former.call("GET", "auth/token/lookup-self", token=cluster.token)
        assert status == 503
        assert "removed from its cluster" in body["errors"][0]
        assert not former.cluster.eligible
        status, body = await former.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        assert status == 400
        assert "wipe its data directory" in body["errors"][0]
    await former.core.shutdown()


async def test_texts_of_challenge_and_answer(cluster: Any) -> None:
    challenge, answer = "sys/storage/raft/bootstrap/challenge", "sys/storage/raft/bootstrap/answer"

    async def refused(path: str, body: dict[str, Any]) -> str:
        status, reply = await cluster.call("PUT", path, body, token="")
        assert status == 400
        return str(reply["errors"][0])

    good = {"server_id": "raft2", "answer": "QQ==", "cluster_addr": "raft2.test:8201"}
    assert await refused(challenge, {}) == "no server id provided"
    assert await refused(challenge, {"server_id": "x" * 16385}) == "server id exceeds max length"
    assert await refused(answer, {}) == "no server_id provided"
    assert await refused(answer, {"server_id": "raft2"}) == "no answer provided"
    assert await refused(answer, {"server_id": "raft2", "answer": "QQ=="}) == "no cluster_addr provided"
    assert await refused(answer, {**good, "answer": "!"}) == "could not base64 decode answer"
    assert await refused(answer, good) == "invalid answer given"
    world = cluster.cluster.world
    invitations = cluster.core._opened.dispatcher._system
    assert invitations is not None
    assert set(world.servers) == {"raft1"}


async def test_answer_demands_a_csr_and_a_sane_address(cluster: Any) -> None:
    status, body = await cluster.call("PUT", "sys/storage/raft/bootstrap/challenge", {"server_id": "raft2"}, token="")
    assert status == 200
    assert body["data"]["seal_config"]["secret_threshold"] == 3
    from holdfast.barrier import seal, shamir

    kek = shamir.combine([bytes.fromhex(key) for key in cluster.keys[:3]])
    answer = base64.b64encode(seal.decrypt(kek, base64.b64decode(body["data"]["challenge"]))).decode()
    request = {"server_id": "raft2", "answer": answer, "cluster_addr": "raft2.test:8201"}
    path = "sys/storage/raft/bootstrap/answer"
    for change, text in (
        ({}, "no csr provided"),
        ({"csr": "rubbish"}, "not a PEM certificate request"),
        ({"csr": new_request("raft2")[1], "cluster_addr": "raft2"}, "is not of the form host:port"),
        ({"server_id": "raft3"}, "invalid answer given"),
    ):
        status, reply = await cluster.call("PUT", path, {**request, **change}, token="")
        assert status == 400
        assert text in reply["errors"][0]
    assert set(cluster.cluster.world.servers) == {"raft1"}


def _certificate(tmp_path: Path, name: str | None) -> tuple[str, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    san: x509.GeneralName = x509.DNSName(name) if name else x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([san]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    path = tmp_path / "pair.pem"
    path.write_text(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return pem, context


async def test_tls_is_verified_and_the_server_name_always_counts(
    cluster: Any, new_node: NewNode, tmp_path: Path
) -> None:
    pem, context = _certificate(tmp_path, "leader.example")
    async with serving(cluster, context) as server:
        node = new_node("raft2")
        status, body = await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        assert status == 500
        assert "certificate is not accepted" in body["errors"][0]
        request = {"leader_api_addr": server.url, "leader_ca_cert": pem}
        status, body = await node.call("POST", "sys/storage/raft/join", request)
        assert status == 500
        assert "certificate is not accepted" in body["errors"][0]
        request["leader_tls_servername"] = "leader.example"
        assert await node.call("POST", "sys/storage/raft/join", request) == (200, {"joined": True})


async def test_a_key_that_does_not_belong_to_the_certificate(new_node: NewNode, tmp_path: Path) -> None:
    pem, _ = _certificate(tmp_path, None)
    key, _ = new_request("x")
    body = {"leader_api_addr": "https://127.0.0.1:1", "leader_client_cert": pem, "leader_client_key": key}
    status, answer = await new_node("raft2").call("POST", "sys/storage/raft/join", body)
    assert status == 400
    assert "does not belong" in answer["errors"][0]


async def test_sealing_the_leader_hands_over_and_a_standby_can_be_sealed(cluster: Any, new_node: NewNode) -> None:
    node = new_node("raft2")
    async with serving(cluster) as server:
        await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url})
        await node.unseal(cluster.keys)
        await eventually(lambda: not node.core.sealed())
    await cluster.cluster.promote("raft2")
    await cluster.call("POST", "sys/mounts/kv1", {"type": "kv"})
    await cluster.call("POST", "kv1/a", {"v": 1})
    assert (await cluster.call("PUT", "sys/seal"))[0] == 204
    assert cluster.core.sealed()
    status, body = await node.call("GET", "kv1/a", token=cluster.token)
    assert (status, body["data"]) == (200, {"v": 1})
    await cluster.unseal()
    assert (await cluster.call("GET", "sys/health"))[0] == 429
    assert (await cluster.call("PUT", "sys/seal", token="s.no"))[0] == 403
    assert (await cluster.call("PUT", "sys/seal"))[0] == 204
    assert cluster.core.sealed()
    await node.core.shutdown()


async def test_a_server_that_joins_after_a_restore_of_another_cluster(cluster: Any, new_node: NewNode) -> None:
    other = new_node("other")
    await other.init(1, 1)
    target, source = cluster.cluster.world.storage, other.cluster.world.storage
    await target.commit([Delete(key) for key in target.scan("")])
    await target.commit([Put(key, source.get(key).value) for key in source.scan("")])
    cluster.cluster.emit(Event.STATE_REPLACED)
    assert cluster.core.sealed()
    await cluster.unseal(other.keys)
    node = new_node("raft2")
    async with serving(cluster) as server:
        assert (await node.call("POST", "sys/storage/raft/join", {"leader_api_addr": server.url}))[0] == 200
        assert node.core.seal_status()["t"] == 1
        await node.unseal(other.keys)
        await eventually(lambda: not node.core.sealed())
    await node.core.shutdown()
