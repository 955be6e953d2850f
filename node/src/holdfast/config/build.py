# SPDX-License-Identifier: Apache-2.0
"""Blocks to dataclasses: which keys exist, what type each has, which are accepted and ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from holdfast.config import environment
from holdfast.config import values as v
from holdfast.config.block import Block, as_blocks, labelled
from holdfast.config.errors import ConfigError
from holdfast.config.tree import Config, InmemConfig, Listener, RaftConfig, RetryJoin

Reader = Callable[[Any], Any]

TOP: dict[str, Reader] = {
    "api_addr": v.string,
    "cluster_addr": v.string,
    "cluster_name": v.string,
    "log_level": v.string,
    "log_format": v.string,
    "default_lease_ttl": v.duration,
    "max_lease_ttl": v.duration,
    "pid_file": v.string,
    "enable_response_header_hostname": v.boolean,
    "enable_response_header_raft_node_id": v.boolean,
}
RAFT: dict[str, Reader] = {
    "path": lambda value: Path(v.string(value)),
    "node_id": v.string,
    "retry_join_as_non_voter": v.boolean,
    "performance_multiplier": v.natural,
    "snapshot_threshold": v.natural,
    "snapshot_interval": v.duration,
    "trailing_logs": v.natural,
    "max_entry_size": v.natural,
    "autopilot_reconcile_interval": v.duration,
    "autopilot_update_interval": v.duration,
    "lease_reads": v.boolean,
}
RETRY_JOIN: dict[str, Reader] = {
    "leader_api_addr": v.string,
    "auto_join": v.string,
    "auto_join_scheme": v.string,
    "auto_join_port": v.natural,
    "leader_tls_servername": v.string,
    "leader_ca_cert": v.string,
    "leader_client_cert": v.string,
    "leader_client_key": v.string,
}
RETRY_JOIN_FILES = {
    "leader_ca_cert_file": "leader_ca_cert",
    "leader_client_cert_file": "leader_client_cert",
    "leader_client_key_file": "leader_client_key",
}
LISTENER: dict[str, Reader] = {
    "address": v.string,
    "cluster_address": v.string,
    "tls_disable": v.boolean,
    "tls_cert_file": v.string,
    "tls_key_file": v.string,
    "tls_min_version": v.string,
    "tls_client_ca_file": v.string,
    "tls_require_and_verify_client_cert": v.boolean,
    "tls_disable_client_certs": v.boolean,
    "max_request_size": v.natural,
    "max_request_duration": v.duration,
    "http_read_timeout": v.duration,
    "http_read_header_timeout": v.duration,
    "http_idle_timeout": v.duration,
}
# Settings of OpenBao that have no counterpart here: accepted, with a warning when they ask for something.
IGNORED_TOP = {
    "ui", "disable_mlock", "disable_cache", "cache_size", "telemetry", "plugin_directory", "raw_storage_endpoint",
    "disable_standby_reads", "introspection_endpoint", "log_requests_level", "log_file", "log_rotate_bytes",
    "log_rotate_duration", "log_rotate_max_files", "detect_deadlocks", "disable_clustering",
}  # fmt: skip
UNUSED_TOP = {"default_lease_ttl", "max_lease_ttl"}  # checked, but the core has its own fixed limits (768 h)
SILENT_TOP = {"disable_mlock", "disable_cache"}  # memory locking and a cache have no meaning here


def build(raw: Block, environ: Mapping[str, str]) -> Config:
    """The `Config` of a parsed file and the environment. Raises ConfigError on the first thing that is wrong."""
    warnings: list[str] = []
    top = _scalars(raw, TOP, environment.overrides(environ, environment.TOP_LEVEL))
    for key, value in raw.items():
        if key in TOP or key in ("storage", "listener"):
            if key in UNUSED_TOP:
                warnings.append(f"{raw.where(key)}: {key} has no effect in holdfast")
            continue
        if key == "seal":
            raise ConfigError(f"{raw.where(key)}: seal blocks are not supported, only Shamir shares open this server")
        if key == "ha_storage":
            raise ConfigError(f'{raw.where(key)}: ha_storage is not supported, use storage "raft" or "inmem" alone')
        if key in IGNORED_TOP:
            if key not in SILENT_TOP and value not in (False, "false", 0):
                warnings.append(f"{raw.where(key)}: {key} has no effect in holdfast")
            continue
        warnings.append(f"{raw.where(key)}: unknown or unsupported key {key}")
    storage = _storage(raw, environ, warnings)
    listeners = tuple(_listener(label, block, warnings) for label, block in labelled(raw, "listener"))
    if not listeners:
        raise ConfigError(f'{raw.source}: there is no listener "tcp" block')
    return Config(storage=storage, listeners=listeners, warnings=tuple(warnings), **top)


def _scalars(
    block: Block, readers: Mapping[str, Reader], env: Mapping[str, tuple[str, str]] | None = None
) -> dict[str, Any]:
    """The values of `block` that `readers` knows, read and checked; the environment wins."""
    found: dict[str, Any] = {}
    for key, reader in readers.items():
        if env and key in env:
            name, text = env[key]
            where, value = f"environment variable {name}", text
        elif key in block and block[key] is not None:
            where, value = block.where(key), block[key]
        else:
            continue
        try:
            found[key] = reader(value)
        except ValueError as error:
            raise ConfigError(f"{where}: {key}: {error}") from None
    return found


def _unknown(block: Block, known: Iterable[str], name: str, warnings: list[str]) -> None:
    for key in block:
        if key not in known:
            warnings.append(f"{block.where(key)}: unknown or unsupported key {key} in {name}")


def _storage(raw: Block, environ: Mapping[str, str], warnings: list[str]) -> RaftConfig | InmemConfig:
    stores = labelled(raw, "storage")
    if not stores:
        raise ConfigError(f'{raw.source}: there is no storage block, such as storage "raft" {{ path = "…" }}')
    if len(stores) > 1:
        raise ConfigError(f"{stores[1][1].where()}: only one storage block is possible")
    label, block = stores[0]
    if label == "inmem":
        _unknown(block, (), 'storage "inmem"', warnings)
        return InmemConfig()
    if label != "raft":
        raise ConfigError(f'{block.where()}: storage "{label}" is not supported, use "raft" or "inmem"')
    env = environment.overrides(environ, environment.RAFT)
    found = _scalars(block, RAFT, env)
    _unknown(block, {*RAFT, "retry_join"}, 'storage "raft"', warnings)
    if not found.get("path") or str(found["path"]) in ("", "."):
        raise ConfigError(f'{block.where()}: storage "raft" needs a path')
    stanzas = tuple(_retry_join(stanza, warnings) for stanza in as_blocks(block, "retry_join"))
    if found.get("retry_join_as_non_voter") and not stanzas:
        where = block.where("retry_join_as_non_voter")
        raise ConfigError(f"{where}: retry_join_as_non_voter needs a retry_join stanza")
    return RaftConfig(retry_join=stanzas, **found)


def _retry_join(block: Block, warnings: list[str]) -> RetryJoin:
    _unknown(block, {*RETRY_JOIN, *RETRY_JOIN_FILES}, "retry_join", warnings)
    found = _scalars(block, RETRY_JOIN)
    for key, target in RETRY_JOIN_FILES.items():
        if block.get(key):
            try:
                found[target] = Path(v.string(block[key])).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
                raise ConfigError(f"{block.where(key)}: cannot read {key} {block[key]}: {reason}") from None
    stanza = RetryJoin(**found)
    if stanza.leader_api_addr and stanza.auto_join:
        raise ConfigError(f"{block.where()}: cannot provide both a leader_api_addr and auto_join")
    if not stanza.leader_api_addr and not stanza.auto_join:
        raise ConfigError(f"{block.where()}: retry_join needs a leader_api_addr or auto_join")
    if stanza.auto_join_scheme not in ("http", "https"):
        where = block.where("auto_join_scheme")
        raise ConfigError(f'{where}: invalid scheme "{stanza.auto_join_scheme}"; must either be http or https')
    if bool(stanza.leader_client_cert) != bool(stanza.leader_client_key):
        raise ConfigError(f"{block.where()}: leader_client_cert and leader_client_key must be given together")
    return stanza


def _listener(label: str, block: Block, warnings: list[str]) -> Listener:
    if label != "tcp":
        raise ConfigError(f'{block.where()}: listener "{label}" is not supported, use "tcp"')
    _unknown(block, LISTENER, 'listener "tcp"', warnings)
    found = _scalars(block, LISTENER)
    addresses: dict[str, tuple[str, int]] = {}
    for key, port in (("address", 8200), ("cluster_address", None)):
        if key in found:
            try:
                addresses[key] = v.host_port(found.pop(key), port)
            except ValueError as error:
                raise ConfigError(f"{block.where(key)}: {key}: {error}") from None
    host, port = addresses.setdefault("address", ("127.0.0.1", 8200))
    addresses.setdefault("cluster_address", (host, port + 1 if port else 0))
    return replace(Listener(), **(found | addresses))


def known_raft_options() -> tuple[str, ...]:
    """The names of the optional storage settings that are handed to the Raft storage as they are."""
    own = {"path", "node_id", "retry_join", "retry_join_as_non_voter"}
    return tuple(field.name for field in fields(RaftConfig) if field.name not in own)
