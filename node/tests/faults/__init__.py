# SPDX-License-Identifier: Apache-2.0
"""Whole clusters under faults: real processes, TLS and disks, concurrent clients, and a judge.

What the clients saw goes through the linearizability checker (tests/linear); what was acknowledged must be on every server's disk.
The ordinary run has a short round of each; `HOLDFAST_FAULTS=long` has them all, for minutes. A run prints its seed:
`HOLDFAST_FAULTS_SEED=<n>` repeats the choices (the interleaving of processes cannot be repeated). A failure keeps the history
(history.jsonl) and the servers' logs below pytest's tmp_path.
"""
