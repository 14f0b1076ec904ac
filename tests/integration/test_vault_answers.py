"""Every row of `broker.providers.vault.answers`, said by the real server; and answers that prove nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broker.model import Evidence
from broker.providers.base import DeclaredScope, MintInDoubt, MintRefused, ProviderError
from broker.providers.vault import answers
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.tokens import NamedTokens, Owner, rehearse
from broker.providers.vault.transport import Transport, VaultRefused
from broker.secret import Secret
from tests.support.bao import (
    TOMB_ROLE,
    BaoServer,
    BrokerLogin,
    TokenRole,
    broker_policy,
    openbao,
    provision,
    provision_database,
)
from tests.support.postgres import PostgresServer
from tests.support.vault import new_ref, order_of, settled, token_name, vault_provider, with_refs

BROKER = "answers-broker"
KV = DeclaredScope(block={"role": "kv"}, ttl=timedelta(minutes=5))
FOREIGN = DeclaredScope(block={"role": "foreign"}, ttl=timedelta(minutes=5))


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    """One of its own: roles are spoilt and policies taken away here."""
    with openbao(tmp_path_factory.mktemp("bao-answers")) as server:
        yield server


@pytest.fixture
def login(bao: BaoServer, tmp_path: Path) -> BrokerLogin:
    return provision(bao, tmp_path, [TokenRole(name="kv", reads=["secret/data/orders"])], broker=BROKER)


def broker_may(bao: BaoServer, *rules: str) -> None:
    bao.must("PUT", f"sys/policies/acl/{BROKER}", {"policy": "\n".join(rules)})


async def refused(bao: BaoServer, login: BrokerLogin, role: str = "kv") -> None:
    """The mint is definitely refused, and nothing is alive."""
    ref = new_ref({"role": role})
    async with vault_provider(bao.address, login) as provider:
        with pytest.raises(MintRefused) as caught:
            await provider.mint(order_of(ref))
    assert bao.token_of(ref.lease_id) == []
    assert token_name(ref) not in f"{caught.value!r}"


async def test_refused_when_the_broker_lacks_the_capability(bao: BaoServer, login: BrokerLogin) -> None:
    broker_may(bao, 'path "auth/token/lookup" { capabilities = ["update"] }')
    await refused(bao, login)


async def test_refused_without_sudo(bao: BaoServer, login: BrokerLogin) -> None:
    broker_may(bao, 'path "auth/token/create/kv" { capabilities = ["update"] }')
    await refused(bao, login)


async def test_refused_for_a_role_that_does_not_exist(bao: BaoServer, login: BrokerLogin) -> None:
    broker_may(bao, 'path "auth/token/create/*" { capabilities = ["update", "sudo"] }')
    await refused(bao, login, "gone")


async def test_refused_for_a_role_of_batch_tokens(bao: BaoServer, login: BrokerLogin) -> None:
    broker_may(bao, 'path "auth/token/create/*" { capabilities = ["update", "sudo"] }')
    role = {"allowed_policies": ["kv"], "orphan": True, "token_type": "batch", "renewable": False}
    bao.must("POST", "auth/token/roles/batchy", role)
    await refused(bao, login, "batchy")


async def test_refused_when_the_brokers_token_is_wrong(bao: BaoServer, login: BrokerLogin, tmp_path: Path) -> None:
    async with vault_provider(bao.address, login) as provider:
        await provider.check()
        session = provider._login._session
        assert session
        bao.must("POST", "auth/token/revoke", {"token": session.token.reveal()})
        with pytest.raises(MintRefused):
            await provider.mint(order_of(new_ref({"role": "kv"})))


@pytest.mark.parametrize("path", ["auth/token/create/kv", "database/creds/any"])
async def test_refused_by_a_rate_limit(bao: BaoServer, login: BrokerLogin, path: str) -> None:
    if "database/" not in bao.must("GET", "sys/mounts").data:
        bao.must("POST", "sys/mounts/database", {"type": "database"})
    bao.must("POST", "sys/quotas/rate-limit/slow", {"path": path, "rate": 0.01, "interval": "60s"})
    try:
        first, second = (new_ref({"role": "kv", "read": "database/creds/any"}) for _ in range(2))
        async with vault_provider(bao.address, login) as provider:
            for ref in (first, second):
                with pytest.raises(MintRefused) as caught:
                    await provider.mint(order_of(ref))
                assert bao.token_of(ref.lease_id) == []
            assert "429" in str(caught.value)
    finally:
        bao.must("DELETE", "sys/quotas/rate-limit/slow")


async def test_refused_in_a_namespace_other_than_root(bao: BaoServer, login: BrokerLogin) -> None:
    transport = Transport(VaultSettings(address=bao.address, auth=TokenFile(path=Path("none")), namespace="team"))
    bao.must("POST", "sys/namespaces/team", {})
    bao.must("POST", "team/auth/token/roles/kv", {"allowed_policies": ["default"], "orphan": True, "renewable": False})
    try:
        with pytest.raises(VaultRefused) as caught:
            await VaultClient(transport).create(Secret(bao.root_token), "kv", "scv1-x", seconds=60, meta={})
        assert answers.create_refused(caught.value, "kv")
        why = await rehearse(VaultClient(transport), Secret(bao.root_token), "kv")
        assert "root namespace" in why
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"orphan": False}, "orphan"),
        ({"token_explicit_max_ttl": "100s"}, "shorter than the scope's ttl"),
    ],
)
async def test_a_token_other_than_asked_for_is_killed_and_refused(
    bao: BaoServer, login: BrokerLogin, spoilt: dict[str, object], words: str
) -> None:
    good = {
        "allowed_policies": ["kv", "step-self"],
        "orphan": True,
        "renewable": False,
        "token_no_default_policy": True,
    }
    bao.must("POST", "auth/token/roles/kv", good | spoilt)
    ref = new_ref({"role": "kv"}, seconds=600)
    async with vault_provider(bao.address, login) as provider:
        with pytest.raises(MintRefused, match=words):
            await provider.mint(order_of(ref))
    assert bao.token_of(ref.lease_id) == []


async def test_a_read_that_gives_nothing_leaves_nothing(bao: BaoServer, login: BrokerLogin) -> None:
    for path in ("secret/data/orders", "secret/data/forbidden", "database/creds/not-there"):
        ref = new_ref({"role": "kv", "read": path})
        async with vault_provider(bao.address, login) as provider:
            with pytest.raises(MintRefused):
                await provider.mint(order_of(ref))
        assert bao.token_of(ref.lease_id) == []


async def test_an_unknown_database_role_leaves_nothing(bao: BaoServer, pg: PostgresServer, tmp_path: Path) -> None:
    provision_database(bao, pg, "known")
    path = "database/creds/unknown"
    login = provision(bao, tmp_path, [TokenRole(name="db", reads=[path])], broker=BROKER)
    ref = new_ref({"role": "db", "read": path})
    async with vault_provider(bao.address, login) as provider:
        with pytest.raises(MintRefused):
            await provider.mint(order_of(ref))
    assert bao.token_of(ref.lease_id) == []


async def test_a_taken_id_is_no_refusal_but_doubt(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref({"role": "kv"})
    async with vault_provider(bao.address, login) as provider:
        await provider.mint(order_of(ref))
        with pytest.raises(MintInDoubt):
            await provider.mint(order_of(ref))
        await provider.revoke(ref)


async def test_dead_is_only_what_bad_token_says(bao: BaoServer, login: BrokerLogin) -> None:
    """The look-up by a dead or a weak asker, and of a tomb, are told apart from a death."""
    ref = new_ref({"role": "kv"})
    async with vault_provider(bao.address, login) as provider:
        await provider.mint(order_of(ref))
        session = provider._login._session
        assert session
        tokens = provider._tokens
        assert isinstance(tokens, NamedTokens)
        token = Secret(token_name(ref))
        assert await tokens.owner(session.token, token, ref.lease_id) is Owner.LEASE
        assert await tokens.owner(session.token, Secret("scv1-never"), ref.lease_id) is Owner.NOBODY
        with pytest.raises(VaultRefused) as weak:
            await tokens.owner(token, Secret("scv1-never"), ref.lease_id)
        assert weak.value.errors == (answers.NO_CAPABILITY,)
        with pytest.raises(VaultRefused) as dead:
            await tokens.owner(Secret("scv1-dead"), Secret("scv1-never"), ref.lease_id)
        assert answers.asker_dead(dead.value)

        broker_may(bao, f'path "auth/token/create/{TOMB_ROLE}" {{ capabilities = ["update", "sudo"] }}')
        with pytest.raises(ProviderError):
            await provider.probe(ref)
        with pytest.raises(ProviderError):
            await provider.revoke(ref)  # dead by now, and yet not seen to be


async def test_answers_of_another_cluster_prove_nothing(bao: BaoServer, login: BrokerLogin) -> None:
    ref = with_refs(new_ref({"role": "kv"}), {"cluster": "another"})
    async with vault_provider(bao.address, login) as provider:
        for call in (provider.revoke, provider.probe):
            with pytest.raises(ProviderError, match="another cluster"):
                await call(ref)
        with pytest.raises(ProviderError, match="another cluster"):
            await settled(provider, ref)


async def test_a_login_of_another_cluster_is_dropped_when_the_one_that_minted_is_back(
    bao: BaoServer, login: BrokerLogin
) -> None:
    """Behind one address: the session that is held is the other one's, and nobody mints who would notice."""
    async with vault_provider(bao.address, login) as provider:
        ref = new_ref({"role": "kv"})
        minted = await provider.mint(order_of(ref))
        held = provider._login.held
        assert held is not None
        provider._login._session = replace(held, cluster_id="another")
        assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.SEEN_DEAD


