# SPDX-License-Identifier: Apache-2.0
"""The cluster port under attack: whoever has no good certificate gets nowhere, and a member's nonsense does no damage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast.consensus import types as t
from holdfast.consensus import wire
from holdfast.consensus.transport import HELLO, RAFT, REQUEST, Hello
from holdfast.core.cluster_ca import ClusterCa, new_request
from holdfast.storage.raft import RaftStorage
from holdfast.storage.types import Identity
from tests.process.harness import SOURCE, LocalCluster, free_ports, wait_for
from tests.process.host import settings

HUGE = wire.MAX_NUMBER
Make = Callable[[int], LocalCluster]


class Host:
    """A leader of a cluster of one voter; `n3` is a member (non-voter), `n2` was removed. The test holds the CA's key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = ClusterCa.generate("cl")
        self.port = free_ports(1)[0]
        self.log = folder / "log"
        key, csr = new_request("n1")

        async def bootstrap() -> None:
            storage = RaftStorage(settings(folder / "n1", "n1", self.port))
            await storage.bootstrap(Identity("cl", "n1", self.ca.cert_pem, self.ca.sign(csr, "n1"), key))
            await storage.stop()

        asyncio.run(bootstrap())
        root = str(Path(__file__).parents[2])
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.process.host", str(folder / "n1"), "n1", str(self.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{root}"},
            )
        wait_for(lambda: self.say("status")["leads"], "the server leads")
        self.say("add n2 127.0.0.1:1")
        self.say("add n3 127.0.0.1:2")
        assert self.say("remove n2") is True

    def say(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer
        return answer["ok"]

    def refusals(self) -> list[str]:
        """Log lines about connections, messages and requests that were turned away."""
        words = ("refused", "message dropped", "removed server")
        return [line for line in self.log.read_text().splitlines() if any(w in line for w in words)]

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # --- credentials and connections ---

    def certificate(self, name: str, ca: ClusterCa | None = None, days: int = 10, names: int = 1) -> Path:
        """A PEM file with key and certificate; `days` < 0: it expired that long ago."""
        ca = ca or self.ca
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.load_pem_x509_certificate(ca.cert_pem.encode())
        signer = serialization.load_pem_private_key(ca.key_pem.encode(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        end = datetime.now(UTC) + timedelta(days=days)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] * names))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=20))
            .not_valid_after(end)
            .sign(signer, hashes.SHA256())
        )
        path = self.folder / f"{name}-{time.monotonic_ns()}.pem"
        pem = serialization.Encoding.PEM
        raw = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(raw + certificate.public_bytes(pem))
        return path

    def dial(self, credentials: Path | None) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if credentials is not None:
            context.load_cert_chain(credentials)
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), 10))

    def greet(self, name: str, cluster: str = "cl", says: str = "") -> ssl.SSLSocket:
        connection = self.dial(self.certificate(name))
        send(connection, HELLO, Hello(says or name, cluster, "127.0.0.1:9", "http://x", "1").pack())
        return connection


def send(connection: ssl.SSLSocket, kind: int, payload: bytes) -> None:
    connection.sendall(struct.pack(">IB", len(payload), kind) + payload)


def done(connection: ssl.SSLSocket) -> None:
    """Everything sent before has been read: the frame of an unknown kind that ends it has been answered by closing."""
    send(connection, 77, b"")
    assert closed(connection)


def closed(connection: socket.socket, timeout: float = 10.0) -> bool:
    """True once the server has closed the connection."""
    connection.settimeout(timeout)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("port"))
    yield made
    made.close()


@contextlib.contextmanager
def unharmed(host: Host, lines: int = 1, words: str = "", writes: int = 0) -> Iterator[None]:
    """The block must leave term, leadership and (but for its own `writes`) log as they were, and `lines` lines that say `words`."""
    before, seen = host.say("status"), len(host.refusals())
    yield
    wait_for(
        lambda: sum(words in line for line in host.refusals()[seen:]) >= lines,
        f"{lines} refusals that say {words!r} are logged",
        10,
    )
    after = host.say("status")
    assert after["last_index"] == after["commit_index"] == before["last_index"] + writes
    for name in ("term", "state", "leads", "removed"):
        assert after[name] == before[name], (name, before, after)
    assert host.say("put key") == after["last_index"] + 1
    assert "Traceback" not in host.log.read_text()


