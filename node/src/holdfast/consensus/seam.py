# SPDX-License-Identifier: Apache-2.0
"""The only importer of pysyncobj, and the only place that knows its private names. No Raft logic here.

pysyncobj 0.3.17 keeps its Raft state in name-mangled privates and offers no injection of journal, clock or poller; stock, it
loses acknowledged writes and unpickles what the network sends (docs/consensus.md has the faults B1-B12). So:

* the package's source is compared with known hashes before it is used: any other source is refused;
* its module-level names for pickle, poller, journal creation and clock are replaced (every pickle name by one that raises);
* `Seam` gives its private state clean names (`NAMES`) and turns its private callbacks into hooks (`HOOKS`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_SOURCES = {
    "config": "fbbc7ff9f18e4d15a7fd563376e42f5bd192956879d4b810b056d5248b955698",
    "fast_queue": "8477fe5fdf36d9766df933310d3d66ee953d1afc195b1e6482b3a1498fc517bd",
    "journal": "9cf1eaf6acc704581a4cf7d3de330a404403913107adc91c929778b7e3f35edf",
    "node": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "pickle": "e9327780738065cec5d600484b936c91e7c13875206cb584d5ff7f5d0dc9c474",
    "serializer": "4d39fde2f15000ad8f507ec229ebd4f6a86371b6f84d4dc1439a9cccd52857ee",
    "syncobj": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "transport": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
}


def _verify(sources: Mapping[str, str] = _SOURCES) -> None:
    spec = importlib.util.find_spec("pysyncobj")
    if spec is None or spec.origin is None:
        raise ImportError("pysyncobj 0.3.17 is not installed: install the node archive again")
    folder = Path(spec.origin).parent
    for name, wanted in sources.items():
        path = folder / f"{name}.py"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise ImportError(
                f"pysyncobj/{name}.py is not the source of release 0.3.17 that holdfast was proven with: "
                "install exactly pysyncobj==0.3.17"
            )


_verify()

from pysyncobj import config, journal, node, syncobj, transport  # noqa: E402
from pysyncobj import pickle as pysyncobj_pickle  # noqa: E402

JournalBase = journal.Journal
Peer = node.Node
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2  # syncobj._RAFT_STATE
SUCCESS, NOT_LEADER, DISCARDED, REQUEST_DENIED = 0, 4, 3, 6  # config.FAIL_REASON
_default_clock: Callable[[], float] = syncobj.monotonicTime
_clock: list[Callable[[], float]] = [_default_clock]


class _NoPickle:
    """Stands where pysyncobj expects the pickle module."""

    @staticmethod
    def _refuse(*_args: object, **_kwargs: object) -> Any:
        raise RuntimeError("pickle is switched off: nothing is ever unpickled in this process")

    loads = load = dumps = dump = Unpickler = Pickler = to_bytes = _refuse


class _NullPoller:
    """All input arrives through `Raft.receive`."""

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


def _disarm() -> None:
    importlib.import_module("pysyncobj.tcp_connection")
    importlib.import_module("pysyncobj.serializer")
    refuse = _NoPickle._refuse
    for name, module in list(sys.modules.items()):
        if name != "pysyncobj" and not name.startswith("pysyncobj."):
            continue
        for attribute in ("pickle", "cPickle"):
            if isinstance(getattr(module, attribute, None), ModuleType):
                setattr(module, attribute, _NoPickle)
        for attribute in ("loads", "load", "dumps", "dump", "Unpickler", "Pickler"):
            if hasattr(module, attribute):
                setattr(module, attribute, refuse)
    for attribute in ("loads", "dumps"):
        setattr(pysyncobj_pickle, attribute, refuse)
    syncobj.createPoller = lambda _kind: _NullPoller()
    syncobj.createJournal = lambda prepared: prepared
    syncobj.monotonicTime = lambda: _clock[0]()


_disarm()


def use_clock(clock: Callable[[], float]) -> None:
    """Stock code that asks for the time gets it from `clock` from now on (each server in a simulation has its own)."""
    _clock[0] = clock


class _Outbox(transport.Transport):
    """pysyncobj's transport: hands the few messages that stock code still sends to the seam."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.owner: Seam | None = None

    @property
    def ready(self) -> bool:
        return True

    def send(self, peer: Any, message: dict[str, Any]) -> bool:
        if self.owner is not None:
            self.owner.on_stock_send(peer.id, message)
        return True

    def addNode(self, peer: Any) -> None:
        """Connections follow the configuration elsewhere."""

    def dropNode(self, peer: Any) -> None:
        """Connections follow the configuration elsewhere."""

    def destroy(self) -> None:
        """Nothing is open."""


