# SPDX-License-Identifier: Apache-2.0
"""What the core keeps compiled: no change of the stored state may be missed, however it came about."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from holdfast.core import policies
from holdfast.storage.types import OutcomeUnknown

READ_A = 'path "kv1/a" { capabilities = ["read"] }'


async def token_with_policy(node: Any, text: str = READ_A) -> str:
    assert (await node.call("POST", "sys/mounts/kv1", {"type": "kv"}))[0] == 204
    assert (await node.call("POST", "kv1/a", {"v": "1"}))[0] == 204
    assert (await node.call("PUT", "sys/policies/acl/p", {"policy": text}))[0] == 204
    _, answer = await node.call("POST", "auth/token/create", {"policies": ["p"], "no_default_policy": True})
    token: str = answer["auth"]["client_token"]
    assert (await node.call("GET", "kv1/a", token=token))[0] == 200
    return token


def cut_off(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on commits take effect but their answers are lost."""
    storage, commit = node.cluster.world.storage, node.cluster.world.storage.commit

    async def lost(ops: Any, preconditions: Any = None) -> int:
        await commit(ops, preconditions)
        raise OutcomeUnknown("leadership moved")

    monkeypatch.setattr(storage, "commit", lost)


async def test_a_revocation_whose_answer_was_lost_counts_at_once(leader: Any, monkeypatch: Any) -> None:
    token = await token_with_policy(leader)
    cut_off(leader, monkeypatch)
    assert (await leader.call("POST", "auth/token/revoke", {"token": token}))[0] == 500
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 403


async def test_a_policy_change_whose_answer_was_lost_counts_at_once(leader: Any, monkeypatch: Any) -> None:
    token = await token_with_policy(leader)
    cut_off(leader, monkeypatch)
    deny = {"policy": 'path "kv1/a" { capabilities = ["deny"] }'}
    assert (await leader.call("PUT", "sys/policies/acl/p", deny))[0] == 500
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 403


async def test_a_policy_removal_whose_answer_was_lost_counts_at_once(leader: Any, monkeypatch: Any) -> None:
    token = await token_with_policy(leader)
    cut_off(leader, monkeypatch)
    assert (await leader.call("DELETE", "sys/policies/acl/p"))[0] == 500
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 403


async def test_a_policy_that_comes_back_grants_again(leader: Any) -> None:
    token = await token_with_policy(leader)
    assert (await leader.call("DELETE", "sys/policies/acl/p"))[0] == 204
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 403
    assert (await leader.call("PUT", "sys/policies/acl/p", {"policy": READ_A}))[0] == 204
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 200


async def test_a_revoked_token_stays_revoked_when_it_is_tried_again(leader: Any) -> None:
    token = await token_with_policy(leader)
    assert (await leader.call("POST", "auth/token/revoke", {"token": token}))[0] == 204
    for _ in range(3):
        assert (await leader.call("GET", "kv1/a", token=token))[0] == 403


async def test_an_expired_token_is_refused_although_it_is_cached(leader: Any, monkeypatch: Any) -> None:
    await token_with_policy(leader)
    _, answer = await leader.call("POST", "auth/token/create", {"policies": ["p"], "ttl": "1h"})
    token = answer["auth"]["client_token"]
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 200
    now = policies.datetime.now().timestamp()
    monkeypatch.setattr("holdfast.core.tokens.time.time", lambda: now + 3601)
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 403


async def test_another_salt_makes_every_token_unknown(leader: Any) -> None:
    token = await token_with_policy(leader)
    barrier = leader.core._opened.barrier
    await barrier.commit([policies.Put("sys/token/salt", b"another")])
    leader.cluster.world.term += 1  # a new term reads everything afresh
    assert (await leader.call("GET", "kv1/a", token=token))[0] == 403


async def test_policies_are_parsed_beside_the_loop(leader: Any, monkeypatch: Any) -> None:
    threads: list[threading.Thread] = []
    real = policies.parse_policy

    def parse(text: str) -> Any:
        threads.append(threading.current_thread())
        return real(text)

    monkeypatch.setattr(policies, "parse_policy", parse)
    await token_with_policy(leader)  # writes the policy, then uses it
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize("unseen", ["policy", "token", "mount"])
async def test_a_write_is_refused_only_on_what_is_current(leader: Any, monkeypatch: Any, unseen: str) -> None:
    """The node was deposed and does not know it: what another leader has granted meanwhile is seen when it asks."""
    grant = {"policy": 'path "+/w" { capabilities = ["create", "update"] }'}
    token = "created-by-another-leader"

    async def create(policy: str) -> None:
        body = {"id": token, "policies": [policy], "no_default_policy": True}
        assert (await leader.call("POST", "auth/token/create", body))[0] == 200

    async def catch_up() -> None:
        if unseen == "policy":
            assert (await leader.call("PUT", "sys/policies/acl/w", grant))[0] == 204
        elif unseen == "token":
            await create("w")
        else:
            assert (await leader.call("POST", "sys/mounts/late", {"type": "kv"}))[0] == 204

    assert (await leader.call("POST", "sys/mounts/kv1", {"type": "kv"}))[0] == 204
    if unseen != "policy":
        assert (await leader.call("PUT", "sys/policies/acl/w", grant))[0] == 204
    if unseen != "token":
        await create("w")
    known, rounds = leader.storage.read_barrier, []

    async def ask() -> None:
        await known()
        monkeypatch.setattr(leader.storage, "read_barrier", known)
        rounds.append(1)
        await catch_up()

    path = "late/w" if unseen == "mount" else "kv1/w"
    monkeypatch.setattr(leader.storage, "read_barrier", ask)
    assert (await leader.call("POST", path, {"x": 1}, token=token))[0] == 204
    assert rounds == [1]
