# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster in memory that answers over real TLS as OpenBao 2.6 does (test_fake_cluster compares it with transcripts).

It knows only what the modules use: init, seal, join, membership, autopilot, leadership, snapshots. Faults are attributes.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import gzip
import hashlib
import io
import json
import pathlib
import ssl
import tarfile
import threading
import typing as t
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ansible_collections.holdfast.raft.plugins.module_utils import _certificate

Reply = t.Tuple[int, t.Any]
RAFT = "sys/storage/raft"


def make_tls(directory: pathlib.Path) -> pathlib.Path:
    now = datetime.datetime.now(datetime.timezone.utc)
    ca = (str(directory / "ca.pem"), str(directory / "ca.key"))
    _certificate.issue(_certificate.Place(*ca, "", ""), _certificate.Wanted("ca", "test CA", (), 30, 1), now)
    for name, names in (("server", ("DNS:localhost", "IP:127.0.0.1")), ("named", ("DNS:holdfast.test",))):
        place = _certificate.Place(str(directory / f"{name}.pem"), str(directory / f"{name}.key"), *ca)
        _certificate.issue(place, _certificate.Wanted("server", name, names, 30, 1), now)
    return directory


def archive(state: bytes, sealed_by: str, index: int = 7) -> bytes:
    """A snapshot; C(sealed_by) stands for the seal key."""
    meta = json.dumps({"Index": index, "Term": 2, "Size": len(state), "Configuration": {"Servers": [{"ID": "n1"}]}}).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in (("meta.json", meta), ("state.bin", state)))
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in (
            ("meta.json", meta),
            ("state.bin", state),
            ("SHA256SUMS", sums.encode()),
            ("SHA256SUMS.sealed", f"{sealed_by} {sums}".encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclasses.dataclass
class Member:
    address: str
    voter: bool = False
    permanent: bool = False
    healthy: bool = True
    rounds: int = 2  # readings of the configuration until a learner becomes a voter


class FakeCluster:
    """What the servers of one cluster share."""

    registry: t.ClassVar[dict[str, FakeCluster]] = {}

    def __init__(self, shares: int, threshold: int) -> None:
        self.cluster_id = str(uuid.uuid4())
        self.registry[self.cluster_id] = self
        self.key_id, self.threshold = self.cluster_id, threshold
        self.shares = [base64.b64encode(f"{self.cluster_id}/{number}".encode()).decode() for number in range(shares)]
        self.token = f"s.{uuid.uuid4().hex[:24]}"
        self.members: dict[str, Member] = {}
        self.leader = ""
        self.index = 10
        self.state = b"state of " + self.cluster_id.encode()
        self.autopilot = {
            "cleanup_dead_servers": False,
            "dead_server_last_contact_threshold": "24h0m0s",
            "last_contact_threshold": "10s",
            "max_trailing_logs": 1000,
            "min_quorum": 0,
            "server_stabilization_time": "10s",
        }
        self.silent_readings = 0  # how often autopilot/state still answers 404
        self.transferable = True
        self.calls: list[str] = []

    def reading(self) -> None:
        """Autopilot's progress, one round per reading."""
        for member in self.members.values():
            if not member.voter and not member.permanent and member.healthy:
                member.rounds -= 1
                member.voter = member.rounds <= 0

    def elect(self) -> None:
        others = [i for i, m in self.members.items() if m.voter and m.healthy and i != self.leader]
        if others and self.transferable:
            self.leader = others[0]


class FakeNode:
    """One server. Its attributes may be changed while it runs."""

    def __init__(self, lab: Lab, node_id: str, certificate: str = "server") -> None:
        self.lab, self.node_id = lab, node_id
        self.cluster: FakeCluster | None = None
        self.sealed, self.pending, self.removed = True, False, False
        self.given: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.sealed_reads = 0  # how often seal-status still says sealed after the last share (a joiner without data)
        self.loses_non_voter = True  # as OpenBao under Shamir
        self.extensions = True  # promote and demote exist
        self.redirect_to = ""
        self.cut_download = False
        self.drop_init_answer = False
        self.after_force_unsealable = 0  # how often the snapshot's shares are refused at first
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(lab.tls / f"{certificate}.pem", lab.tls / f"{certificate}.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.address = f"127.0.0.1:{self.port + 1}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def initialized(self) -> bool:
        return self.cluster is not None

    @property
    def leads(self) -> bool:
        return bool(self.cluster and not self.sealed and self.cluster.leader == self.node_id)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, token: str, raw: bytes) -> Reply:
        self.requests.append((method, path))
        body = json.loads(raw) if raw[:1] == b"{" else {}
        update = method in ("PUT", "POST")
        if path == "sys/seal-status":
            return 200, self.seal_status()
        if path == "sys/health":
            return 200, self.health()
        if path == "sys/init":
            return self.init(body) if update else (200, {"initialized": self.initialized})
        if path == "sys/unseal":
            return self.unseal(body)
        if path == f"{RAFT}/join":
            return self.join(body)
        if self.cluster is None or self.sealed:
            return 503, ["Vault is sealed"]
        if path == "sys/leader":
            return 200, self.leader()
        if token != self.cluster.token:
            return 403, ["permission denied"]
        return self.routed(update, path, body, raw)

    def seal_status(self) -> dict[str, t.Any]:
        cluster = self.cluster
        sealed = self.sealed
        if not self.sealed and self.sealed_reads > 0:
            self.sealed_reads -= 1
            sealed = True
        status: dict[str, t.Any] = {"type": "shamir", "initialized": self.initialized, "sealed": sealed}
        shares = FakeCluster.registry[cluster.key_id].shares if cluster else []
        status.update(t=cluster.threshold if cluster else 0, n=len(shares), progress=len(self.given))
        status.update(nonce="nonce" if self.given else "", recovery_seal=False, version="2.0.0-HEAD", commit_date="")
        status.update(migration=False, storage_type="raft")
        if cluster and not sealed:
            status.update(cluster_name="fake", cluster_id=cluster.cluster_id)
        if self.removed:
            status["removed_from_cluster"] = True
        return status

    def health(self) -> dict[str, t.Any]:
        return {
            "initialized": self.initialized,
            "sealed": self.sealed,
            "standby": not self.leads,
            "replication_performance_mode": "unknown" if self.sealed else "primary",
            "replication_dr_mode": "unknown" if self.sealed else "disabled",
            "server_time_utc": 1795537505,
            "version": "2.0.0-HEAD",
        }

    def leader(self) -> dict[str, t.Any]:
        assert self.cluster is not None
        lead = self.lab.nodes.get(self.cluster.leader)
        status: dict[str, t.Any] = {"ha_enabled": True, "leader_address": lead.url if lead else ""}
        status["leader_cluster_address"] = f"https://{lead.address}" if lead else ""
        status.update(raft_committed_index=self.cluster.index, raft_applied_index=self.cluster.index)
        return {**status, **({"is_self": True, "active_time": "2026-11-24T00:00:00Z"} if self.leads else {})}

    def init(self, body: dict[str, t.Any]) -> Reply:
        if self.cluster is not None:
            return 400, ["Vault is already initialized"]
        if body.get("secret_threshold", 0) > body.get("secret_shares", 0):
            return 400, ["invalid seal configuration: threshold cannot be larger than shares"]
        self.cluster = FakeCluster(body["secret_shares"], body["secret_threshold"])
        self.cluster.members[self.node_id] = Member(self.address, voter=True)
        keys = [base64.b64decode(share).hex() for share in self.cluster.shares]
        reply = {"keys": keys, "keys_base64": self.cluster.shares, "root_token": self.cluster.token}
        return (0, None) if self.drop_init_answer else (200, reply)

    def unseal(self, body: dict[str, t.Any]) -> Reply:
        if self.cluster is None:
            return 400, ["Vault is not initialized"]
        if body.get("reset"):
            self.given = []
            return (200, self.seal_status()) if self.sealed else (400, ["vault is unsealed"])
        if not self.sealed:
            return 200, self.seal_status()
        if body["key"] not in self.given:
            self.given.append(body["key"])
        if len(self.given) < self.cluster.threshold:
            return 200, self.seal_status()
        given, self.given = self.given, []
        right = all(share in FakeCluster.registry[self.cluster.key_id].shares for share in given)
        if not right or self.after_force_unsealable > 0:
            self.after_force_unsealable -= 1
            if self.pending:
                return 500, ["error decrypting challenge: cipher: message authentication failed"]
            return 400, ["unable to retrieve stored keys: invalid key: failed to decrypt keys from storage"]
        self._open()
        return 200, self.seal_status()

    def _open(self) -> None:
        assert self.cluster is not None
        self.sealed = False
        if self.pending:
            self.pending = False
            self.cluster.members[self.node_id] = Member(self.address, permanent=self.non_voter and not self.loses_non_voter)
        if not self.cluster.leader:
            self.cluster.leader = self.node_id

    def join(self, body: dict[str, t.Any]) -> Reply:
        if self.cluster is not None and not self.pending:
            return 200, {"joined": True}
        lead = next((n for n in self.lab.nodes.values() if n.url == body.get("leader_api_addr")), None)
        if lead is None or lead.cluster is None or lead.sealed:
            return 500, ["failed to join raft cluster: failed to get raft challenge"]
        self.cluster, self.pending, self.non_voter = lead.cluster, True, bool(body.get("non_voter"))
        return 200, {"joined": not body.get("retry")}

    def routed(self, update: bool, path: str, body: dict[str, t.Any], raw: bytes) -> Reply:
        assert self.cluster is not None
        cluster = self.cluster
        if update:
            cluster.calls.append(path.rsplit("/", 1)[-1] + (f" {body['server_id']}" if "server_id" in body else ""))
        if path == f"{RAFT}/configuration":
            cluster.reading()
            return 200, {"data": {"config": {"index": 0, "servers": self._servers()}}}
        if path == f"{RAFT}/autopilot/state":
            return self._autopilot_state()
        if path == "sys/ha-status":
            return 200, {"data": {"nodes": self._ha_nodes()}}
        if path == "sys/mounts":
            return 200, {"data": {}}
        if path == f"{RAFT}/autopilot/configuration":
            if not update:
                return 200, {"data": dict(cluster.autopilot)}
            cluster.autopilot.update(body)
            return 204, None
        if path == "sys/step-down":
            cluster.elect()
            return 204, None
        if path in (f"{RAFT}/remove-peer", f"{RAFT}/promote", f"{RAFT}/demote"):
            return self._change(path.rsplit("/", 1)[-1], body.get("server_id", ""))
        if path in (f"{RAFT}/snapshot", f"{RAFT}/snapshot-force"):
            return self._snapshot(update, path.endswith("force"), raw)
        return 404, ["unsupported path"]

    def _servers(self) -> list[dict[str, t.Any]]:
        assert self.cluster is not None
        return [
            {"node_id": i, "address": m.address, "leader": i == self.cluster.leader, "protocol_version": "3", "voter": m.voter}
            for i, m in self.cluster.members.items()
        ]

    def _ha_nodes(self) -> list[dict[str, t.Any]]:
        assert self.cluster is not None
        nodes = [self.lab.nodes[i] for i in self.cluster.members if i in self.lab.nodes]
        return [{"api_address": n.url, "cluster_address": f"https://{n.address}", "active_node": n.leads} for n in nodes]

    def _autopilot_state(self) -> Reply:
        assert self.cluster is not None
        if self.cluster.silent_readings > 0:
            self.cluster.silent_readings -= 1
            return 404, []
        servers = {
            i: {"id": i, "healthy": m.healthy, "last_index": 10, "node_type": "non-voter" if m.permanent else "voter"}
            for i, m in self.cluster.members.items()
        }
        healthy = sum(1 for m in self.cluster.members.values() if m.voter and m.healthy)
        voters = sum(1 for m in self.cluster.members.values() if m.voter)
        return 200, {"data": {"servers": servers, "failure_tolerance": max(0, healthy - voters // 2 - 1)}}

    def _change(self, call: str, node_id: str) -> Reply:
        assert self.cluster is not None
        cluster = self.cluster
        if not node_id:
            return 400, ["no server id provided"]
        if call == "remove-peer":
            cluster.members.pop(node_id, None)
            if cluster.leader == node_id:
                cluster.elect()
            return 204, None
        if not self.extensions:
            return 404, ["unsupported path"]
        member = cluster.members.get(node_id)
        if call == "promote":
            if member is None or not member.permanent:
                return 500, ["1 error occurred:\n\t* server is not a non-voter\n\n"]
            member.permanent, member.rounds = False, 2
        elif member is not None:
            member.permanent, member.voter = True, False
        return 204, None

    def _snapshot(self, update: bool, force: bool, raw: bytes) -> Reply:
        assert self.cluster is not None
        if not self.leads:
            return 307, self.lab.nodes[self.cluster.leader].url + f"/v1/{RAFT}/snapshot" + ("-force" if force else "")
        if not update:
            return 200, archive(self.cluster.state, self.cluster.key_id, self.cluster.index)
        try:
            with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
                parts = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        except (tarfile.TarError, OSError, EOFError):
            return 500, ["1 error occurred:\n\t* failed to decompress snapshot: gzip: invalid header\n\n"]
        key_id = parts["SHA256SUMS.sealed"].split()[0].decode()
        if key_id != self.cluster.key_id and not force:
            text = "possibly the snapshot is using a different set of unseal keys; use the snapshot-force API to bypass this check"
            return 400, [f"could not verify hash file, {text}"]
        cluster = self.cluster
        cluster.state, cluster.index = parts["state.bin"], cluster.index + 2
        if key_id != cluster.key_id:
            source = FakeCluster.registry[key_id]
            cluster.key_id, cluster.threshold, cluster.token, cluster.cluster_id = key_id, source.threshold, source.token, key_id
            for node in self.lab.nodes.values():
                node.sealed = node.sealed or node.cluster is cluster
        return 204, None


class Lab:
    """The servers of a test."""

    def __init__(self, tls: pathlib.Path) -> None:
        self.tls = tls
        self.nodes: dict[str, FakeNode] = {}

    def node(self, node_id: str, certificate: str = "server") -> FakeNode:
        """A new, empty server."""
        self.nodes[node_id] = FakeNode(self, node_id, certificate)
        return self.nodes[node_id]

    def cluster(self, *node_ids: str) -> FakeCluster:
        """A cluster of unsealed voters, led by the first."""
        nodes = [self.node(node_id) for node_id in node_ids]
        cluster = FakeCluster(5, 3)
        for node in nodes:
            node.cluster, node.sealed = cluster, False
            cluster.members[node.node_id] = Member(node.address, voter=True)
        cluster.leader = node_ids[0]
        return cluster

    def params(self, cluster: FakeCluster | None = None, **extra: t.Any) -> dict[str, t.Any]:
        """Options that reach the servers of C(cluster)."""
        result = {"ca_cert": str(self.tls / "ca.pem"), "timeout": 5, **extra}
        if cluster is not None:
            result.setdefault("token", cluster.token)
            result.setdefault("url", [node.url for node in self.nodes.values() if node.cluster is cluster])
        return result

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()


def _handler(node: FakeNode) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            if node.redirect_to:
                self._reply(307, b"", {"Location": node.redirect_to + path})
                return
            status, body = node.answer(self.command, path[len("/v1/") :], self.headers.get("X-Vault-Token", ""), raw)
            if status == 0:
                self.close_connection = True
            elif status == 307:
                self._reply(307, b"", {"Location": body})
            elif isinstance(body, bytes):
                sent = body[: len(body) // 2] if node.cut_download else body
                self._reply(200, sent, {"Content-Type": "application/gzip"})
            else:
                self._reply(status, self._encoded(status, body), {"Content-Type": "application/json"})

        @staticmethod
        def _encoded(status: int, body: t.Any) -> bytes:
            if body is None:
                return b""
            if status >= 400:
                body = {"errors": body}
            elif "data" in body:
                body = {"request_id": "r", "lease_id": "", "renewable": False, "lease_duration": 0, **body, "auth": None}
            return json.dumps(body).encode()

        def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = _serve

        def log_message(self, *args: t.Any) -> None:
            """Tests do not want a log."""

    return Handler
