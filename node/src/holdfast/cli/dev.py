# SPDX-License-Identifier: Apache-2.0
"""The development server: initialised, unsealed and with kv version 2 at secret/, at every start anew."""

from __future__ import annotations

from typing import Any, Protocol


class DevCore(Protocol):
    """What the core offers for this."""

    async def start_dev(self, root_token: str = "") -> dict[str, Any]:
        """Initialise with one share and unseal; the answer of sys/init."""


async def open_dev_server(core: DevCore, api_addr: str, root_token: str) -> str:
    """Initialise and unseal `core`; returns the text for the terminal, with the root token and the one unseal key."""
    keys = await core.start_dev(root_token)
    return (
        "WARNING! dev mode is enabled: everything is in memory and gone when this process ends. "
        "Never run it in production.\n\n"
        f"    $ export BAO_ADDR='{api_addr}'\n\n"
        f"Unseal Key: {keys['keys_base64'][0]}\n"
        f"Root Token: {keys['root_token']}\n"
    )
