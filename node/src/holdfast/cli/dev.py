# SPDX-License-Identifier: Apache-2.0
"""The development server: initialised, unsealed and with kv version 2 at secret/, at every start anew."""

from __future__ import annotations

from holdfast.core.types import Core, Operation, Request


async def open_dev_server(core: Core, api_addr: str) -> str:
    """Initialise and unseal `core`; returns the text for the terminal, with the root token and the one unseal key."""
    keys = await core.initialize({"secret_shares": 1, "secret_threshold": 1})
    await core.unseal({"key": keys["keys"][0]})
    mount = {"type": "kv", "options": {"version": "2"}, "description": "key/value secret storage"}
    await core.handle(Request(Operation.UPDATE, "sys/mounts/secret", mount, token=keys["root_token"]))
    return (
        "WARNING! dev mode is enabled: everything is in memory and gone when this process ends. "
        "Never run it in production.\n\n"
        f"    $ export BAO_ADDR='{api_addr}'\n\n"
        f"Unseal Key: {keys['keys_base64'][0]}\n"
        f"Root Token: {keys['root_token']}\n"
    )
