# SPDX-License-Identifier: Apache-2.0
"""`holdfast operator raft …`: members, snapshots, autopilot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from holdfast.cli.client import Client
from holdfast.cli.options import client_command, format_option
from holdfast.cli.output import key_value, show_json, table
from holdfast.cli.snapshot import inspect_file, restore, save


@click.group(short_help="The servers of the Raft cluster.")
def raft() -> None:
    """Commands for the Raft cluster behind the storage."""


def _pem(value: str | None) -> str:
    """PEM text, or the content of the file in `@file`."""
    if value and value.startswith("@"):
        try:
            return Path(value[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"cannot read {value[1:]}: {getattr(error, 'strerror', 'not text')}") from None
    return value or ""


@raft.command("join", short_help="Join a server to a cluster.")
@click.argument("leader_address", required=False, default="")
@click.option("--retry", is_flag=True, help="Try again until it works, in the background.")
@click.option("--non-voter", is_flag=True, help="Join without a vote.")
@click.option("--leader-ca-cert", metavar="PEM|@FILE")
@click.option("--leader-client-cert", metavar="PEM|@FILE")
@click.option("--leader-client-key", metavar="PEM|@FILE")
@click.option("--leader-tls-servername", metavar="NAME")
@click.option("--auto-join-scheme", type=click.Choice(["http", "https"]))
@click.option("--auto-join-port", type=click.IntRange(1, 65535))
@client_command
@format_option
def join(client: Client, leader_address: str, as_json: bool, **given: Any) -> None:
    """Join the addressed server to the cluster at LEADER_ADDRESS (a URL, or an auto-join expression provider=…)."""
    body: dict[str, Any] = {name: value for name, value in given.items() if value}
    for name in ("leader_ca_cert", "leader_client_cert", "leader_client_key"):
        if name in body:
            body[name] = _pem(body[name])
    body["auto_join" if "provider=" in leader_address else "leader_api_addr"] = leader_address
    answer = client.put("sys/storage/raft/join", body)
    if as_json:
        show_json(answer)
    else:
        click.echo(key_value([("Joined", answer.get("joined"))]))


@raft.command("list-peers", short_help="List the servers of the cluster.")
@client_command
@format_option
def list_peers(client: Client, as_json: bool) -> None:
    """List the servers of the cluster."""
    answer = client.get("sys/storage/raft/configuration")
    if as_json:
        show_json(answer)
        return
    rows = [
        (server["node_id"], server["address"], "leader" if server["leader"] else "follower", server["voter"])
        for server in answer["data"]["config"]["servers"]
    ]
    click.echo(table(("Node", "Address", "State", "Voter"), rows))


def _server_command(name: str, path: str, done: str, help_text: str) -> None:
    @raft.command(name, short_help=help_text, help=help_text)
    @click.argument("server_id")
    @client_command
    def run(client: Client, server_id: str) -> None:
        client.put(f"sys/storage/raft/{path}", {"server_id": server_id})
        click.echo(done)


_server_command("remove-peer", "remove-peer", "Peer removed successfully!", "Remove a server from the cluster.")
_server_command("promote", "promote", "Peer promoted successfully!", "Let a non-voter become a voter.")
_server_command("demote", "demote", "Peer demoted successfully!", "Make a voter a permanent non-voter.")


@raft.group("snapshot", short_help="Save and restore snapshots.")
def snapshot() -> None:
    """Save, restore and inspect snapshots."""


snapshot.add_command(save)
snapshot.add_command(restore)
snapshot.add_command(inspect_file)


@raft.group("autopilot", short_help="Health and housekeeping of the cluster.")
def autopilot() -> None:
    """Health and housekeeping of the cluster."""


@autopilot.command("state", short_help="Print the health of every server.")
@client_command
@format_option
def autopilot_state(client: Client, as_json: bool) -> None:
    """Print the health of the cluster and of every server, as the leader sees it."""
    answer = client.get("sys/storage/raft/autopilot/state")
    data = answer["data"]
    if as_json:
        show_json(data)
        return
    click.echo(f"Healthy:               {str(data['healthy']).lower()}")
    click.echo(f"Failure Tolerance:     {data['failure_tolerance']}")
    click.echo(f"Leader:                {data['leader']}")
    for title, name in (("Voters", "voters"), ("Non Voters", "non_voters")):
        if data.get(name):
            click.echo(f"{title}:")
            for node_id in data[name]:
                click.echo(f"   {node_id}")
    click.echo("Servers:")
    shown = (
        ("Name", "name"),
        ("Address", "address"),
        ("Status", "status"),
        ("Node Status", "node_status"),
        ("Healthy", "healthy"),
        ("Last Contact", "last_contact"),
        ("Last Term", "last_term"),
        ("Last Index", "last_index"),
        ("Version", "version"),
        ("Node Type", "node_type"),
    )
    for node_id, server in sorted(data["servers"].items()):
        click.echo(f"   {node_id}")
        for title, name in shown:
            value = server.get(name)
            click.echo(f"      {title + ':':<15} {str(value).lower() if isinstance(value, bool) else value}")


_AUTOPILOT_ROWS = (
    ("Cleanup Dead Servers", "cleanup_dead_servers"),
    ("Last Contact Threshold", "last_contact_threshold"),
    ("Dead Server Last Contact Threshold", "dead_server_last_contact_threshold"),
    ("Server Stabilization Time", "server_stabilization_time"),
    ("Min Quorum", "min_quorum"),
    ("Max Trailing Logs", "max_trailing_logs"),
)


@autopilot.command("get-config", short_help="Print the autopilot configuration.")
@client_command
@format_option
def autopilot_get(client: Client, as_json: bool) -> None:
    """Print the autopilot configuration."""
    data = client.get("sys/storage/raft/autopilot/configuration")["data"]
    if as_json:
        show_json(data)
    else:
        click.echo(key_value([(title, data.get(name)) for title, name in _AUTOPILOT_ROWS]))


@autopilot.command("set-config", short_help="Change the autopilot configuration.")
@click.option("--cleanup-dead-servers", type=bool)
@click.option("--last-contact-threshold", metavar="DURATION")
@click.option("--dead-server-last-contact-threshold", metavar="DURATION")
@click.option("--server-stabilization-time", metavar="DURATION")
@click.option("--min-quorum", type=click.IntRange(0))
@click.option("--max-trailing-logs", type=click.IntRange(0))
@client_command
def autopilot_set(client: Client, **given: Any) -> None:
    """Change what is given of the autopilot configuration; the rest keeps its value."""
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("give at least one setting to change")
    client.put("sys/storage/raft/autopilot/configuration", body)
    click.echo("Success! Autopilot configuration updated.")
