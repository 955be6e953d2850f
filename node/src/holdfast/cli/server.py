# SPDX-License-Identifier: Apache-2.0
"""`holdfast server`: run a node until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import click

from holdfast import __version__
from holdfast.config import Config, ConfigError, InmemConfig, Listener, load_config
from holdfast.config.values import host_port, join_host_port

_LEVELS = click.Choice(["trace", "debug", "info", "warn", "error"])


@click.command(short_help="Run a server.")
@click.option(
    "--config", "paths", multiple=True, type=click.Path(path_type=Path), help="A file or directory; repeatable."
)
@click.option("--dev", is_flag=True, help="In memory, unsealed, with a printed root token; for trying things out only.")
@click.option("--dev-listen-address", default="127.0.0.1:8200", show_default=True)
@click.option("--dev-root-token-id", default="", help="The root token of a development server.")
@click.option("--log-level", type=_LEVELS, help="Wins over the configuration.")
def server(
    paths: tuple[Path, ...], dev: bool, dev_listen_address: str, dev_root_token_id: str, log_level: str | None
) -> None:
    """Run a server in the foreground until SIGTERM or SIGINT; SIGHUP reloads certificates and the log level."""
    if dev == bool(paths):
        raise click.UsageError("give either --config or --dev")

    def read() -> Config:
        config = _dev_config(dev_listen_address) if dev else load_config(paths)
        return replace(config, log_level=log_level) if log_level else config

    try:
        config = read()
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    _run(config, dev_root_token_id if dev else None, read)


def _dev_config(address: str) -> Config:
    try:
        host, port = host_port(address, 8200)
    except ValueError as error:
        raise ConfigError(f"--dev-listen-address: {error}") from None
    listener = Listener(address=(host, port), cluster_address=(host, port + 1), tls_disable=True)
    return Config(InmemConfig(), (listener,), api_addr=f"http://{join_host_port(host, port)}", cluster_name="dev")


def _run(config: Config, dev: str | None, reread: Callable[[], Config]) -> None:
    """`dev` is the wanted root token of a development server ("": a generated one), None for a real one."""
    import uvloop

    from holdfast.http.server import ListenError
    from holdfast.http.tls import TlsError
    from holdfast.node import NodeError, pid_file
    from holdfast.storage.types import StorageError
    from holdfast.telemetry import setup_logging

    os.umask(0o077)
    logger = setup_logging(config.log_level, config.log_format)
    for warning in config.warnings:
        logger.warning("configuration", extra={"fields": {"warning": warning}})
    try:
        with pid_file(config.pid_file), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, dev, reread, logger))
    except (NodeError, TlsError, ListenError, StorageError) as error:
        raise click.ClickException(str(error)) from None


async def _serve(config: Config, dev: str | None, reread: Callable[[], Config], logger: logging.Logger) -> None:
    from holdfast.node import Node

    node = Node(config, logger)
    node.handle_signals(reread)  # before anything is open: a signal during the start must not kill the process
    await node.start()
    # What is loaded now stays: the collector need not walk over it again. Requests leave next to no reference cycles,
    # so it may also look more rarely; with Python's own thresholds it took a tenth of the time of a write.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        click.echo(banner(config, [server.port for server in node.servers]))
        if dev is not None:
            from holdfast.cli.dev import DevCore, open_dev_server

            click.echo(await open_dev_server(cast(DevCore, node.core), config.api_addr, dev))
        await node.run()
        logger.info("stopping")
    finally:
        await node.stop()
        logger.info("stopped")


def banner(config: Config, ports: list[int]) -> str:
    """What a server prints when it serves, in bao's layout; nothing secret."""
    rows = [("Api Address", config.api_addr), ("Cluster Address", config.cluster_addr or "none")]
    for number, (listener, port) in enumerate(zip(config.listeners, ports, strict=True), 1):
        tls = "disabled" if listener.tls_disable else "enabled"
        rows.append((f"Listener {number}", f'tcp (addr: "{join_host_port(listener.address[0], port)}", tls: "{tls}")'))
    storage = "inmem" if isinstance(config.storage, InmemConfig) else f"raft (path: {config.storage.path})"
    rows += [("Log Level", config.log_level), ("Storage", storage), ("Version", f"holdfast {__version__}")]
    lines = [f"{title:>24}: {value}" for title, value in rows]
    head = "==> holdfast server configuration:\n\n"
    return head + "\n".join(lines) + "\n\n==> holdfast server started! Log data will stream in below:\n"
