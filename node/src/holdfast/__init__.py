# SPDX-License-Identifier: Apache-2.0
"""holdfast: a Raft-backed, sealed, encrypted secret store with the Vault/OpenBao HTTP API."""

__version__ = "0.1.0"
