# SPDX-License-Identifier: Apache-2.0
"""Init, unseal, seal, leadership and restored states; texts and statuses as recorded from OpenBao 2.6.2."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.barrier import seal
from holdfast.barrier.keyring import Keyring
from holdfast.storage.types import Delete, Event, Put, Server, StorageError

NewNode = Callable[..., Any]

_SEALED = {"errors": ["Vault is sealed"]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "shares must be at least one"),
        ({"secret_shares": 1}, "threshold must be at least one"),
        ({"secret_shares": 3, "secret_threshold": 5}, "threshold cannot be larger than shares"),
        ({"secret_shares": 5, "secret_threshold": 1}, "threshold must be greater than one for multiple shares"),
        ({"secret_shares": 0, "secret_threshold": 0}, "shares must be at least one"),
        ({"secret_shares": 300, "secret_threshold": 3}, "shares must be less than 256"),
        ({"secret_shares": "5", "secret_threshold": 3}, "cannot unmarshal string"),
        ({"secret_shares": 1, "secret_threshold": 1, "root_token_pgp_key": "rubbish"}, "root_token_pgp_key"),
        ({"secret_shares": 1, "secret_threshold": 1, "pgp_keys": ["x"]}, "pgp_keys"),
        ({"secret_shares": 1, "secret_threshold": 1, "recovery_shares": 5}, "not applicable to seal type shamir"),
    ],
)
async def test_bad_init_changes_nothing(new_node: NewNode, body: dict[str, Any], text: str) -> None:
    node = new_node()
    status, answer = await node.call("PUT", "sys/init", body)
    assert status == 400
    assert text in answer["errors"][0]
    assert await node.call("GET", "sys/init") == (200, {"initialized": False})
    assert not node.cluster.has_state()


async def test_uninitialised(new_node: NewNode) -> None:
    node = new_node()
    status, health = await node.call("GET", "sys/health")
    assert status == 501
    assert (health["sealed"], health["standby"], health["replication_performance_mode"]) == (True, True, "unknown")
    _, body = await node.call("GET", "sys/seal-status")
    assert (body["initialized"], body["t"], body["n"], body["storage_type"]) == (False, 0, 0, "raft")
    for path in ("sys/leader", "sys/storage/raft/configuration", "sys/nothing"):
        assert await node.call("GET", path) == (503, _SEALED)
    assert await node.call("PUT", "sys/unseal", {"key": "00" * 32}) == (400, {"errors": ["Vault is not initialized"]})
    assert (await node.call("POST", "sys/storage/raft/bootstrap"))[0] == 400


async def test_init_is_durable_sealed_and_happens_once(new_node: NewNode) -> None:
    node = new_node()
    status, body = await node.call("PUT", "sys/init", {"secret_shares": 5, "secret_threshold": 3})
    assert status == 200
    assert [len(key) for key in body["keys"]] == [66] * 5
    assert [base64.b64decode(key).hex() for key in body["keys_base64"]] == body["keys"]
    assert body["root_token"].startswith("s.")
    assert len(body["root_token"]) == 26
    assert node.cluster.flushed == 1
    assert not node.cluster.eligible
    assert node.core.sealed()
    status, again = await node.call("PUT", "sys/init", {"secret_shares": 5, "secret_threshold": 3})
    assert (status, again) == (400, {"errors": ["Vault is already initialized"]})
    status, health = await node.call("GET", "sys/health")
    assert (status, health["initialized"]) == (503, True)
    assert (await node.call("GET", "sys/storage/raft/configuration")) == (503, _SEALED)


async def test_nothing_secret_is_stored_in_the_clear(new_node: NewNode) -> None:
    node = new_node()
    await node.init(1, 1)
    kek, stored = bytes.fromhex(node.keys[0]), node.cluster.world.storage
    values = [stored.get(key).value for key in stored.scan("")]
    root_key = seal.open_root_key(kek, stored.get(seal.UNSEAL_KEYS_KEY).value)
    for secret in (kek, root_key, node.token.encode(), base64.b64encode(root_key), b"PRIVATE KEY"):
        assert not any(secret in value for value in values)


async def test_a_cut_off_init_is_told_apart(new_node: NewNode) -> None:
    node = new_node()
    node.cluster.fail_bootstrap = True
    status, body = await node.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    assert status == 500
    assert "wipe its data directory" in body["errors"][0]
    assert (await node.call("GET", "sys/init"))[1] == {"initialized": False}
    status, body = await node.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    assert status == 400
    assert "cut off" in body["errors"][0]


async def test_an_impossible_node_id_is_refused_before_anything_changes(new_node: NewNode) -> None:
    node = new_node("no spaces please")
    status, _ = await node.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    assert status == 400
    assert not node.cluster.has_state()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "'key' must be specified in request body as JSON, or 'reset' set to true"),
        ({"key": ""}, "'key' must be specified in request body as JSON, or 'reset' set to true"),
        ({"key": "zz"}, "'key' must be a valid hex or base64 string"),
        ({"key": "00"}, "'key' must be a valid hex or base64 string"),
        ({"key": "YWJj"}, "key is shorter than minimum 16 bytes"),
        ({"key": base64.b64encode(bytes(34)).decode()}, "key is longer than maximum 33 bytes"),
        ({"key": 5}, "failed to decode JSON input"),
        ({"reset": "yes"}, "failed to decode JSON input"),
        ({"key": "00" * 32, "migrate": True}, "no seal migration"),
    ],
)
async def test_unusable_shares(new_node: NewNode, body: dict[str, Any], text: str) -> None:
    node = new_node()
    await node.init()
    status, answer = await node.call("PUT", "sys/unseal", body)
    assert status == 400
    assert text in answer["errors"][0]
    assert node.core.seal_status()["progress"] == 0


async def test_unseal_as_recorded(new_node: NewNode) -> None:
    node = new_node()
    await node.init()
    one, two, three = node.keys[:3]
    _, body = await node.call("PUT", "sys/unseal", {"key": one})
    assert (body["progress"], body["sealed"], body["t"], body["n"]) == (1, True, 3, 5)
    nonce = body["nonce"]
    assert nonce
    _, body = await node.call("PUT", "sys/unseal", {"key": one})
    assert (body["progress"], body["nonce"]) == (1, nonce)
    _, body = await node.call("PUT", "sys/unseal", {"reset": True})
    assert (body["progress"], body["nonce"]) == (0, "")
    await node.call("PUT", "sys/unseal", {"key": one})
    await node.call("PUT", "sys/unseal", {"key": base64.b64encode(bytes.fromhex(two)).decode()})
    status, body = await node.call("PUT", "sys/unseal", {"key": "11" * 33})
    assert (status, body["errors"]) == (
        400,
        [
            "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage: "
            "cipher: message authentication failed"
        ],
    )
    assert node.core.seal_status()["progress"] == 0
    assert not node.cluster.eligible
    for key in (one, two, three):
        status, body = await node.call("PUT", "sys/unseal", {"key": key})
    assert (status, body["sealed"], body["progress"], body["nonce"]) == (200, False, 0, "")
    assert body["cluster_name"].startswith("vault-cluster-")
    assert body["cluster_id"] == node.cluster.cluster_id()
    assert node.cluster.eligible
    assert (await node.call("PUT", "sys/unseal", {"key": one}))[1]["sealed"] is False
    assert await node.call("PUT", "sys/unseal", {"reset": True}) == (400, {"errors": ["vault is unsealed"]})
    status, health = await node.call("GET", "sys/health")
    assert (status, health["standby"], health["replication_performance_mode"]) == (200, False, "primary")
    _, leader = await node.call("GET", "sys/leader")
    assert leader["is_self"] is True
    assert leader["leader_cluster_address"] == "https://raft1.test:8201"
    status, body = await node.call("POST", "sys/storage/raft/bootstrap")
    assert status == 500
    assert "cluster already has state" in body["errors"][0]
    await node.core.shutdown()


async def test_a_restarted_node_is_sealed_and_keeps_its_data(leader: Any, restart: Callable[[Any], Any]) -> None:
    await leader.call("POST", "sys/mounts/kv1", {"type": "kv"})
    assert (await leader.call("POST", "kv1/a", {"v": "one"}))[0] == 204
    await leader.core.shutdown()
    again = restart(leader)
    assert again.core.sealed()
    assert (await again.call("GET", "kv1/a")) == (503, _SEALED)
    await again.unseal()
    status, body = await again.call("GET", "kv1/a")
    assert (status, body["data"], body["lease_duration"]) == (200, {"v": "one"}, 2764800)
    await again.core.shutdown()


async def test_sealing_a_leader_waits_a_bounded_time_for_the_handover(leader: Any, monkeypatch: Any) -> None:
    asked: list[float] = []

    async def transfer(to: str | None = None, timeout: float = 10.0) -> None:
        asked.append(timeout)
        raise StorageError("nobody took over")

    monkeypatch.setattr(leader.cluster, "transfer_leadership", transfer)
    leader.cluster.world.servers["raft2"] = Server("raft2", "127.0.0.1:1", True, False, False)
    assert (await leader.call("PUT", "sys/seal"))[0] == 204
    assert leader.core.sealed()
    assert asked == [3.0]


async def test_seal_needs_sudo_and_drops_everything(leader: Any) -> None:
    _, body = await leader.call("POST", "auth/token/create", {"policies": ["default"]})
    weak = body["auth"]["client_token"]
    assert (await leader.call("PUT", "sys/seal", token=weak))[0] == 403
    assert (await leader.call("PUT", "sys/seal", token=""))[0] == 403
    assert (await leader.call("PUT", "sys/seal"))[0] == 204
    assert leader.core.sealed()
    assert not leader.cluster.eligible
    assert (await leader.call("PUT", "sys/seal", token=""))[0] == 204
    assert (await leader.call("GET", "auth/token/lookup-self")) == (503, _SEALED)


async def test_step_down_of_a_single_server(leader: Any) -> None:
    assert (await leader.call("PUT", "sys/step-down"))[0] == 204
    assert (await leader.call("GET", "sys/health"))[0] == 429
    assert (await leader.call("GET", "auth/token/lookup-self"))[0] == 307
    leader.cluster.world.elect(leader.cluster)
    assert (await leader.call("GET", "auth/token/lookup-self"))[0] == 200


async def test_a_new_term_without_an_event_reloads_caches(leader: Any) -> None:
    assert (await leader.call("GET", "auth/token/lookup-self"))[0] == 200
    world = leader.cluster.world
    await world.storage.commit([Delete(key) for key in world.storage.scan("core/mounts/")])
    assert "sys/" in (await leader.call("GET", "sys/mounts"))[1]["data"]  # cached
    world.term += 1
    assert "sys/" not in (await leader.call("GET", "sys/mounts"))[1]["data"]


async def test_a_token_removed_below_is_refused_at_once(leader: Any) -> None:
    assert (await leader.call("GET", "auth/token/lookup-self"))[0] == 200
    storage = leader.cluster.world.storage
    await storage.commit([Delete(key) for key in storage.scan("sys/token/id/")])
    assert (await leader.call("GET", "auth/token/lookup-self"))[0] == 403


async def _replace(node: Any, other: Any) -> None:
    """A restore: the whole state of `other` takes the place of node's."""
    target, source = node.cluster.world.storage, other.cluster.world.storage
    await target.commit([Delete(key) for key in target.scan("")])
    await target.commit([Put(key, source.get(key).value) for key in source.scan("")])
    node.cluster.emit(Event.STATE_REPLACED)


