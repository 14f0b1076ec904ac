"""Mint, use, end: tokens, KV values and database logins on a real server."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.model import Evidence, KeyValue, UsernamePassword, VaultToken
from broker.providers.base import KnowsTime, Minted, MintRefused
from tests.support.bao import BaoServer, BrokerLogin, TokenRole, openbao, provision, provision_database, put_secret
from tests.support.postgres import PostgresServer
from tests.support.vault import Notes, new_ref, order_of, token_name, vault_provider, with_refs

KV = {"role": "kv", "read": "secret/data/leases"}
TOKEN = {"role": "kv"}
DATABASE = {"role": "orders", "read": "database/creds/orders"}


@pytest.fixture(scope="module")
def login(bao: BaoServer, tmp_path_factory: pytest.TempPathFactory) -> BrokerLogin:
    put_secret(bao, "leases", {"api_key": "value-of-key"})
    roles = [
        TokenRole(name="kv", reads=["secret/data/leases", "secret/data/missing"]),
        TokenRole(name="orders", reads=["database/creds/orders"]),
    ]
    return provision(bao, tmp_path_factory.mktemp("login"), roles, broker="leases-broker")


@pytest.fixture(scope="module")
def database(bao: BaoServer, pg: PostgresServer) -> None:
    provision_database(bao, pg, "orders")


async def test_a_token_lives_until_it_is_revoked_and_is_then_seen_dead(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(TOKEN)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        assert isinstance(minted.credential, VaultToken)
        token = minted.credential.token.reveal()
        assert token == token_name(ref)
        assert bao.call("GET", "secret/data/leases", token=token).status == 200
        ref = with_refs(ref, minted.refs)
        assert await provider.probe(ref) is None

        assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
        assert bao.call("GET", "secret/data/leases", token=token).status == 403
        assert bao.token_of(ref.lease_id) == []
        assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
        assert await provider.probe(ref) is Evidence.SEEN_DEAD


async def test_a_token_carries_its_lease_and_cannot_be_renewed(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(TOKEN, seconds=120)
    async with vault_provider(bao.address, login) as provider:
        await provider.mint(order_of(ref))
        (seen,) = bao.token_of(ref.lease_id)
        assert seen["meta"] == {
            "lease_id": ref.lease_id,
            "agent": "spiffe://test.internal/workflow/w/step/s",
            "workflow": "w",
            "run": "r",
            "step": "s",
        }
        assert seen["explicit_max_ttl"] in (118, 119)
        assert seen["orphan"]
        assert not seen["renewable"]
        assert sorted(seen["policies"]) == ["kv", "step-self"]
        bao.call("POST", "auth/token/renew-self", {"increment": "10h"}, token=token_name(ref))
        assert bao.token_of(ref.lease_id)[0]["ttl"] <= 120
        await provider.revoke(ref)


async def test_a_kv_value_is_static(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(KV)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        assert isinstance(minted.credential, KeyValue)
        assert minted.credential.data["api_key"].reveal() == "value-of-key"
        assert minted.credential.version == 1
        assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.ACCESS_ENDED
        assert bao.token_of(ref.lease_id) == []


@pytest.mark.usefixtures("database")
async def test_a_database_login_dies_with_its_lease(bao: BaoServer, pg: PostgresServer, login: BrokerLogin) -> None:
    ref, notes = new_ref(DATABASE), Notes()
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref, notes))
        credential = minted.credential
        assert isinstance(credential, UsernamePassword)
        assert pg.logs_in(credential.username, credential.password.reveal())
        (child,) = notes.refs["children"]
        assert child.startswith("database/creds/orders/")

        ref = with_refs(ref, minted.refs)
        assert await provider.probe(ref) is None
        assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
        assert not pg.logs_in(credential.username, credential.password.reveal())
        assert credential.username not in pg.minted_roles()
        assert bao.child_leases("database/creds/orders") == []


@pytest.mark.usefixtures("database")
async def test_the_token_behind_a_database_login_is_not_handed_out(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(DATABASE)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        assert token_name(ref) not in _shown(minted)
        await provider.revoke(with_refs(ref, minted.refs))


async def test_nothing_shows_a_secret(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(KV)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        session = provider._login._session
        assert session is not None
        shown = f"{minted!r} {minted} {minted.refs} {provider!r} {vars(provider)!r} {session!r}"
        await provider.revoke(with_refs(ref, minted.refs))
    assert "value-of-key" not in shown
    assert token_name(ref) not in shown
    assert session.token.reveal() not in shown
    assert login.secret_id_file.read_text() not in shown


async def test_the_dead_token_of_the_broker_takes_no_step_along(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(TOKEN)
    async with vault_provider(bao.address, login) as provider:
        await provider.mint(order_of(ref))
        session = provider._login._session
        assert session
        bao.must("POST", "auth/token/revoke", {"token": session.token.reveal()})
        assert bao.token_of(ref.lease_id)

        lost = new_ref(TOKEN)
        with pytest.raises(MintRefused):  # the broker learns it by being refused, ...
            await provider.mint(order_of(lost))
        await provider.mint(order_of(new_ref(TOKEN)))  # ... and logs in anew
        assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD


async def test_over_tls_with_the_servers_own_ca_and_no_other(tmp_path: Path) -> None:
    with openbao(tmp_path, tls=True) as bao:
        bao.must("GET", "sys/auth")
        login = provision(bao, tmp_path, [TokenRole(name="kv")])
        ref = new_ref(TOKEN)
        async with vault_provider(bao.address, login, ca_file=bao.ca_file) as provider:
            assert await provider.check() == []
            await provider.mint(order_of(ref))
            assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
        async with vault_provider(bao.address, login) as provider:
            with pytest.raises(MintRefused):
                await provider.mint(order_of(ref))
            assert "cannot be reached" in (await provider.check())[0]


def _shown(minted: Minted) -> str:
    return json.dumps(dict(minted.refs)) + repr(minted)


async def test_the_time_of_the_last_answer_is_heard(bao: BaoServer, login: BrokerLogin) -> None:
    async with vault_provider(bao.address, login) as provider:
        assert isinstance(provider, KnowsTime)
        assert provider.time_heard() is None
        await provider.check()
        heard = provider.time_heard()
        assert heard is not None
        assert abs(heard - SystemClock().now()) < timedelta(seconds=30)


async def test_a_transit_token_encrypts_with_its_key_and_no_other(bao: BaoServer, tmp_path: Path) -> None:
    if "transit/" not in bao.must("GET", "sys/mounts").data:
        bao.must("POST", "sys/mounts/transit", {"type": "transit"})
    for key in ("orders", "payroll"):
        bao.must("POST", f"transit/keys/{key}", {})
    login = provision(bao, tmp_path, [TokenRole(name="seal-orders")], broker="transit-broker")
    policy = 'path "transit/encrypt/orders" { capabilities = ["update"] }'
    bao.must("PUT", "sys/policies/acl/seal-orders", {"policy": policy})
    async with vault_provider(bao.address, login) as provider:
        ref = new_ref({"role": "seal-orders"})
        minted = await provider.mint(order_of(ref))
        assert isinstance(minted.credential, VaultToken)
        token, plain = minted.credential.token.reveal(), {"plaintext": "b3JkZXI="}
        assert bao.call("POST", "transit/encrypt/orders", plain, token=token).data["ciphertext"].startswith("vault:v1:")
        assert bao.call("POST", "transit/encrypt/payroll", plain, token=token).status == 403
        assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.SEEN_DEAD
        assert bao.call("POST", "transit/encrypt/orders", plain, token=token).status == 403
