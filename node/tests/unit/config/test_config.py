# SPDX-License-Identifier: Apache-2.0
"""Configuration files, environment, and one-sentence refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.config import Config, ConfigError, InmemConfig, RaftConfig, load_config
from holdfast.config.values import duration, host_port, url

FULL = """
# a server
ui = false
api_addr = "https://10.0.0.1:8200"
cluster_name = "prod"
log_level = "WARN"
log_format = "json"
disable_mlock = true
default_lease_ttl = "1h"
max_lease_ttl = 7200
storage "raft" {
  path    = "/var/lib/holdfast"
  node_id = "n1"
  performance_multiplier = 2
  snapshot_threshold = "1000"
  max_entry_size = 2097152
  autopilot_reconcile_interval = "3s"
  retry_join {
    leader_api_addr = "https://10.0.0.2:8200"
    leader_tls_servername = "node2"
  }
  retry_join {
    auto_join = "provider=x key=y"
    auto_join_scheme = "http"
  }
}
listener "tcp" {
  address = "0.0.0.0:8200"
  cluster_address = "[::1]:8301"
  tls_disable = "true"
  max_request_size = 1000
  max_request_duration = "10s"
}
"""


def write(tmp_path: Path, text: str, name: str = "server.hcl") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path: Path, text: str, name: str = "server.hcl", **environ: str) -> Config:
    return load_config(write(tmp_path, text, name), environ)


def refusal(tmp_path: Path, text: str, name: str = "server.hcl", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, name, **environ)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path) + "/", "")


def minimal(storage: str = 'path = "/data"', listener: str = "tls_disable = true", top: str = "") -> str:
    return f'storage "raft" {{\n  {storage}\n}}\nlistener "tcp" {{\n  {listener}\n}}\n{top}\n'


def test_full_hcl(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    storage = config.storage
    assert isinstance(storage, RaftConfig)
    assert (storage.path, storage.node_id, storage.performance_multiplier) == (Path("/var/lib/holdfast"), "n1", 2)
    assert (storage.snapshot_threshold, storage.max_entry_size) == (1000, 2097152)
    assert storage.autopilot_reconcile_interval == 3.0
    first, second = storage.retry_join
    assert first.params(True) == {
        "leader_api_addr": "https://10.0.0.2:8200", "leader_tls_servername": "node2", "retry": False, "non_voter": True,
    }  # fmt: skip
    assert second.params(False) == {
        "auto_join": "provider=x key=y", "auto_join_scheme": "http", "auto_join_port": 8200,
        "retry": False, "non_voter": False,
    }  # fmt: skip
    (listener,) = config.listeners
    assert (listener.address, listener.cluster_address) == (("0.0.0.0", 8200), ("::1", 8301))
    assert (listener.tls_disable, listener.max_request_size, listener.max_request_duration) == (True, 1000, 10.0)
    assert (config.log_level, config.log_format, config.cluster_name) == ("warn", "json", "prod")
    assert (config.default_lease_ttl, config.max_lease_ttl) == (3600.0, 7200.0)
    assert (config.api_addr, config.cluster_addr) == ("https://10.0.0.1:8200", "https://10.0.0.1:8201")
    assert [warning.rsplit(": ", 1)[-1] for warning in config.warnings] == [
        "default_lease_ttl has no effect in holdfast",
        "max_lease_ttl has no effect in holdfast",
    ]


def test_json_is_the_same(tmp_path: Path) -> None:
    text = (
        '{"storage": {"raft": {"path": "/data", "node_id": "n1", "retry_join": [{"leader_api_addr": "http://a:1"}]}},'
        ' "listener": [{"tcp": {"address": "127.0.0.1:1234", "tls_disable": 1}}], "log_level": "debug"}'
    )
    config = load(tmp_path, text, "server.json")
    assert isinstance(config.storage, RaftConfig)
    assert config.storage.retry_join[0].leader_api_addr == "http://a:1"
    assert (config.api_addr, config.cluster_addr) == ("http://127.0.0.1:1234", "https://127.0.0.1:1235")
    assert load(tmp_path, text, "config-without-suffix") == config


def test_directory(tmp_path: Path) -> None:
    write(tmp_path, 'storage "inmem" {}\n', "a.hcl")
    write(tmp_path, '{"listener": {"tcp": {"tls_disable": true}}}', "b.json")
    write(tmp_path, 'listener "tcp" {\n address = "127.0.0.1:9000"\n tls_disable = true\n}\n', "c.hcl")
    write(tmp_path, "not read", "readme.txt")
    config = load_config(tmp_path, {})
    assert isinstance(config.storage, InmemConfig)
    assert [listener.address[1] for listener in config.listeners] == [8200, 9000]


def test_directory_conflict_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no"):
        load_config(tmp_path, {})
    write(tmp_path, 'api_addr = "http://a:1"\n', "a.hcl")
    write(tmp_path, '\napi_addr = "http://b:1"\n', "b.hcl")
    with pytest.raises(ConfigError, match=r"b\.hcl:2: api_addr is set already in another file"):
        load_config(tmp_path, {})


def test_environment(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        minimal('path = "/data"\n node_id = "file"\n retry_join {\n leader_api_addr = "http://a:1"\n }'),
        BAO_RAFT_PATH="/env",
        VAULT_RAFT_PATH="/vault",
        VAULT_RAFT_NODE_ID="env-id",
        BAO_RAFT_RETRY_JOIN_AS_NON_VOTER="true",
        BAO_API_ADDR="https://e:1",
        VAULT_CLUSTER_ADDR="e:7",
        BAO_LOG_LEVEL="trace",
    )
    storage = config.storage
    assert isinstance(storage, RaftConfig)
    assert (storage.path, storage.node_id, storage.retry_join_as_non_voter) == (Path("/env"), "env-id", True)
    assert (config.api_addr, config.cluster_addr, config.log_level) == ("https://e:1", "https://e:7", "trace")


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        minimal('path = "/data"\n  colour = "red"', "tls_disable = true\n  frobnicate = 1", "nonsense = 2\nui = true"),
    )
    warnings = [warning.rsplit("/", 1)[-1] for warning in config.warnings]
    assert warnings == [
        "server.hcl:9: unknown or unsupported key nonsense",
        "server.hcl:10: ui has no effect in holdfast",
        'server.hcl:3: unknown or unsupported key colour in storage "raft"',
        'server.hcl:7: unknown or unsupported key frobnicate in listener "tcp"',
    ]


def test_pem_files_and_heredocs(tmp_path: Path) -> None:
    pem = write(tmp_path, "-----BEGIN X-----\nabc\n", "ca.pem")
    config = load(
        tmp_path,
        minimal(f'path = "/d"\n retry_join {{\n leader_api_addr = "https://a:1"\n leader_ca_cert_file = "{pem}"\n }}\n'
                ' retry_join {\n  leader_api_addr = "https://b:1"\n  leader_ca_cert = <<EOT\nline1\nline2\nEOT\n }'),
    )  # fmt: skip
    assert isinstance(config.storage, RaftConfig)
    first, second = config.storage.retry_join
    assert first.leader_ca_cert == "-----BEGIN X-----\nabc\n"
    assert second.leader_ca_cert == "line1\nline2"
    assert "secret" not in repr(first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "server.hcl: there is no storage block"),
        ('storage "raft" {\n path = \n}', "server.hcl:2: this is not valid HCL near 'path'"),
        ('storage "raft" {\n path = "a"', "server.hcl:2: this is not valid HCL near 'path'"),
        ('storage "consul" {}\n', 'server.hcl:1: storage "consul" is not supported, use "raft" or "inmem"'),
        ('storage "inmem" {}\nstorage "raft" {\n path = "x"\n}\n', "server.hcl:2: only one storage block is possible"),
        ("storage {}\n", "server.hcl:1: storage needs a label"),
        ("storage = 5\n", "server.hcl:1: storage must be a block, not a value"),
        ('storage "inmem" {}\n', 'server.hcl: there is no listener "tcp" block'),
        ('storage "inmem" {}\nlistener "unix" {}\n', 'server.hcl:2: listener "unix" is not supported, use "tcp"'),
        (minimal(""), 'server.hcl:1: storage "raft" needs a path'),
        (minimal('path = "a"\n  path = "b"'), "server.hcl:3: path is set twice"),
        (minimal('path = "a"\n  max_entry_size = "big"'), "server.hcl:3: max_entry_size: a whole number is expected"),
        (minimal('path = "a"\n  trailing_logs = -1'), "server.hcl:3: trailing_logs: the number must not be negative"),
        (minimal(listener="tls_disable = maybe"), "server.hcl:5: tls_disable: true or false is expected"),
        (minimal(listener='address = "a:b:c"'), "server.hcl:5: address: an address such as 10.0.0.1:8200 is expected"),
        (minimal(listener='address = "{{ GetPrivateIP }}:1"'), "server.hcl:5: address: address templates"),
        (minimal(listener='http_idle_timeout = "5 minutes"'), "server.hcl:5: http_idle_timeout: a duration such as"),
        (minimal(listener=""), 'server.hcl: listener "tcp" 127.0.0.1:8200 needs tls_cert_file'),
        (
            minimal(listener='tls_cert_file = "/nope/c"\n  tls_key_file = "/nope/k"'),
            'server.hcl: listener "tcp" 127.0.0.1:8200: tls_cert_file /nope/c does not exist or is not readable',
        ),
        (minimal(listener='tls_disable = true\n  tls_min_version = "tls10"'), "must be tls12 or tls13, not tls10"),
        (minimal(listener='tls_disable = true\n  address = "0.0.0.0:1"'), "server.hcl: api_addr must be set, because"),
        (minimal(top='api_addr = "http://0.0.0.0:1"'), "server.hcl: api_addr: 0.0.0.0 is not an address"),
        (
            minimal(top='api_addr = "ftp://a:1"'),
            "server.hcl: api_addr: the address must begin with https:// or http://",
        ),
        (minimal(top='cluster_addr = "https://[::]:1"'), "server.hcl: cluster_addr: :: is not an address"),
        (minimal(top='api_addr = "http://a:65535"'), "server.hcl: cluster_addr: port 65536 is out of range"),
        (minimal(top='log_level = "loud"'), "server.hcl: log_level must be one of trace, debug, info, warn, error"),
        (minimal(top='log_format = "xml"'), "server.hcl: log_format must be standard or json, not xml"),
        (minimal(top='seal "awskms" {}'), "server.hcl:7: seal blocks are not supported"),
        (minimal(top='default_lease_ttl = "9999h"'), "default_lease_ttl must not be greater than max_lease_ttl"),
        (minimal('path = "a"\n  retry_join {}'), "server.hcl:3: retry_join needs a leader_api_addr or auto_join"),
        (
            minimal('path = "a"\n  retry_join {\n  leader_api_addr = "a"\n  auto_join = "b"\n  }'),
            "server.hcl:3: cannot provide both a leader_api_addr and auto_join",
        ),
        (
            minimal('path = "a"\n  retry_join {\n  leader_api_addr = "a"\n  leader_ca_cert_file = "/nope"\n  }'),
            "server.hcl:5: cannot read leader_ca_cert_file /nope: No such file or directory",
        ),
        (minimal('path = "a"\n  retry_join_as_non_voter = true'), "retry_join_as_non_voter needs a retry_join stanza"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)
    assert list(tmp_path.iterdir()) == [tmp_path / "server.hcl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "c.json:1: this is not valid JSON"),
        ("[]", "c.json: the configuration must be a JSON object"),
        ('{"a": 1, "a": 2}', "c.json: a is set twice"),
        ("[" * 100_000, "c.json: this is not valid JSON: nested too deeply"),
    ],
)
def test_json_refusals(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text, "c.json")


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*No such file"):
        load_config(tmp_path / "none.hcl", {})
    (tmp_path / "binary.hcl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "binary.hcl", {})


def test_bad_environment_names_the_variable(tmp_path: Path) -> None:
    text = refusal(tmp_path, minimal(), BAO_RAFT_RETRY_JOIN_AS_NON_VOTER="perhaps")
    assert text == (
        "environment variable BAO_RAFT_RETRY_JOIN_AS_NON_VOTER: retry_join_as_non_voter: true or false is expected"
    )


def test_a_secret_never_stands_in_a_message(tmp_path: Path) -> None:
    text = refusal(tmp_path, 'storage "raft" {\n leader_client_key = "hunter2" "hunter3"\n}')
    assert "hunter" not in text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("10", 10), (10, 10), ("1h30m", 5400), ("500ms", 0.5), ("24h0m0s", 86400), ("1.5s", 1.5), ("2d", 172800)],
)
def test_durations(value: Any, seconds: float) -> None:
    assert duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "x", "1x", "-1s", -1, True, None, "1h x"])
def test_bad_durations(value: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration(value)


def test_addresses() -> None:
    assert host_port("a:1") == ("a", 1)
    assert host_port("[::1]:8200") == ("::1", 8200)
    assert host_port("a", 5) == ("a", 5)
    assert url("a:1", 8200) == ("https", "a", 1)
    assert url("http://[::1]/", 8200) == ("http", "::1", 8200)
    for bad in ("", "a:99999", "a:b", "user@a:1", "a:1/x"):
        with pytest.raises(ValueError, match=r"address|port"):
            host_port(bad)
