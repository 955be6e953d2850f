# SPDX-License-Identifier: Apache-2.0
"""`holdfast status`: seal state and leader, with bao's exit codes."""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli.client import Client, ClientError
from holdfast.cli.options import client_command, format_option
from holdfast.cli.output import key_value, show_json

SEALED_EXIT = 2


def seal_rows(seal: dict[str, Any]) -> list[tuple[str, Any]]:
    """The rows of seal-status as bao prints them."""
    rows: list[tuple[str, Any]] = [
        ("Seal Type", seal.get("type")),
        ("Initialized", seal.get("initialized")),
        ("Sealed", seal.get("sealed")),
        ("Total Shares", seal.get("n")),
        ("Threshold", seal.get("t")),
    ]
    if seal.get("sealed"):
        rows.append(("Unseal Progress", f"{seal.get('progress')}/{seal.get('t')}"))
        rows.append(("Unseal Nonce", seal.get("nonce") or ""))
    rows += [("Version", seal.get("version")), ("Storage Type", seal.get("storage_type"))]
    if seal.get("removed_from_cluster"):
        rows.append(("Removed From Cluster", True))
    if seal.get("cluster_name"):
        rows += [("Cluster Name", seal.get("cluster_name")), ("Cluster ID", seal.get("cluster_id"))]
    return rows


def leader_rows(leader: dict[str, Any], sealed: bool) -> list[tuple[str, Any]]:
    """The rows of sys/leader."""
    rows: list[tuple[str, Any]] = [("HA Enabled", bool(leader.get("ha_enabled")))]
    if not leader.get("ha_enabled") or sealed:
        return rows
    rows.append(("HA Cluster", leader.get("leader_cluster_address")))
    rows.append(("HA Mode", "active" if leader.get("is_self") else "standby"))
    if leader.get("is_self"):
        rows.append(("Active Since", leader.get("active_time")))
    else:
        rows.append(("Active Node Address", leader.get("leader_address")))
    for title, name in (("Raft Committed Index", "raft_committed_index"), ("Raft Applied Index", "raft_applied_index")):
        if leader.get(name):
            rows.append((title, leader[name]))
    return rows


def read_leader(client: Client) -> dict[str, Any]:
    """sys/leader; an empty answer on a sealed server, whose error holds the literal "Vault is sealed"."""
    try:
        return dict(client.get("sys/leader") or {})
    except ClientError as error:
        if any("Vault is sealed" in text for text in error.errors):
            return {}
        raise


def print_status(client: Client, seal: dict[str, Any], as_json: bool) -> None:
    """Both together, as a table or as one JSON object."""
    leader = read_leader(client)
    if as_json:
        show_json({**seal, **leader})
    else:
        click.echo(key_value(seal_rows(seal) + leader_rows(leader, bool(seal.get("sealed")))))


@click.command(short_help="Print seal and leader status; exit 2 when sealed.")
@client_command
@format_option
@click.pass_context
def status(context: click.Context, client: Client, as_json: bool) -> None:
    """Print seal and leader status. Exits with 0 when unsealed, 2 when sealed, 1 on an error."""
    try:
        seal = client.get("sys/seal-status")
        print_status(client, seal, as_json)
    except ClientError as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(1)
    context.exit(SEALED_EXIT if seal.get("sealed") else 0)
