"""A broker whose server stands by: a real pair of raft nodes, the second of which hands requests on to the first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from broker.model import Evidence, KeyValue
from tests.support.bao import BaoServer, BrokerLogin, TokenRole, provision, put_secret
from tests.support.processes import wait_until
from tests.support.raft import RaftNode
from tests.support.vault import Notes, new_ref, order_of, settled, vault_provider, with_refs

LOGIN = "auth/approle/login"
TOKEN = {"role": "kv"}
KV = {"role": "kv", "read": "secret/data/orders"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    active: BaoServer
    standby: BaoServer
    login: BrokerLogin


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    first = RaftNode(tmp_path_factory.mktemp("one"), tls=False)
    with first.serving() as active:
        second = RaftNode(tmp_path_factory.mktemp("two"), tls=False, leader=first)
        with second.serving() as standby:
            active.must("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
            config = {"max_versions": 0}  # until it has become a versioned one
            wait_until(lambda: active.call("POST", "secret/config", config).status == 204, within=10, what="KV v2")
            put_secret(active, "orders", {"api_key": "value-of-key"})
            login = provision(
                active, tmp_path_factory.mktemp("login"), [TokenRole(name="kv", reads=["secret/data/orders"])]
            )
            shown = {"role_id": login.role_id, "secret_id": login.secret_id_file.read_text()}
            wait_until(
                lambda: standby.call("POST", LOGIN, shown).status == 200, within=10, what="the standby to know it"
            )
            yield Pair(active=active, standby=standby, login=login)


async def test_through_a_standby_everything_is_minted_ended_and_settled(pair: Pair) -> None:
    assert pair.standby.call("GET", "sys/health").status == 429
    async with vault_provider(pair.standby.address, pair.login) as provider:
        assert await provider.check() == []
        for _ in range(20):
            ref, notes = new_ref(KV), Notes()
            minted = await provider.mint(order_of(ref, notes))
            assert isinstance(minted.credential, KeyValue)
            ref = with_refs(ref, {**notes.refs, **minted.refs})
            assert await provider.probe(ref) is None
            assert (await provider.revoke(ref)).evidence is Evidence.ACCESS_ENDED
            assert pair.active.token_of(ref.lease_id) == []
        lost = new_ref(TOKEN)
        await provider.mint(order_of(lost))
        assert (await settled(provider, lost)).evidence is Evidence.SEEN_DEAD
        assert (await settled(provider, new_ref(TOKEN))).evidence is Evidence.NOT_MINTED


async def test_what_a_standby_has_not_heard_of_yet_is_not_taken_for_dead(pair: Pair) -> None:
    """By itself it says "bad token" of a token that was made a moment ago at the active node."""
    async with (
        vault_provider(pair.active.address, pair.login) as there,
        vault_provider(pair.standby.address, pair.login) as here,
    ):
        await asyncio.gather(there.check(), here.check())
        for _ in range(150):
            ref = new_ref(TOKEN)
            minted = await there.mint(order_of(ref))
            assert await here.probe(with_refs(ref, minted.refs)) is None
            await there.revoke(ref)
            assert await here.probe(with_refs(ref, minted.refs)) is Evidence.SEEN_DEAD


async def test_a_lease_minted_at_one_node_is_ended_at_the_other(pair: Pair) -> None:
    for there, here in ((pair.active, pair.standby), (pair.standby, pair.active)):
        ref = new_ref(TOKEN)
        async with vault_provider(there.address, pair.login) as provider:
            ref = with_refs(ref, (await provider.mint(order_of(ref))).refs)
        async with vault_provider(here.address, pair.login) as provider:
            assert await provider.probe(ref) is None
            assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