async def test_restore_of_another_cluster_seals_under_its_shares_at_once(leader: Any, new_node: NewNode) -> None:
    other = new_node("other")
    await other.init(2, 2)
    await other.unseal()
    await other.call("POST", "sys/mounts/kv1", {"type": "kv"})
    await other.call("POST", "kv1/a", {"v": "other"})
    await _replace(leader, other)
    assert leader.core.sealed()
    body = leader.core.seal_status()
    assert (body["t"], body["n"], body["progress"]) == (2, 2, 0)
    for key in leader.keys[:1]:
        await leader.call("PUT", "sys/unseal", {"key": key})
    status, _ = await leader.call("PUT", "sys/unseal", {"key": leader.keys[1]})
    assert status == 400
    body = await leader.unseal(other.keys)
    assert body["sealed"] is False
    status, read = await leader.call("GET", "kv1/a", token=other.token)
    assert (status, read["data"]) == (200, {"v": "other"})
    assert (await leader.call("GET", "kv1/a"))[0] == 403
    # The CA that the members of this cluster trust has survived the restore, so that servers can still join.
    await leader.call("GET", "kv1/a", token=other.token)
    assert leader.core._opened.ca.trusted_by(leader.cluster.ca_pem())
    await other.core.shutdown()


async def test_restore_under_the_same_keyring_stays_unsealed_with_fresh_caches(leader: Any) -> None:
    world = leader.cluster.world
    before = [Put(key, world.storage.get(key).value) for key in world.storage.scan("")]
    await leader.call("POST", "sys/mounts/kv1", {"type": "kv"})
    _, body = await leader.call("POST", "auth/token/create", {"policies": ["default"]})
    later = body["auth"]["client_token"]
    await world.storage.commit([Delete(key) for key in world.storage.scan("")])
    await world.storage.commit(before)
    leader.cluster.emit(Event.STATE_REPLACED)
    assert not leader.core.sealed()
    assert (await leader.call("GET", "kv1/a"))[0] == 404
    assert (await leader.call("GET", "auth/token/lookup-self", token=later))[0] == 403
    assert (await leader.call("GET", "auth/token/lookup-self"))[0] == 200


async def test_a_keyring_that_does_not_open_is_a_clear_error(new_node: NewNode) -> None:
    node = new_node()
    await node.init(1, 1)
    await node.cluster.world.storage.commit([Put("core/keyring", Keyring.generate().seal())])
    status, body = await node.call("PUT", "sys/unseal", {"key": node.keys[0]})
    assert status == 500
    assert "keyring" in body["errors"][0]
    assert node.core.sealed()


async def test_storage_trouble_at_init(new_node: NewNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = new_node()

    async def fail() -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(node.cluster, "flush", fail)
    status, body = await node.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    assert status == 500
    assert "the disk is full" in body["errors"][0]


async def test_every_key_of_seal_status(leader: Any) -> None:
    assert set(leader.core.seal_status()) == {
        "type", "initialized", "sealed", "t", "n", "progress", "nonce", "recovery_seal", "version", "commit_date",
        "build_date", "migration", "cluster_name", "cluster_id", "storage_type", "removed_from_cluster",
    }  # fmt: skip
