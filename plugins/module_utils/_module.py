# Copyright (c) 2026, the holdfast developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Argument specifications with their environment variables, and the one place where an exception becomes fail_json.
Private to holdfast.raft. Each group here has a documentation fragment of the same options."""

from __future__ import annotations

import os
import re
import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib
from ansible.module_utils.errors import AnsibleFallbackNotFound

from ansible_collections.holdfast.raft.plugins.module_utils._client import Settings
from ansible_collections.holdfast.raft.plugins.module_utils._custody import (
    CommandCustody,
    read_secret_file,
    shares_in,
    token_in,
)
from ansible_collections.holdfast.raft.plugins.module_utils._errors import CustodyError, MissingLibrary, RaftError
from ansible_collections.holdfast.raft.plugins.module_utils._waiter import Waiter

Spec = t.Dict[str, t.Dict[str, t.Any]]
UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def env(*suffixes: str) -> tuple[t.Any, list[str]]:
    """The fallback to BAO_X, then VAULT_X, in the order OpenBao's own client reads them."""
    return env_fallback, [prefix + suffix for suffix in suffixes for prefix in ("BAO_", "VAULT_")]


def _verify_from_env(*names: str) -> bool:
    """C(..._SKIP_VERIFY) has the opposite sense of validate_certs."""
    for name in names:
        if name in os.environ:
            return os.environ[name].strip().lower() not in ("1", "t", "true", "yes", "on")
    raise AnsibleFallbackNotFound


def _timeout_from_env(*names: str) -> float:
    """C(..._CLIENT_TIMEOUT) is a number of seconds or a Go duration."""
    for name in names:
        if name in os.environ:
            return seconds(os.environ[name])
    raise AnsibleFallbackNotFound


def connection(many: bool = True) -> Spec:
    """How to reach the API. C(many): url is a list of members of one cluster instead of one server."""
    url: dict[str, t.Any] = {"type": "list", "elements": "str"} if many else {"type": "str"}
    return {
        "url": {**url, "fallback": env("ADDR"), "required": True},
        "ca_cert": {"type": "path", "fallback": env("CACERT")},
        "ca_path": {"type": "path", "fallback": env("CAPATH")},
        "client_cert": {"type": "path", "fallback": env("CLIENT_CERT")},
        "client_key": {"type": "path", "no_log": False, "fallback": env("CLIENT_KEY")},
        "tls_server_name": {"type": "str", "fallback": env("TLS_SERVER_NAME")},
        "validate_certs": {"type": "bool", "default": True, "fallback": (_verify_from_env, env("SKIP_VERIFY")[1])},
        "timeout": {"type": "float", "default": 30.0, "fallback": (_timeout_from_env, env("CLIENT_TIMEOUT")[1])},
        "use_proxy": {"type": "bool", "default": False},
    }


def authentication() -> Spec:
    """The token and the namespace."""
    return {
        "token": {"type": "str", "no_log": True, "fallback": env("TOKEN")},
        "token_file": {"type": "path", "no_log": False},
        "token_command": {"type": "list", "elements": "str", "no_log": False},
        "namespace": {"type": "str", "fallback": env("NAMESPACE")},
    }


def waiting(timeout: int = 60) -> Spec:
    return {"wait": {"type": "bool", "default": True}, "wait_timeout": {"type": "int", "default": timeout}}


def shares() -> Spec:
    """Where unseal shares are read from."""
    return {
        "shares": {"type": "list", "elements": "str", "no_log": True},
        "shares_file": {"type": "path", "no_log": False},
        "shares_command": {"type": "list", "elements": "str", "no_log": False},
    }


def settings_of(module: AnsibleModule, needs_token: bool = True) -> Settings:
    """The transport settings; a token that was read is masked in everything the module returns.

    Where the work C(needs_token) not at all (the file may come to be only by it), a token that is not there is no error.
    """
    params = module.params
    token, source, found = params.get("token"), "", None
    if params.get("token_command"):  # both win over the token, which may come from the environment
        source, found = params["token_command"][0], CommandCustody(params["token_command"]).read()
    elif params.get("token_file") and (needs_token or os.path.exists(params["token_file"])):
        source, found = params["token_file"], read_secret_file(params["token_file"])
    if source:
        token = token_in(found)
        if token:
            module.no_log_values.add(token)
        elif needs_token:
            raise CustodyError(f"no token in what {source} gives: it is neither one word nor JSON with a root_token")
    return Settings(
        token=token,
        ca_cert=params["ca_cert"],
        ca_path=params["ca_path"],
        client_cert=params["client_cert"],
        client_key=params["client_key"],
        tls_server_name=params["tls_server_name"],
        validate_certs=params["validate_certs"],
        namespace=params.get("namespace"),
        timeout=params["timeout"],
        use_proxy=params["use_proxy"],
    )


def shares_of(module: AnsibleModule) -> list[str]:
    """The unseal shares given, from whichever option holds them; [] when none does. Masked in everything returned."""
    params = module.params
    given = [name for name in ("shares", "shares_file", "shares_command") if params[name]]
    if len(given) > 1:
        raise CustodyError(f"{' and '.join(given)} are given; one place of the shares is enough")
    found = list(params["shares"] or [])
    source = ""
    if params["shares_file"]:
        source = params["shares_file"]
        found = shares_in(read_secret_file(source))
    elif params["shares_command"]:
        source = params["shares_command"][0]
        found = shares_in(CommandCustody(params["shares_command"]).read())
    if source and not found:
        raise CustodyError(f"no unseal shares in what {source} gives")
    module.no_log_values.update(found)
    return found


def waiter_of(module: AnsibleModule) -> Waiter:
    return Waiter(module.params["wait_timeout"])


def seconds(value: t.Any) -> float:
    """A number of seconds, or a Go duration (C(1h2m3.5s), C(500ms)). Raises RaftError for anything else."""
    text = str(value).strip()
    parts = re.findall(r"([0-9.]+)(ms|us|µs|ns|h|m|s|)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text.lstrip("+-"):
        raise RaftError(f"{text!r} is no duration; examples are 30, 10s, 1h30m")
    try:
        return sum(float(number) * UNITS[unit] for number, unit in parts) * (-1 if text.startswith("-") else 1)
    except ValueError:
        raise RaftError(f"{text!r} is no duration; examples are 30, 10s, 1h30m") from None


def changes(before: t.Any, after: t.Any) -> dict[str, t.Any]:
    """C(changed) and C(diff) of a result: whatever differs between two readings."""
    return {"changed": before != after, "diff": {"before": before, "after": after}}


def run(module: AnsibleModule, action: t.Callable[[AnsibleModule], dict[str, t.Any]]) -> t.NoReturn:
    """Runs C(action) and ends the module with its result, or with one sentence."""
    try:
        result = action(module)
    except MissingLibrary as exc:
        module.fail_json(msg=missing_required_lib(exc.library), exception=exc.trace)
    except RaftError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    module.exit_json(**result)
