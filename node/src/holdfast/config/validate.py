# SPDX-License-Identifier: Apache-2.0
"""Checks that need more than one key, and the addresses that follow from others. Reads files, changes nothing."""

from __future__ import annotations

import os
from dataclasses import replace

from holdfast.config import values as v
from holdfast.config.errors import ConfigError
from holdfast.config.tree import Config, Listener, RaftConfig

LOG_LEVELS = ("trace", "debug", "info", "warn", "error")
_LEVEL_NAMES = {"notice": "info", "warning": "warn", "err": "error", "": "info"}
_FORMATS = {"": "standard", "standard": "standard", "json": "json", "unspecified": "standard"}
TLS_VERSIONS = ("tls12", "tls13")


def validate(config: Config, source: str) -> Config:
    """The configuration with its derived addresses. Raises ConfigError; `source` names the file in messages."""
    level = _LEVEL_NAMES.get(config.log_level.lower(), config.log_level.lower())
    if level not in LOG_LEVELS:
        raise ConfigError(f"{source}: log_level must be one of {', '.join(LOG_LEVELS)}, not {config.log_level}")
    if config.log_format.lower() not in _FORMATS:
        raise ConfigError(f"{source}: log_format must be standard or json, not {config.log_format}")
    if config.max_lease_ttl < config.default_lease_ttl:
        raise ConfigError(f"{source}: default_lease_ttl must not be greater than max_lease_ttl")
    config = replace(config, log_level=level, log_format=_FORMATS[config.log_format.lower()])
    for listener in config.listeners:
        _check_listener(listener, source)
    return _addresses(config, source)


def _check_listener(listener: Listener, source: str) -> None:
    name = f'listener "tcp" {v.join_host_port(*listener.address)}'
    if listener.tls_min_version not in TLS_VERSIONS:
        raise ConfigError(f"{source}: {name}: tls_min_version must be tls12 or tls13, not {listener.tls_min_version}")
    if listener.tls_disable:
        return
    for key in ("tls_cert_file", "tls_key_file"):
        path = getattr(listener, key)
        if not path:
            raise ConfigError(f"{source}: {name} needs {key} (or tls_disable = true, for tests only)")
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{source}: {name}: {key} {path} does not exist or is not readable")
    if listener.tls_client_ca_file and not os.access(listener.tls_client_ca_file, os.R_OK):
        raise ConfigError(
            f"{source}: {name}: tls_client_ca_file {listener.tls_client_ca_file} does not exist or is not readable"
        )
    if listener.tls_require_and_verify_client_cert and not listener.tls_client_ca_file:
        raise ConfigError(f"{source}: {name}: tls_require_and_verify_client_cert needs tls_client_ca_file")


def _addresses(config: Config, source: str) -> Config:
    """Fill in api_addr from the listener and cluster_addr from api_addr (port + 1), and check both (7.2)."""
    listener = config.listeners[0]
    api_addr = config.api_addr
    if not api_addr:
        host, port = listener.address
        if not v.is_unspecified(host):
            api_addr = f"{listener.scheme}://{v.join_host_port(host, port)}"
        elif isinstance(config.storage, RaftConfig):
            raise ConfigError(f"{source}: api_addr must be set, because listener address {host} is unspecified")
    try:
        if api_addr:
            scheme, host, port = v.url(api_addr, 8200)
            if v.is_unspecified(host):
                raise ValueError(f"{host} is not an address that others can reach")
            api_addr = f"{scheme}://{v.join_host_port(host, port)}"
    except ValueError as error:
        raise ConfigError(f"{source}: api_addr: {error}") from None
    if not isinstance(config.storage, RaftConfig):
        return replace(config, api_addr=api_addr)
    try:
        if config.cluster_addr:
            _, cluster_host, cluster_port = v.url(config.cluster_addr, 8201)
        else:
            cluster_host, cluster_port = host, port + 1
        if v.is_unspecified(cluster_host):
            raise ValueError(f"{cluster_host} is not an address that the other servers can reach")
        if not 0 < cluster_port < 65536:
            raise ValueError(f"port {cluster_port} is out of range")
    except ValueError as error:
        raise ConfigError(f"{source}: cluster_addr: {error}") from None
    return replace(config, api_addr=api_addr, cluster_addr=f"https://{v.join_host_port(cluster_host, cluster_port)}")