async def test_readiness_logs_in_anew_when_its_login_is_dead(bao: BaoServer, login: BrokerLogin) -> None:
    async with vault_provider(bao.address, login) as provider:
        assert await provider.check() == []
        held = provider._login.held
        assert held is not None
        bao.must("POST", "auth/token/revoke", {"token": held.token.reveal()})
        (problem,) = await provider.check()
        assert "logs in anew" in problem
        assert await provider.check() == []


async def test_check_rehearses_each_role_and_says_what_to_do(bao: BaoServer, login: BrokerLogin) -> None:
    before = len(bao.live_tokens())
    async with vault_provider(bao.address, login) as provider:
        assert await provider.check_scopes([KV]) == []
        create, look, _ = await provider.check_scopes([KV, FOREIGN])
        assert "sudo and update on auth/token/create/foreign" in create
        assert "read on auth/token/roles/foreign" in look
        broker_may(bao, broker_policy([TokenRole(name="foreign")], "answers-broker"))
        (problem,) = await provider.check_scopes([FOREIGN])
        assert "does not exist" in problem
    assert len(bao.live_tokens()) == before


async def test_check_names_a_wrong_login_and_a_missing_server(
    bao: BaoServer, login: BrokerLogin, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-secret-id")
    async with vault_provider(bao.address, BrokerLogin(role_id=login.role_id, secret_id_file=wrong)) as provider:
        (problem,) = await provider.check()
        assert "login to Vault failed" in problem
        assert "not-the-secret-id" not in problem
    async with vault_provider("http://127.0.0.1:1", login) as provider:
        (problem,) = await provider.check()
        assert "cannot be reached" in problem


async def test_a_token_file_logs_in_too(bao: BaoServer, login: BrokerLogin, tmp_path: Path) -> None:
    auth = bao.must(
        "POST", "auth/approle/login", {"role_id": login.role_id, "secret_id": login.secret_id_file.read_text()}
    ).body["auth"]
    (tmp_path / "token").write_text(auth["client_token"] + "\n")
    async with vault_provider(bao.address, login, auth=TokenFile(path=tmp_path / "token")) as provider:
        assert await provider.check_scopes([KV]) == []


async def test_a_sealed_server_refuses_nothing_definitely(tmp_path: Path) -> None:
    """Sealing may come after the token was written, so a mint in it is in doubt; and nothing is seen dead."""
    with openbao(tmp_path) as bao:
        login = provision(bao, tmp_path, [TokenRole(name="kv")])
        alive = new_ref({"role": "kv"})
        async with vault_provider(bao.address, login) as provider:
            await provider.mint(order_of(alive))
            bao.seal()
            with pytest.raises(MintInDoubt):
                await provider.mint(order_of(new_ref({"role": "kv"})))
            with pytest.raises(ProviderError):
                await provider.revoke(alive)
            with pytest.raises(ProviderError):
                await settled(provider, alive)
        async with vault_provider(bao.address, login) as provider:
            assert await provider.check() != []
            with pytest.raises(MintRefused):  # no login, so no create was sent
                await provider.mint(order_of(new_ref({"role": "kv"})))
