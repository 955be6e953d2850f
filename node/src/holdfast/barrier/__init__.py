# SPDX-License-Identifier: Apache-2.0
"""Encryption between the core and storage: Shamir seal, keyring and AES-256-GCM envelope in OpenBao's formats."""