NAMES = {
    "state": "raftState",
    "current_term": "raftCurrentTerm",
    "voted_for": "votedForNodeId",
    "votes_count": "votesCount",
    "stock_leader": "raftLeader",
    "log": "raftLog",
    "commit": "raftCommitIndex",
    "applied": "raftLastApplied",
    "stock_match": "raftMatchIndex",
    "other_voters": "otherNodes",
    "other_non_voters": "readonlyNodes",
    "connected": "connectedNodes",
    "callbacks": "commandsWaitingCommit",
    "queue": "commandsQueue",
}
CALLS = {
    "set_term": "setCurrentTerm",
    "set_state": "setState",
    "stock_receive": "onMessageReceived",
}
HOOKS = {
    "sendAppendEntries": "on_stock_replicate",
    "parseChangeClusterRequest": "on_parse_configuration",
    "changeCluster": "on_configuration_proposed",
    "tryLogCompaction": "on_never",
    "loadDumpFile": "on_never",
    "doApplyCommand": "on_never",
}


class Seam(syncobj.SyncObj):
    """SyncObj with clean names. Subclasses implement the hooks; the state's clean names are in `NAMES`."""

    state: int
    current_term: int
    voted_for: str | None
    votes_count: int
    stock_leader: Any
    commit: int
    applied: int
    stock_match: dict[Any, int]
    other_voters: set[Any]
    other_non_voters: set[Any]
    connected: set[Any]
    callbacks: dict[int, list[tuple[int, Callable[[Any, int], None]]]]
    queue: Any
    set_term: Callable[[int, str | None], None]
    set_state: Callable[[int], None]
    stock_receive: Callable[[Any, dict[str, Any]], None]

    def __init__(self, node_id: str, prepared_log: Any, state_changed: Callable[[int, int], None]) -> None:
        outbox = _Outbox()
        conf = config.SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            dynamicMembershipChange=True,
            commandsQueueSize=0,
            journalFile=prepared_log,
            fullDumpFile=None,
            onStateChanged=state_changed,
        )
        super().__init__(Peer(node_id), [], conf, transport=outbox)
        outbox.owner = self

    # Hooks: what stock code calls.

    def on_stock_send(self, peer: str, message: dict[str, Any]) -> None:
        """Stock code sends a message."""
        raise AssertionError("no handler for stock messages")

    def on_stock_replicate(self) -> None:
        """Stock code wants entries to be replicated."""

    def on_parse_configuration(self, command: bytes) -> Any:
        """Stock code asks whether a command is a configuration; anything but None is one."""

    def on_configuration_proposed(self, request: Any) -> bool:
        """Stock code is about to append a configuration; False refuses it."""
        return False

    def on_never(self, *_args: object) -> None:
        """A stock path that must not run: snapshots, dumps and application are ours."""
        raise AssertionError("a stock path of pysyncobj was used")

    def drain_commands(self) -> None:
        """Append what `_applyCommand` queued (stock: indexes, terms, callbacks, configuration check)."""
        self._checkCommandsToApply()

    def transfer_to(self, peer: str) -> None:
        """Stock transferLeadership: refuses unless the target is a voter and fully caught up, then sends TimeoutNow."""
        self.transferLeadership(Peer(peer))


def _alias(private: str) -> property:
    mangled = f"_SyncObj__{private}"

    def read(self: Seam) -> Any:
        return self.__dict__.get(mangled)

    def write(self: Seam, value: Any) -> None:
        self.__dict__[mangled] = value

    return property(read, write)


def _call(private: str) -> Any:
    stock = getattr(syncobj.SyncObj, f"_SyncObj__{private}")

    def call(self: Seam, *args: Any) -> Any:
        return stock(self, *args)

    return call


def _hook(name: str) -> Any:
    def hook(self: Seam, *args: Any, **_kwargs: Any) -> Any:
        return getattr(self, name)(*args)

    return hook


for _clean, _private in NAMES.items():
    setattr(Seam, _clean, _alias(_private))
for _clean, _private in CALLS.items():
    setattr(Seam, _clean, _call(_private))
for _private, _name in HOOKS.items():
    setattr(Seam, f"_SyncObj__{_private}", _hook(_name))
