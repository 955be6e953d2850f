# SPDX-License-Identifier: Apache-2.0
"""`holdfast operator init|unseal|seal|step-down|raft …`."""

from __future__ import annotations

import sys
from typing import Any

import click

from holdfast.cli.client import Client
from holdfast.cli.options import client_command, format_option
from holdfast.cli.output import show_json, table
from holdfast.cli.raft import raft
from holdfast.cli.status import print_status


@click.group(short_help="Initialise, unseal and run a cluster.")
def operator() -> None:
    """Commands for whoever runs the cluster."""


operator.add_command(raft)


@operator.command("init", short_help="Initialise a server.")
@click.option("--key-shares", "-n", type=click.IntRange(1, 255), default=5, show_default=True)
@click.option("--key-threshold", "-t", type=click.IntRange(1, 255), default=3, show_default=True)
@click.option("--status", "only_status", is_flag=True, help="Only tell: exit 0 when initialised, 2 when not.")
@client_command
@format_option
@click.pass_context
def init(
    context: click.Context, client: Client, key_shares: int, key_threshold: int, only_status: bool, as_json: bool
) -> None:
    """Initialise the server and print the unseal keys and the root token. They are shown once and never again."""
    if only_status:
        done = bool(client.get("sys/init")["initialized"])
        if as_json:
            show_json({"initialized": done})
        else:
            click.echo("Vault is initialized" if done else "Vault is not initialized")
        context.exit(0 if done else 2)
    answer = client.put("sys/init", {"secret_shares": key_shares, "secret_threshold": key_threshold})
    if as_json:
        show_json(
            {
                "unseal_keys_b64": answer["keys_base64"],
                "unseal_keys_hex": answer["keys"],
                "unseal_shares": key_shares,
                "unseal_threshold": key_threshold,
                "recovery_keys_b64": [],
                "recovery_keys_hex": [],
                "recovery_keys_shares": 0,
                "recovery_keys_threshold": 0,
                "root_token": answer["root_token"],
            }
        )
        return
    for number, key in enumerate(answer["keys_base64"], 1):
        click.echo(f"Unseal Key {number}: {key}")
    click.echo(f"\nInitial Root Token: {answer['root_token']}\n")
    click.echo(
        f"The server is initialised with {key_shares} key shares and a threshold of {key_threshold}. Keep the shares\n"
        f"in different hands: after every restart {key_threshold} of them are needed to unseal, and they are never\n"
        "shown again."
    )


@operator.command("unseal", short_help="Give one unseal key to a server.")
@click.argument("key", required=False)
@click.option("--reset", is_flag=True, help="Forget the keys given so far.")
@client_command
@format_option
def unseal(client: Client, key: str | None, reset: bool, as_json: bool) -> None:
    """Give one unseal KEY. Without KEY it is asked for without echo; `-` reads it from standard input.

    A key on the command line can be seen by every user of this machine; prefer the prompt or standard input.
    """
    if reset:
        body: dict[str, Any] = {"reset": True}
    elif key == "-":
        body = {"key": sys.stdin.readline().strip()}
    else:
        body = {"key": key or click.prompt("Unseal Key (will be hidden)", hide_input=True, err=True)}
    seal = client.put("sys/unseal", body)
    if as_json:
        show_json(seal)
    else:
        print_status(client, seal, False)


@operator.command("seal", short_help="Seal a server.")
@client_command
def seal(client: Client) -> None:
    """Seal the server: its keys are dropped from memory."""
    client.put("sys/seal")
    click.echo("Success! Vault is sealed.")


@operator.command("step-down", short_help="Have the leader hand leadership over.")
@client_command
def step_down(client: Client) -> None:
    """Ask the leader to give leadership to another server."""
    client.put("sys/step-down")
    click.echo("Success! Stepped down.")


@operator.command("members", short_help="List the nodes and when they were last heard.")
@client_command
@format_option
def members(client: Client, as_json: bool) -> None:
    """List the nodes of the cluster (sys/ha-status)."""
    answer = client.get("sys/ha-status")
    if as_json:
        show_json(answer)
        return
    rows = [
        (
            node.get("hostname"),
            node.get("api_address"),
            node.get("cluster_address"),
            node.get("active_node"),
            node.get("version"),
            node.get("last_echo"),
        )
        for node in answer["data"]["nodes"]
    ]
    click.echo(table(("Host Name", "API Address", "Cluster Address", "Active Node", "Version", "Last Echo"), rows))
