# SPDX-License-Identifier: Apache-2.0
"""Options that every client command has, and the client they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from holdfast.cli.client import Client, Settings, variable

_CLIENT_OPTIONS = (
    click.option("--address", metavar="URL", help="Address of the server (BAO_ADDR)."),
    click.option("--ca-cert", metavar="FILE", help="CA certificate to check the server with (BAO_CACERT)."),
    click.option("--client-cert", metavar="FILE", help="Client certificate (BAO_CLIENT_CERT)."),
    click.option("--client-key", metavar="FILE", help="Key of the client certificate (BAO_CLIENT_KEY)."),
    click.option("--tls-server-name", metavar="NAME", help="Name to expect in the certificate (BAO_TLS_SERVER_NAME)."),
    click.option("--tls-skip-verify", is_flag=True, help="Do not check the certificate; for tests (BAO_SKIP_VERIFY)."),
)


def client_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the connection options; the command gets a ready `client` instead."""

    @functools.wraps(command)
    def run(
        address: str | None,
        ca_cert: str | None,
        client_cert: str | None,
        client_key: str | None,
        tls_server_name: str | None,
        tls_skip_verify: bool,
        **arguments: Any,
    ) -> Any:
        settings = Settings.from_environment(
            address=address,
            ca_cert=ca_cert,
            client_cert=client_cert,
            client_key=client_key,
            tls_server_name=tls_server_name,
            skip_verify=tls_skip_verify,
        )
        return command(client=Client(settings), **arguments)

    wrapped: Callable[..., Any] = run
    for option in reversed(_CLIENT_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-format=table|json` (BAO_FORMAT); the command gets `as_json`."""

    @functools.wraps(command)
    def run(output_format: str | None, **arguments: Any) -> Any:
        chosen = (output_format or variable("FORMAT") or "table").lower()
        return command(as_json=chosen == "json", **arguments)

    return click.option(
        "--format", "output_format", type=click.Choice(["table", "json"], case_sensitive=False), help="Output format."
    )(run)
