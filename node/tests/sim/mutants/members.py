# SPDX-License-Identifier: Apache-2.0
"""Mutants of membership."""

from __future__ import annotations

from typing import Any

from holdfast.consensus import leadership, membership
from holdfast.consensus.raft import Raft
from tests.sim.mutants.registry import Patch, mutant


@mutant("B5")
def two_configurations_at_once(patch: Patch) -> None:
    patch.setattr(Raft, "_change_waits", lambda self: self.leadership is None)


@mutant("B5")
def configurations_in_force_when_applied(patch: Patch) -> None:
    plain = membership.History.append
    applied = Raft._applied_entry

    def late(self: Any, index: int, configuration: Any) -> None:
        self.__dict__.setdefault("waiting", []).append((index, configuration))

    def on_applied(self: Any, entry: Any, result: Any) -> None:
        for index, configuration in self.history.__dict__.pop("waiting", []):
            plain(self.history, index, configuration)
        self._configuration_changed()
        applied(self, entry, result)

    patch.setattr(membership.History, "append", late)
    patch.setattr(Raft, "_applied_entry", on_applied)


@mutant("B5")
def configurations_are_not_rolled_back(patch: Patch) -> None:
    patch.setattr(membership.History, "cut", lambda _self, _index: False)


@mutant("removal")
def removed_servers_are_not_told(patch: Patch) -> None:
    patch.setattr(Raft, "removal_of", lambda _self, _peer: None)
    patch.setattr(leadership.Leadership, "_tell_removed", lambda _self: None)


@mutant("removal")
def removed_servers_go_on(patch: Patch) -> None:
    patch.setattr(Raft, "_mark_removed", lambda _self: None)


@mutant("removal")
def an_old_removal_is_believed(patch: Patch) -> None:
    def gullible(self: Any, peer: str, m: Any, now: float) -> None:
        if self.leadership is None and self.history.latest.member(self.node_id) is not None:
            self._mark_removed()

    patch.setattr(Raft, "_on_removed", gullible)


@mutant("rejoin")
def the_match_of_an_earlier_life_counts(patch: Patch) -> None:
    patch.setattr(leadership.Leadership, "restart", lambda _self, _peer, _now: None)


@mutant("rejoin")
def answers_of_an_earlier_life_count(patch: Patch) -> None:
    patch.setattr(leadership.Progress, "from_seq", property(lambda _self: 0, lambda _self, _value: None), raising=False)


@mutant("rejoin")
def changes_are_done_when_they_are_appended(patch: Patch) -> None:
    """A wiped server is started too early; that it grants no vote while it knows nobody is taken away with it."""
    plain = Raft.propose_change

    def hasty(self: Any, change: Any, callback: Any) -> bool:
        if self.leadership is not None and change(self.history.latest) == self.history.latest:
            return False
        return plain(self, change, callback)

    patch.setattr(Raft, "propose_change", hasty)
    patch.setattr(Raft, "read_index", _yes_to_changes(Raft.read_index))
    patch.setattr(Raft, "_stranger_to_all", lambda _self: False)


def _yes_to_changes(plain: Any) -> Any:
    def read_index(self: Any, done: Any) -> None:
        if done.__name__ == "report":
            done(self.leadership is not None)
        else:
            plain(self, done)

    return read_index
