# SPDX-License-Identifier: Apache-2.0
"""Standbys: forwarding, redirects, elections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast.core.types import ApiError, Operation, Response, StandbyError
from holdfast.storage.types import ForwardReply, ForwardRequest, Leader, NotLeader, OutcomeUnknown


@dataclass
class FakeCluster:
    """A cluster of which this node is a standby; `link` is the leader's handler."""

    node_id: str = "n2"
    known: Leader | None = field(default_factory=lambda: Leader("n1", "127.0.0.1:1", "http://leader:8200"))
    leads: bool = False
    link: Any = None
    sent: list[ForwardRequest] = field(default_factory=list)

    def is_leader(self) -> bool:
        return self.leads

    def leader(self) -> Leader | None:
        return self.known

    async def forward(self, request: ForwardRequest) -> ForwardReply:
        self.sent.append(request)
        return await self.link(request)


async def test_a_request_reaches_the_leader_unchanged(serve: Any) -> None:
    async with serve() as leader, serve(cluster=FakeCluster()) as standby:
        standby.context.cluster.link = leader.app.forwarded
        standby.core.answer = lambda request: StandbyError()
        leader.core.answer = lambda request: Response(data={"ok": 1})
        connection = await standby.connect()
        answer = await connection.ask("LIST", "/v1/secret/a%20b%3Fc%25?after=x", X_Vault_Token="tok")
        assert (answer.status, answer.json()["data"]) == (200, {"ok": 1})
        answer = await connection.ask("POST", "/v1/secret/x", {"k": "v"}, X_Vault_Token="tok")
        assert answer.status == 200
        leader.core.answer = lambda request: None
        assert (await connection.ask("DELETE", "/v1/secret/x")).status == 204
        leader.core.answer = lambda request: ApiError(403, "permission denied")
        answer = await connection.ask("GET", "/v1/secret/x")
        assert (answer.status, answer.json()) == (403, {"errors": ["permission denied"]})
        first, second = leader.core.requests[:2]
        assert (first.operation, first.path, first.data, first.token, first.forwarded) == (
            Operation.LIST, "secret/a b?c%", {"after": "x"}, "tok", True,
        )  # fmt: skip
        assert (second.operation, second.data, second.remote_addr) == (Operation.UPDATE, {"k": "v"}, "127.0.0.1")
        assert first.request_id == standby.core.requests[0].request_id


async def test_no_leader(serve: Any) -> None:
    async with serve(cluster=FakeCluster(known=None), election_wait=0.05) as standby:
        standby.core.answer = lambda request: StandbyError()
        answer = await (await standby.connect()).ask("GET", "/v1/secret/x")
        assert answer.status == 500
        assert answer.json() == {"errors": ["local node not active but active cluster node not found"]}


async def test_a_request_waits_for_an_election(serve: Any) -> None:
    cluster = FakeCluster(known=None)
    async with serve(cluster=cluster, election_wait=5) as node:
        asked = 0

        def answer(request: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                cluster.leads = True  # this node wins meanwhile
                return NotLeader("lost")
            return Response(data={"ok": 1})

        node.core.answer = answer
        assert (await (await node.connect()).ask("POST", "/v1/secret/x", {"a": 1})).json()["data"] == {"ok": 1}


async def test_a_leader_that_lost_leadership_is_not_the_end(serve: Any) -> None:
    async with serve() as other, serve(cluster=FakeCluster(), election_wait=5) as standby:
        standby.context.cluster.link = other.app.forwarded
        standby.core.answer = lambda request: StandbyError()
        replies: list[Any] = [StandbyError(), NotLeader("x"), Response(data={"ok": 1})]
        other.core.answer = lambda request: replies.pop(0)
        answer = await (await standby.connect()).ask("POST", "/v1/secret/x", {"a": 1})
        assert (answer.status, answer.json()["data"]) == (200, {"ok": 1})


async def test_an_unknown_outcome_is_never_repeated(serve: Any) -> None:
    async with serve(cluster=FakeCluster()) as standby:

        async def lost(request: ForwardRequest) -> ForwardReply:
            raise OutcomeUnknown("the connection to the leader broke")

        standby.context.cluster.link = lost
        standby.core.answer = lambda request: StandbyError()
        answer = await (await standby.connect()).ask("POST", "/v1/secret/x", {"a": 1})
        assert answer.status == 500
        assert "unknown" in answer.json()["errors"][0]
        assert len(standby.context.cluster.sent) == 1


async def test_redirect_when_the_client_wants_no_forwarding(serve: Any) -> None:
    async with serve(cluster=FakeCluster()) as standby:
        standby.core.answer = lambda request: StandbyError()
        connection = await standby.connect()
        answer = await connection.ask("GET", "/v1/a%20b?x=1&y=%20", X_Vault_No_Request_Forwarding="true")
        assert (answer.status, answer.headers["location"]) == (307, "http://leader:8200/v1/a%20b?x=1&y=%20")
        standby.context.cluster.known = None
        answer = await connection.ask("GET", "/v1/a", X_Vault_No_Request_Forwarding="true")
        assert (answer.status, answer.json()) == (503, {"errors": ["no active Vault instance found"]})


async def test_forwarded_requests_cannot_reach_local_endpoints(serve: Any) -> None:
    async with serve() as leader:
        leader.core.answer = lambda request: None
        await leader.app.forwarded(ForwardRequest("PUT", "/v1/sys/unseal", (), b'{"key":"x"}'))
        assert leader.core.calls == []
        assert leader.core.requests[0].path == "sys/unseal"


async def test_a_read_whose_answer_was_lost_is_asked_again(serve: Any) -> None:
    async with serve() as leader, serve(cluster=FakeCluster(), election_wait=5) as standby:

        async def lost_once(request: ForwardRequest) -> ForwardReply:
            if len(standby.context.cluster.sent) == 1:
                raise OutcomeUnknown("the connection to the leader broke")
            return await leader.app.forwarded(request)

        standby.context.cluster.link = lost_once
        standby.core.answer = lambda request: StandbyError()
        assert (await (await standby.connect()).ask("GET", "/v1/secret/x")).status == 200