def test_plain_tcp_garbage(host: Host) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 5000, b"\x16\x03\x01\xff\xff" + bytes(300), os.urandom(2000)):
        with unharmed(host), socket.create_connection(("127.0.0.1", host.port), 5) as raw:
            raw.sendall(data)
            assert closed(raw)


def test_no_certificate(host: Host) -> None:
    with unharmed(host, words="certificate"), host.dial(None) as connection:
        assert closed(connection)


def test_certificate_of_a_foreign_ca(host: Host) -> None:
    stranger = host.certificate("n3", ClusterCa.generate("cl"))
    with unharmed(host, words="certificate"), host.dial(stranger) as connection:
        assert closed(connection)


def test_expired_certificate_of_the_right_ca(host: Host) -> None:
    with unharmed(host, words="expired"), host.dial(host.certificate("n3", days=-1)) as connection:
        assert closed(connection)


def test_certificate_with_two_names(host: Host) -> None:
    with unharmed(host, words="certificate names"), host.dial(host.certificate("n3", names=2)) as connection:
        assert closed(connection)


def test_older_tls_is_refused(host: Host) -> None:
    with unharmed(host):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(host.certificate("n3"))
        raw = socket.create_connection(("127.0.0.1", host.port), 5)
        with pytest.raises(OSError, match=r"(?i)tls|ssl|protocol"):
            context.wrap_socket(raw)
        raw.close()


def test_a_name_that_was_never_a_member(host: Host) -> None:
    """It may speak Raft (a server that lags must hear a leader it does not know yet), but a leader knows the members."""
    with unharmed(host, words="not a member"), host.greet("ghost") as connection:
        for message in (t.Vote(10**6, 10**6, 10**6, True), t.PreVote(10**6, 10**6, 10**6), t.Removed(10**9, 10**6)):
            send(connection, RAFT, wire.encode(message))
        send(connection, REQUEST, msgpack.packb([1, msgpack.packb(["remove", "n3"])]))
        done(connection)


def test_a_removed_member(host: Host) -> None:
    with unharmed(host, words="removed server"), host.greet("n2") as connection:
        for message in (t.Vote(10**6, 10**6, 10**6, True), t.Append(10**6, 1, 1, 0, 9, []), t.Heartbeat(10**6, 1)):
            send(connection, RAFT, wire.encode(message))
        done(connection)
    with unharmed(host, words="not a member"), host.greet("n2") as connection:
        send(connection, REQUEST, msgpack.packb([1, msgpack.packb(["demote", "n1"])]))
        done(connection)


@pytest.mark.parametrize(
    ("says", "cluster", "words"),
    [("n9", "cl", "hello of n9 with the certificate of n3"), ("n3", "other", "another cluster")],
)
def test_hello_with_another_name_or_cluster(host: Host, says: str, cluster: str, words: str) -> None:
    with unharmed(host, words=words), host.greet("n3", cluster, says) as connection:
        assert closed(connection)


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        (RAFT, b"", "not a hello"),
        (HELLO, b"\xc1", "not msgpack"),
        (HELLO, msgpack.packb([99, "n3", "cl", "", "", ""]), "unknown format"),
        (HELLO, msgpack.packb([1, "n3", 7, "", "", ""]), "wrong type"),
        (HELLO, bytes(70_000), "frame of 70000 bytes"),
    ],
)
def test_first_frames_that_are_no_hello(host: Host, kind: int, payload: bytes, words: str) -> None:
    with unharmed(host, words=words), host.dial(host.certificate("n3")) as connection:
        with contextlib.suppress(OSError):
            send(connection, kind, payload)
        assert closed(connection)


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        (RAFT, b"\xc1", "not msgpack"),
        (RAFT, os.urandom(500) + b"\xc1", "not"),
        (RAFT, b"\x91" * 100_000, "not"),
        (RAFT, msgpack.packb([99, 1]), "unknown message kind 99"),
        (RAFT, msgpack.packb([2, -1, 1]), "wrong type"),
        (RAFT, msgpack.packb([2, 2**64 - 1, 1]), "wrong type"),
        (RAFT, msgpack.packb([1, 5, 1, 3, 1, 1, [[b"\x00", 2**60, 1]]]), "cannot follow"),
        (77, b"x", "unknown frame kind 77"),
        (HELLO, b"x", "unknown frame kind 0"),
        (REQUEST, b"\xc1", "malformed request frame"),
        (3, msgpack.packb(["x", b""]), "malformed request frame"),
    ],
)
def test_a_members_malformed_frames(host: Host, kind: int, payload: bytes, words: str) -> None:
    with unharmed(host, words=words), host.greet("n3") as connection:
        send(connection, kind, payload)
        assert closed(connection)


