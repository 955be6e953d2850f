# SPDX-License-Identifier: Apache-2.0
"""The command `holdfast`: groups, errors, exit codes. Commands are imported when they run: servers need no client."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from holdfast import __version__
from holdfast.cli.arguments import normalise

_COMMANDS = {
    "operator": "holdfast.cli.operator:operator",
    "server": "holdfast.cli.server:server",
    "snapshot": "holdfast.cli.snapshot:snapshot",
    "status": "holdfast.cli.status:status",
}


class _Commands(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module, _, name = _COMMANDS[cmd_name].partition(":")
            command = getattr(importlib.import_module(module), name)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A Raft-backed, sealed, encrypted secret store with the Vault/OpenBao HTTP API."""


@cli.command("version", short_help="Print the version.")
def version() -> None:
    """Print the version."""
    click.echo(f"holdfast v{__version__}")


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. Every error is one sentence on stderr.

    0 success; 1 wrong usage, bad configuration or a local failure; 2 refused or not reachable (status: sealed).
    """
    from holdfast.cli.client import ClientError

    try:
        result = cli.main(args=normalise(arguments), prog_name="holdfast", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Aborted.", err=True)
        return 1
    except click.UsageError as error:
        error.show()
        return 1
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return 1
    except ClientError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    return result if isinstance(result, int) else 0
