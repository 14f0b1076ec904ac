"""A namespace, where the server chooses the token ids: leases are ended by their accessors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker.model import Evidence, UsernamePassword, VaultToken
from broker.providers.base import Contact, DeclaredScope, LeaseRef, MintInDoubt, MintRefused, ProviderError
from broker.providers.vault import answers
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import TokenFile
from broker.providers.vault.transport import VaultRefused
from broker.secret import Secret
from tests.support.bao import STEP_SELF, BaoServer, BrokerLogin, TokenRole, connect_database, provision, put_secret
from tests.support.postgres import PostgresServer
from tests.support.proxy import Fault, Proxy, proxy
from tests.support.vault import Notes, new_ref, order_of, settled, vault_provider, with_refs

NAMESPACE = "team-a"
TOKEN = {"role": "app"}
KV = {"role": "app", "read": "kv/data/app"}
RIGHTS = """
path "auth/token/create/app" { capabilities = ["update"] }
path "auth/token/roles/app" { capabilities = ["read"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "sys/policies/acl/app" { capabilities = ["read"] }
path "sys/policies/acl/broker" { capabilities = ["read"] }
path "sys/capabilities-self" { capabilities = ["update"] }
"""
LOGGED_IN = 'path "auth/token/lookup-self" { capabilities = ["read"] }'  # with a token file
SCOPES = [DeclaredScope(block=TOKEN, ttl=timedelta(minutes=10)), DeclaredScope(block=KV, ttl=timedelta(minutes=10))]


@pytest.fixture(scope="module")
def token_file(bao: BaoServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The namespace, one role in it, and a broker's token of it."""
    bao.must("POST", f"sys/namespaces/{NAMESPACE}", {})
    bao.must("POST", f"{NAMESPACE}/sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
    put_secret(bao, "app", {"password": "correct-horse"}, mount=f"{NAMESPACE}/kv")
    for name, text in {
        "step-self": STEP_SELF,
        "app": 'path "kv/data/app" { capabilities = ["read"] }',
        "broker": RIGHTS + LOGGED_IN,
    }.items():
        bao.must("PUT", f"{NAMESPACE}/sys/policies/acl/{name}", {"policy": text})
    role = {"allowed_policies": ["app", "step-self"], "orphan": True, "renewable": False, "token_type": "service"}
    role |= {"token_explicit_max_ttl": "1h", "token_no_default_policy": True}
    bao.must("POST", f"{NAMESPACE}/auth/token/roles/app", role)
    made = bao.must(
        "POST", f"{NAMESPACE}/auth/token/create", {"policies": ["broker"], "ttl": "1h", "no_default_policy": True}
    )
    path = tmp_path_factory.mktemp("namespace") / "token"
    path.write_text(made.body["auth"]["client_token"])
    return path


@pytest.fixture
async def faulty(bao: BaoServer) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(bao.address).port or 0) as between:
        yield between


@pytest.fixture
async def provider(faulty: Proxy, token_file: Path) -> AsyncIterator[VaultProvider]:
    nobody = BrokerLogin(role_id="", secret_id_file=token_file)
    async with vault_provider(
        faulty.address, nobody, auth=TokenFile(path=token_file), namespace=NAMESPACE, request_timeout=1.0
    ) as one:
        assert await one.check() == []
        yield one


def alive(bao: BaoServer, lease_id: str) -> int:
    """Tokens of this lease in the namespace."""
    keys = bao.must("LIST", f"{NAMESPACE}/auth/token/accessors").data["keys"]
    seen = [bao.call("POST", f"{NAMESPACE}/auth/token/lookup-accessor", {"accessor": key}) for key in keys]
    return sum((one.data["meta"] or {}).get("lease_id") == lease_id for one in seen if one.status == 200)


async def test_a_token_is_minted_used_and_seen_dead_by_its_accessor(bao: BaoServer, provider: VaultProvider) -> None:
    ref, notes = new_ref(TOKEN), Notes()
    minted = await provider.mint(order_of(ref, notes))
    assert isinstance(minted.credential, VaultToken)
    assert minted.credential.namespace == NAMESPACE
    token = minted.credential.token.reveal()
    assert bao.must("GET", f"{NAMESPACE}/kv/data/app", token=token).data["data"] == {"password": "correct-horse"}
    assert notes.refs["accessor"]  # durable before the token leaves the broker
    assert token not in repr(minted)

    ref = with_refs(ref, notes.refs)
    assert await provider.probe(ref) is None
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
    assert bao.call("GET", f"{NAMESPACE}/kv/data/app", token=token).status == 403
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD


async def test_a_value_is_read_and_its_token_ended(bao: BaoServer, provider: VaultProvider) -> None:
    ref = new_ref(KV)
    minted = await provider.mint(order_of(ref))
    assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.ACCESS_ENDED
    assert alive(bao, ref.lease_id) == 0


async def test_a_token_whose_accessor_cannot_be_recorded_is_not_given_out(
    bao: BaoServer, provider: VaultProvider
) -> None:
    class Broken(Notes):
        async def note(self, refs: object) -> None:
            raise OSError("disk full")

    ref = new_ref(TOKEN)
    with pytest.raises(MintRefused):
        await provider.mint(order_of(ref, Broken()))
    assert alive(bao, ref.lease_id) == 0


async def test_a_lost_answer_is_not_called_dead_but_left_to_its_time(
    bao: BaoServer, faulty: Proxy, provider: VaultProvider
) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(Fault.CUT, "/auth/token/create/app")
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    assert alive(bao, ref.lease_id) == 1  # it landed, and nothing of it is known
    early = await settled(provider, ref, final=False)
    assert (early.found, early.evidence) == (False, None)
    late = await settled(provider, ref)
    assert (late.found, late.evidence) == (False, Evidence.EXPIRED)  # counts when its whole life has passed
    with pytest.raises(ProviderError):
        await provider.revoke(ref)


async def test_a_doubt_whose_accessor_was_noted_is_settled_by_it(bao: BaoServer, provider: VaultProvider) -> None:
    ref, notes = new_ref(TOKEN), Notes()
    await provider.mint(order_of(ref, notes))
    outcome = await settled(provider, with_refs(ref, notes.refs))
    assert (outcome.found, outcome.evidence) == (True, Evidence.SEEN_DEAD)
    assert alive(bao, ref.lease_id) == 0


async def test_only_the_exact_answer_says_that_an_accessor_is_dead(bao: BaoServer, provider: VaultProvider) -> None:
    minted = await provider.mint(order_of(new_ref(TOKEN)))
    accessor = minted.refs["accessor"]
    bao.must("POST", f"{NAMESPACE}/auth/token/revoke-accessor", {"accessor": accessor})
    with pytest.raises(VaultRefused) as dead:
        await provider._client.lookup_accessor(Secret(provider_token(provider)), accessor)
    assert answers.is_exactly(dead.value, answers.ACCESSOR_DEAD)
    with pytest.raises(VaultRefused) as asker:
        await provider._client.lookup_accessor(Secret("s.dead"), accessor)
    assert not answers.is_exactly(asker.value, answers.ACCESSOR_DEAD)
    foreign = bao.must("GET", "auth/token/lookup-self").data["accessor"]  # of the root namespace
    ref = with_refs(new_ref(TOKEN), {"accessor": foreign})
    with pytest.raises(ProviderError):
        await provider.revoke(ref)
    assert bao.call("GET", "auth/token/lookup-self").status == 200


@pytest.fixture
async def elsewhere(bao: BaoServer, tmp_path: Path) -> AsyncIterator[VaultProvider]:
    """The same broker after `vault.namespace` was taken out of its config: ids are chosen again."""
    login = provision(bao, tmp_path, [TokenRole(name="app")], broker="ns-broker")
    async with vault_provider(bao.address, login) as one:
        yield one


async def test_a_lease_of_another_namespace_is_not_judged_in_this_one(
    bao: BaoServer, provider: VaultProvider, elsewhere: VaultProvider
) -> None:
    """Its id was never heard of here, which reads as "bad token": dead."""
    ref, notes = new_ref(TOKEN), Notes()
    await provider.mint(order_of(ref, notes))
    ref = with_refs(ref, notes.refs)

    async def recheck(ref: LeaseRef) -> object:
        return await elsewhere.recheck(ref, Secret(bao.root_token))

    for call in (elsewhere.revoke, elsewhere.probe, recheck):
        with pytest.raises(ProviderError, match="another namespace") as caught:
            await call(ref)
        assert caught.value.contact is Contact.NOT_ASKED
    with pytest.raises(ProviderError, match="another namespace"):
        await settled(elsewhere, ref)
    assert alive(bao, ref.lease_id) == 1
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD

    ref, notes = new_ref(TOKEN), Notes()
    await elsewhere.mint(order_of(ref, notes))
    ref = with_refs(ref, notes.refs)
    with pytest.raises(ProviderError, match="another namespace"):
        await provider.revoke(ref)
    older = replace(ref, refs={name: value for name, value in ref.refs.items() if name != "namespace"})
    assert (await elsewhere.revoke(older)).evidence is Evidence.SEEN_DEAD  # what does not say counts as today's


async def test_where_it_is_asked_for_is_on_record_before_anything_is_sent(
    faulty: Proxy, provider: VaultProvider
) -> None:
    class Full(Notes):
        async def note(self, refs: object) -> None:
            raise OSError("disk full")

    foreseen = provider.foresee()
    assert foreseen["namespace"] == NAMESPACE
    for wrong in ({"namespace": "team-b"}, {"namespace": ""}, {"cluster": "another"}):
        ref, notes = with_refs(new_ref(TOKEN), {**foreseen, **wrong}), Notes()
        faulty.requests.clear()
        with pytest.raises(MintRefused, match="could not be recorded"):
            await provider.mint(order_of(ref, Full()))
        assert faulty.seen("/auth/token/create") == []
        minted = await provider.mint(order_of(ref, notes))
        for name in ("namespace", "cluster"):
            assert notes.refs[name] == minted.refs[name] == foreseen[name]
        await provider.revoke(with_refs(ref, notes.refs))


async def test_check_finds_nothing_missing_and_says_what_a_namespace_costs(
    bao: BaoServer, provider: VaultProvider
) -> None:
    assert await provider.check_scopes(SCOPES) == []
    (note,) = provider.remarks()
    assert "accessor" in note


@pytest.mark.parametrize("line", RIGHTS.strip().splitlines())
async def test_each_missing_right_is_named(bao: BaoServer, provider: VaultProvider, line: str) -> None:
    rest = RIGHTS.replace(line, "")
    bao.must(
        "PUT",
        f"{NAMESPACE}/sys/policies/acl/broker",
        {"policy": rest + LOGGED_IN},
    )
    try:
        (problem,) = await provider.check_scopes(SCOPES)
    finally:
        bao.must("PUT", f"{NAMESPACE}/sys/policies/acl/broker", {"policy": RIGHTS + LOGGED_IN})
    assert line.split('"')[1] in problem


async def test_a_database_login_in_a_namespace_dies_with_its_lease(
    bao: BaoServer, pg: PostgresServer, token_file: Path, provider: VaultProvider
) -> None:
    read = "database/creds/ns"
    bao.must("POST", f"{NAMESPACE}/sys/mounts/database", {"type": "database"})
    connection = connect_database(bao, pg, prefix=f"{NAMESPACE}/")
    creation = ["CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"]
    body = {"db_name": connection, "creation_statements": creation, "default_ttl": "1h", "max_ttl": "1h"}
    bao.must("POST", f"{NAMESPACE}/database/roles/ns", body)
    more = (
        f'\npath "sys/leases/lookup" {{ capabilities = ["update"] }}'
        f'\npath "sys/leases/revoke/{read}/*" {{ capabilities = ["update"] }}'
        f'\npath "sys/leases/lookup/{read}/" {{ capabilities = ["list", "sudo"] }}'
    )
    bao.must("PUT", f"{NAMESPACE}/sys/policies/acl/broker", {"policy": RIGHTS + LOGGED_IN + more})
    app = f'path "kv/data/app" {{ capabilities = ["read"] }}\npath "{read}" {{ capabilities = ["read"] }}'
    bao.must("PUT", f"{NAMESPACE}/sys/policies/acl/app", {"policy": app})

    ref = new_ref({"role": "app", "read": read})
    minted = await provider.mint(order_of(ref))
    login = minted.credential
    assert isinstance(login, UsernamePassword)
    assert pg.logs_in(login.username, login.password.reveal())
    assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.SEEN_DEAD
    assert not pg.logs_in(login.username, login.password.reveal())
    never = await settled(provider, new_ref({"role": "app", "read": read}))
    assert never.evidence is Evidence.EXPIRED


def provider_token(provider: VaultProvider) -> str:
    session = provider._login._session
    assert session is not None
    return session.token.reveal()
