# SPDX-License-Identifier: Apache-2.0
"""The configuration as frozen dataclasses; names and defaults are OpenBao's (raft-api.md 7) unless noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RetryJoin:
    """One `retry_join` stanza. PEM files are read when the configuration is loaded, and stand here as text."""

    leader_api_addr: str = ""
    auto_join: str = ""
    auto_join_scheme: str = "https"
    auto_join_port: int = 8200
    leader_tls_servername: str = ""
    leader_ca_cert: str = ""
    leader_client_cert: str = ""
    leader_client_key: str = field(default="", repr=False)

    def params(self, non_voter: bool) -> dict[str, Any]:
        """The body of the `join` call that this stanza stands for (raft-api.md 1.2); one attempt."""
        body: dict[str, Any] = {"retry": False, "non_voter": non_voter}
        if self.auto_join:
            body |= {
                "auto_join": self.auto_join,
                "auto_join_scheme": self.auto_join_scheme,
                "auto_join_port": self.auto_join_port,
            }
        else:
            body["leader_api_addr"] = self.leader_api_addr
        for name in ("leader_tls_servername", "leader_ca_cert", "leader_client_cert", "leader_client_key"):
            if value := getattr(self, name):
                body[name] = value
        return body


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """`storage "raft"`. `node_id` may be "": it is then kept in `<path>/node-id`. None: the storage's own default."""

    path: Path
    node_id: str = ""
    retry_join: tuple[RetryJoin, ...] = ()
    retry_join_as_non_voter: bool = False
    performance_multiplier: int | None = None
    snapshot_threshold: int | None = None
    snapshot_interval: float | None = None
    trailing_logs: int | None = None
    max_entry_size: int | None = None
    autopilot_reconcile_interval: float | None = None
    autopilot_update_interval: float | None = None
    lease_reads: bool | None = None


@dataclass(frozen=True, slots=True)
class InmemConfig:
    """`storage "inmem"`: nothing survives the process."""


@dataclass(frozen=True, slots=True)
class Listener:
    """`listener "tcp"`. Addresses are (host, port); times in seconds (0: no limit); sizes in bytes."""

    address: tuple[str, int] = ("127.0.0.1", 8200)
    cluster_address: tuple[str, int] = ("127.0.0.1", 8201)
    tls_disable: bool = False
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_min_version: str = "tls13"  # OpenBao: tls12 (design.md 18)
    tls_client_ca_file: str = ""
    tls_require_and_verify_client_cert: bool = False
    tls_disable_client_certs: bool = False
    max_request_size: int = 33_554_432
    max_request_duration: float = 90.0
    http_read_timeout: float = 30.0
    http_read_header_timeout: float = 10.0
    http_idle_timeout: float = 300.0

    @property
    def scheme(self) -> str:
        """The URL scheme of this listener."""
        return "http" if self.tls_disable else "https"


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `api_addr` and `cluster_addr` are URLs; lease times in seconds."""

    storage: RaftConfig | InmemConfig
    listeners: tuple[Listener, ...]
    api_addr: str = ""
    cluster_addr: str = ""
    cluster_name: str = ""
    log_level: str = "info"
    log_format: str = "standard"
    default_lease_ttl: float = 2_764_800.0
    max_lease_ttl: float = 2_764_800.0
    pid_file: str = ""
    enable_response_header_hostname: bool = False
    enable_response_header_raft_node_id: bool = False
    warnings: tuple[str, ...] = ()
