# SPDX-License-Identifier: Apache-2.0
"""The unsealed heart: seal state, tokens, policies, mounts and the Raft endpoints, without HTTP."""
