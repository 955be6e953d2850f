# SPDX-License-Identifier: Apache-2.0
"""Mutants of state files."""

from __future__ import annotations

from typing import Any

from holdfast.consensus import install, leadership, state_files
from tests.sim.mutants.registry import Patch, mutant


@mutant("B9")
def chunk_offsets_are_ignored(patch: Patch) -> None:
    def take(self: Any, disk: Any, chunk: Any) -> bool:
        if not self._created:
            disk.create(self.part, 0)
            self._created = True
        if chunk.data:
            disk.write(self.part, self.offset, chunk.data)
            self.offset = min(self.size, self.offset + len(chunk.data))
        return bool(self.offset == self.size)

    patch.setattr(install.Receiver, "take", take)
    patch.setattr(install.Receiver, "finish", _finish_without_hash)


@mutant("B9")
def files_are_not_synced(patch: Patch) -> None:
    def finish(self: Any, disk: Any) -> bool:
        disk.rename(self.part, self.file)
        return True

    patch.setattr(install.Receiver, "finish", finish)


def _finish_without_hash(self: Any, disk: Any) -> bool:
    disk.sync(self.part)
    disk.rename(self.part, self.file)
    disk.sync_dir()
    return True


@mutant("design 6")
def restores_without_a_majority_of_files(patch: Patch) -> None:
    """Liveness only: members pull, and nobody may have the file any more."""
    patch.setattr(leadership.Leadership, "restore_held", lambda _self: True)
    patch.setattr(state_files.StateFiles, "_on_pull", lambda *_arguments: None)


@mutant("B9")
def snapshots_are_installed_without_their_hash(patch: Patch) -> None:
    patch.setattr(install.Receiver, "finish", _finish_without_hash)


@mutant("design 6")
def restores_are_applied_without_the_file(patch: Patch) -> None:
    def skip(self: Any) -> None:
        if self._restoring is None:
            return
        if self._has(self._restoring[2].file):
            self.machine.begin_restore(*self._restoring)
        else:
            self.restored(self._restoring[0])

    patch.setattr(state_files.StateFiles, "_begin_restore", skip)