def test_an_oversize_frame_is_refused_by_its_length(host: Host) -> None:
    with unharmed(host, words="frame of 4294967295 bytes"), host.greet("n3") as connection:
        connection.sendall(struct.pack(">IB", 0xFFFFFFFF, RAFT))
        assert closed(connection)


def test_a_members_absurd_values(host: Host) -> None:
    term = host.say("status")["term"]
    snapshot = t.Snapshot(HUGE, 1, "wal-0000000000000001.seg", 1, "ab", t.Configuration("cl", ()), 1)
    for number in (term, HUGE):
        with unharmed(host, lines=3, words="message dropped"), host.greet("n3") as connection:
            for message in (
                t.Append(number, HUGE, HUGE - 1, number, HUGE, [t.Entry(b"\x02junk", HUGE, number)]),
                t.Heartbeat(number, HUGE),
                t.Ack(number, HUGE, True, HUGE, HUGE),
                t.Ack(number, HUGE, False, HUGE, HUGE),
                t.HeartbeatAck(number, HUGE, HUGE, HUGE, HUGE, True, True),
                t.PreVote(number, HUGE, HUGE),
                t.PreVoteReply(number, HUGE, True),
                t.Vote(number, HUGE, HUGE, True),
                t.VoteReply(number, True),
                t.TimeoutNow(number),
                t.Chunk("../../etc/passwd", HUGE, "", HUGE, b"x", 0),
                t.Chunk("snap-1.state", HUGE, "", 0, b"x", 0),
                t.ChunkAck("snap-1.state", HUGE, True),
                t.Install(number, HUGE, snapshot.pack()),
                t.Install(number, HUGE, ["junk"]),
                t.Pull("restore-../x.state", "", HUGE),
                t.Pull("restore-1.state", "", HUGE),
                t.Removed(HUGE, HUGE),
            ):
                send(connection, RAFT, wire.encode(message))
            done(connection)
    assert (host.folder / "n1" / "raft" / "wal-0000000000000001.seg").is_file()
    assert not list((host.folder / "n1" / "raft").glob("part-*"))


def test_slow_and_half_open_connections_end_and_hold_little(host: Host) -> None:
    before = host.memory()
    with contextlib.ExitStack() as stack, unharmed(host, lines=40, writes=1):
        waiting: list[socket.socket] = [
            stack.enter_context(socket.create_connection(("127.0.0.1", host.port), 5)) for _ in range(30)
        ]
        for raw in waiting[:10]:
            raw.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        for _ in range(10):
            connection = stack.enter_context(host.dial(host.certificate("n3")))
            connection.sendall(struct.pack(">IB", 60_000, HELLO) + bytes(100))  # half a hello
            waiting.append(connection)
        members = [stack.enter_context(host.greet("n3")) for _ in range(3)]
        for connection in members:
            connection.sendall(struct.pack(">IB", wire.MAX_FRAME, RAFT) + bytes(1 << 20))  # half a frame
        assert all(closed(raw) for raw in waiting)
        assert host.say("put meanwhile")
    assert host.memory() - before < 64 * 1024 * 1024


def test_a_flood_of_handshakes_does_not_fill_the_memory(host: Host) -> None:
    before = host.memory()
    with contextlib.ExitStack() as stack, unharmed(host, words="too many handshakes", writes=1):
        raws = [stack.enter_context(socket.create_connection(("127.0.0.1", host.port), 5)) for _ in range(320)]
        assert host.say("put meanwhile")
        assert any(closed(raw, 1.0) for raw in raws[-20:])
    assert host.memory() - before < 64 * 1024 * 1024


def test_a_real_server_says_whom_it_turned_away(make_cluster: Make, host: Host) -> None:
    server = make_cluster(1).leader()
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    stranger.load_cert_chain(host.certificate("n1"))
    with stranger.wrap_socket(socket.create_connection(("127.0.0.1", server.cluster_port), 5)) as connection:
        assert closed(connection)
    with socket.create_connection(("127.0.0.1", server.cluster_port), 5) as raw:
        raw.sendall(b"hello?\r\n\r\n")
        assert closed(raw)
    wait_for(lambda: server.log.read_text().count("cluster connection refused") >= 2, "both are logged")
    assert "127.0.0.1" in server.log.read_text().split("cluster connection refused")[1]
    assert server.get("sys/health").status == 200
