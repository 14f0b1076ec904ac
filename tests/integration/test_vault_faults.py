"""The network and the server at their worst: nothing is minted twice, everything is dead in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import pytest

from broker.model import Evidence, JsonValue, UsernamePassword
from broker.providers.base import LeaseRef, MintInDoubt, MintRefused, ProviderError
from broker.providers.vault.client import TokenAnswer
from broker.providers.vault.provider import VaultProvider
from broker.secret import Secret
from tests.support.bao import (
    TOMB_ROLE,
    BaoServer,
    BrokerLogin,
    TokenRole,
    connect_database,
    provision,
    provision_database,
    put_secret,
)
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port
from tests.support.proxy import Fault, Proxy, proxy, response
from tests.support.vault import Notes, as_recorded, new_ref, order_of, settled, token_name, vault_provider, with_refs

CREATE = "/auth/token/create/kv"
TOKEN = {"role": "kv"}
KV = {"role": "kv", "read": "secret/data/orders"}
SLOW = {"role": "slow", "read": "database/creds/slow"}
SERVER_ERROR = response("500 Internal Server Error", b'{"errors": ["scv1-whatever internal"]}')


@pytest.fixture(scope="module")
def login(bao: BaoServer, tmp_path_factory: pytest.TempPathFactory) -> BrokerLogin:
    put_secret(bao, "orders", {"api_key": "value-of-key"})
    roles = [
        TokenRole(name="kv", reads=["secret/data/orders"]),
        TokenRole(name="slow", reads=["database/creds/slow"]),
    ]
    return provision(bao, tmp_path_factory.mktemp("login"), roles, broker="faults-broker")


@pytest.fixture
async def faulty(bao: BaoServer) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(bao.address).port or 0) as between:
        yield between


@pytest.fixture
async def provider(faulty: Proxy, login: BrokerLogin) -> AsyncIterator[VaultProvider]:
    async with vault_provider(faulty.address, login, request_timeout=1.0) as one:
        await one.check()  # logged in before anything goes wrong
        faulty.requests.clear()
        yield one


def owners(bao: BaoServer, ref: LeaseRef) -> list[str]:
    """Roles of the tokens alive under the lease's id, by metadata and by id."""
    named = bao.call("POST", "auth/token/lookup", {"token": token_name(ref)})
    roles = [str(token["role"]) for token in bao.token_of(ref.lease_id)]
    return roles + ([str(named.data["role"])] if named.status == 200 else [])


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.HANG, Fault.ANSWER])
async def test_a_mint_that_failed_and_landed_is_found_and_killed(
    bao: BaoServer, faulty: Proxy, provider: VaultProvider, fault: Fault
) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(fault, CREATE, answer=SERVER_ERROR)
    with pytest.raises(MintInDoubt) as caught:
        await provider.mint(order_of(ref))
    assert "scv1" not in f"{caught.value!r}"
    assert owners(bao, ref) == ["kv", "kv"]  # "it failed, so nothing was minted" is false

    first = await settled(provider, ref, final=False)
    assert (first.found, first.evidence) == (True, None)
    assert owners(bao, ref) == [TOMB_ROLE]
    last = await settled(provider, as_recorded(ref, first))
    assert (last.found, last.evidence) == (True, Evidence.SEEN_DEAD)
    assert owners(bao, ref) == [TOMB_ROLE]
    assert len(faulty.seen(CREATE)) == 1
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD  # the tomb is not the lease


async def test_a_mint_that_never_arrived_is_settled_as_not_minted(
    bao: BaoServer, faulty: Proxy, provider: VaultProvider
) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(Fault.REPLACE, CREATE, answer=SERVER_ERROR)
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    assert await settled(provider, ref, final=False) is not None
    last = await settled(provider, ref)
    assert (last.found, last.evidence) == (False, Evidence.NOT_MINTED)
    assert owners(bao, ref) == [TOMB_ROLE]


async def test_a_late_mint_finds_its_id_occupied(bao: BaoServer, faulty: Proxy, provider: VaultProvider) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(Fault.LATE, CREATE, delay=0.5)
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    assert not (await settled(provider, ref, final=False)).found
    await faulty.late_done()
    last = await settled(provider, ref)
    assert (last.found, last.evidence) == (False, Evidence.NOT_MINTED)
    assert owners(bao, ref) == [TOMB_ROLE]


async def test_settling_under_faults_alarms_and_succeeds_when_repeated(
    bao: BaoServer, faulty: Proxy, provider: VaultProvider
) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(Fault.CUT, CREATE)
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    for part in (TOMB_ROLE, "/lookup", "/revoke-self"):
        faulty.inject(Fault.ANSWER, part, answer=SERVER_ERROR)
        with pytest.raises(ProviderError):
            await settled(provider, ref)
    faulty.inject(Fault.NONE)
    assert (await settled(provider, ref)).evidence is not None
    assert owners(bao, ref) == [TOMB_ROLE]


async def test_two_settlers_at_once_leave_one_tomb(bao: BaoServer, faulty: Proxy, provider: VaultProvider) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(Fault.CUT, CREATE)
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    both = await asyncio.gather(*(settled(provider, ref, final=False) for _ in range(2)), return_exceptions=True)
    assert any(getattr(one, "found", False) for one in both)
    assert owners(bao, ref) == [TOMB_ROLE]


async def test_a_tomb_is_known_by_what_it_says_of_itself_whatever_its_role_is_called_now(
    bao: BaoServer, login: BrokerLogin
) -> None:
    doubt, alive = new_ref(TOKEN), new_ref(TOKEN)
    async with vault_provider(bao.address, login) as before:
        assert not (await settled(before, doubt, final=False)).found
        minted = await before.mint(order_of(alive))
    async with vault_provider(bao.address, login, tomb_role="renamed") as renamed:
        assert await renamed.probe(doubt) is Evidence.SEEN_DEAD
    async with vault_provider(bao.address, login, tomb_role="slow") as renamed:  # one that it may use
        last = await settled(renamed, doubt)
        assert (last.found, last.evidence) == (False, Evidence.NOT_MINTED)
    async with vault_provider(bao.address, login, tomb_role="kv") as confused:
        assert await confused.probe(with_refs(alive, minted.refs)) is None  # a scope's role makes no tomb of its lease
        with pytest.raises(MintRefused, match="not allowed"):
            await confused.mint(order_of(new_ref(TOKEN)))
    async with vault_provider(bao.address, login) as before:
        await before.revoke(alive)
    assert owners(bao, alive) == []


async def test_mints_that_hang_hold_up_no_end(faulty: Proxy, login: BrokerLogin, bao: BaoServer) -> None:
    async with vault_provider(faulty.address, login, max_connections=4) as provider:
        ref = new_ref(TOKEN)
        await provider.mint(order_of(ref))
        faulty.inject(Fault.HANG, CREATE, times=99)
        refs = [new_ref(TOKEN) for _ in range(8)]
        hanging = [asyncio.create_task(provider.mint(order_of(one))) for one in refs]
        await asyncio.sleep(0.3)
        assert len(faulty.seen(CREATE)) == 5
        async with asyncio.timeout(2):
            assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
        for one in hanging:
            one.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        faulty.inject(Fault.NONE)
        for lost in refs:
            assert (await settled(provider, lost)).evidence is not None


async def test_a_mint_without_time_to_ask_is_refused_and_not_in_doubt(faulty: Proxy, login: BrokerLogin) -> None:
    async with vault_provider(faulty.address, login, mint_timeout=0.5) as provider:
        faulty.inject(Fault.HANG, "/approle/login")
        with pytest.raises(MintRefused, match="no time was left"):
            await provider.mint(order_of(new_ref(TOKEN)))
        assert faulty.seen(CREATE) == []


async def test_a_token_under_another_id_than_asked_for_is_killed(
    bao: BaoServer, faulty: Proxy, provider: VaultProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = provider._minting._client
    create = client.create

    async def careless(asker: Secret, role: str, _: object, *, seconds: int, meta: Mapping[str, str]) -> TokenAnswer:
        return await create(asker, role, None, seconds=seconds, meta=meta)

    monkeypatch.setattr(client, "create", careless)
    ref = new_ref(TOKEN)
    with pytest.raises(MintRefused, match="another token id"):
        await provider.mint(order_of(ref))
    assert bao.token_of(ref.lease_id) == []
    faulty.inject(Fault.REPLACE, "/revoke-self", times=9, answer=SERVER_ERROR)
    ref = new_ref(TOKEN)
    with pytest.raises(MintInDoubt, match="another token id"):
        await provider.mint(order_of(ref))
    (left,) = bao.token_of(ref.lease_id)
    bao.must("POST", "auth/token/revoke-accessor", {"accessor": left["accessor"]})


async def test_a_static_read_that_is_lost_leaves_no_token(
    bao: BaoServer, faulty: Proxy, provider: VaultProvider
) -> None:
    ref = new_ref(KV)
    faulty.inject(Fault.CUT, "/secret/data/orders")
    with pytest.raises(MintRefused):  # it makes nothing, and the token was seen dead
        await provider.mint(order_of(ref))
    assert owners(bao, ref) == []


async def test_a_broken_pooled_connection_is_not_asked_twice(faulty: Proxy, provider: VaultProvider) -> None:
    """Many HTTP clients repeat GET and PUT by themselves; a GET of database/creds mints."""
    ref = new_ref(KV)
    faulty.inject(Fault.CUT, "GET ")
    with pytest.raises(MintRefused):
        await provider.mint(order_of(ref))
    assert len(faulty.seen("/secret/data/orders")) == 1


@pytest.mark.parametrize("path", [CREATE, "/secret/data/orders"])
async def test_a_redirect_is_not_followed_and_no_token_goes_there(
    faulty: Proxy, provider: VaultProvider, path: str
) -> None:
    elsewhere: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        elsewhere.append(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    to = f"Location: http://127.0.0.1:{port}/v1/stolen"
    faulty.inject(Fault.REPLACE, path, answer=response("307 Temporary Redirect", b"", to))
    with pytest.raises((MintInDoubt, MintRefused)):
        await provider.mint(order_of(new_ref(KV)))
    server.close()
    assert elsewhere == []


async def test_a_proxy_of_the_environment_is_not_used(
    bao: BaoServer, login: BrokerLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with vault_provider(bao.address, login) as provider:
        assert await provider.check() == []


async def test_an_unreachable_server_refuses_and_a_successor_of_its_port_is_not_believed(login: BrokerLogin) -> None:
    async with vault_provider(f"http://127.0.0.1:{free_port()}", login) as provider:
        with pytest.raises(MintRefused):
            await provider.mint(order_of(new_ref(TOKEN)))
        for call in (provider.revoke, provider.probe):
            with pytest.raises(ProviderError):
                await call(new_ref(TOKEN))


@pytest.mark.parametrize(
    "nonsense",
    [
        response("200 OK", b"<html>"),
        response("200 OK", b"[]"),
        response("200 OK", b"{}"),
        response("204 No Content", b""),
    ],
)
async def test_an_answer_that_makes_no_sense_is_doubt(faulty: Proxy, provider: VaultProvider, nonsense: bytes) -> None:
    ref = new_ref(TOKEN)
    faulty.inject(Fault.ANSWER, CREATE, answer=nonsense)
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    assert (await settled(provider, ref)).evidence is Evidence.SEEN_DEAD


async def test_an_unsafe_path_is_never_sent(faulty: Proxy, provider: VaultProvider) -> None:
    for params in (
        {"role": "../../../sys/seal"},
        {"role": ".."},
        {"role": "kv", "read": "secret/data/../../sys/health"},
        {"role": "kv", "read": "secret/data/{workflow}"},
        {"role": "kv", "read": "secret/data/a%2fb"},
        {"role": "kv", "read": "secret//data"},
        {"role": TOMB_ROLE},
        {"role": "kv", "extra": 1},
        {},
    ):
        with pytest.raises(MintRefused):
            await provider.mint(order_of(new_ref(params)))
    assert faulty.requests == []


async def test_a_database_read_lost_in_flight_leaves_no_login(
    bao: BaoServer, pg: PostgresServer, login: BrokerLogin, provider: VaultProvider
) -> None:
    """The trap: a secret outlives its parent when the parent dies while the read is in flight."""
    provision_database(bao, pg, "slow", creation_delay=1.5)
    neighbour = new_ref(SLOW)
    async with vault_provider(bao.address, login) as patient:
        kept = await patient.mint(order_of(neighbour))
        before = set(pg.minted_roles("slow"))
        ref = new_ref(SLOW)
        with pytest.raises(MintInDoubt):  # its timeout is 1 s
            await provider.mint(order_of(ref))
        early = await settled(provider, ref, final=False)
        assert early.evidence is None
        await asyncio.sleep(1.5)  # the read lands after all
        assert len(set(pg.minted_roles("slow")) - before) == 1

        # Nobody told this provider whose the neighbour's login is: it cannot rule out that it is the lost one.
        unsure = await settled(provider, ref)
        assert unsure.evidence is None
        assert set(pg.minted_roles("slow")) == before
        assert owners(bao, ref) == [TOMB_ROLE]
        assert isinstance(kept.credential, UsernamePassword)
        assert pg.logs_in(kept.credential.username, kept.credential.password.reveal())

        await patient.revoke(with_refs(neighbour, kept.refs))
    outcome = await settled(provider, as_recorded(ref, unsure))
    assert (outcome.found, outcome.evidence) == (True, Evidence.SEEN_DEAD)
    assert bao.child_leases("database/creds/slow") == []


async def test_a_secret_whose_lease_cannot_be_recorded_is_not_given_out(
    bao: BaoServer, pg: PostgresServer, provider: VaultProvider
) -> None:
    class Broken(Notes):
        async def note(self, refs: object) -> None:
            raise OSError("disk full")

    provision_database(bao, pg, "slow")
    ref = new_ref(SLOW)
    with pytest.raises(MintRefused):  # both were seen dead
        await provider.mint(order_of(ref, Broken()))
    assert owners(bao, ref) == []
    assert bao.child_leases("database/creds/slow") == []
    assert pg.minted_roles("slow") == []


REVOKE = "/sys/leases/revoke/"
NO = response("403 Forbidden", b'{"errors": ["1 error occurred:\\n\\t* permission denied\\n\\n"]}')


async def test_a_secret_that_cannot_be_ended_keeps_no_token_alive(
    bao: BaoServer, pg: PostgresServer, faulty: Proxy, provider: VaultProvider
) -> None:
    class Broken(Notes):
        async def note(self, refs: Mapping[str, JsonValue]) -> None:
            if "children" in refs:
                raise OSError("disk full")

    provision_database(bao, pg, "slow")
    ended, doubt, abandoned = new_ref(SLOW), new_ref(SLOW), new_ref(SLOW)
    ended = with_refs(ended, (await provider.mint(order_of(ended))).refs)
    doubt = with_refs(doubt, (await provider.mint(order_of(doubt))).refs)
    faulty.inject(Fault.REPLACE, REVOKE, times=99, answer=NO)
    with pytest.raises(ProviderError, match="answered 403"):
        await provider.revoke(ended)
    with pytest.raises(ProviderError, match="answered 403"):
        await settled(provider, doubt)
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(abandoned, Broken()))
    assert owners(bao, ended) == owners(bao, abandoned) == []
    assert owners(bao, doubt) == [TOMB_ROLE]
    faulty.inject(Fault.NONE)
    assert (await provider.revoke(ended)).evidence is Evidence.SEEN_DEAD


async def test_a_login_that_ends_before_its_lease_is_not_given_out(
    bao: BaoServer, pg: PostgresServer, provider: VaultProvider
) -> None:
    provision_database(bao, pg, "slow", ttl="2m")
    ref = new_ref(SLOW, seconds=300)
    with pytest.raises(MintRefused, match="shorter life than the scope's ttl"):
        await provider.mint(order_of(ref))
    assert owners(bao, ref) == bao.child_leases("database/creds/slow") == pg.minted_roles("slow") == []
    ref = new_ref(SLOW, seconds=120)
    await provider.revoke(with_refs(ref, (await provider.mint(order_of(ref))).refs))


async def test_a_stored_value_that_comes_with_a_lease_is_not_given_out(
    bao: BaoServer, pg: PostgresServer, faulty: Proxy, provider: VaultProvider
) -> None:
    provision_database(bao, pg, "slow")

    class Ominous(Notes):
        async def note(self, refs: Mapping[str, JsonValue]) -> None:
            await super().note(refs)
            if "children" in refs:
                faulty.inject(Fault.REPLACE, REVOKE, answer=NO)

    for notes, failure in ((Notes(), MintRefused), (Ominous(), MintInDoubt)):
        leased = bao.must("GET", "database/creds/slow").body
        ref = new_ref(KV)
        faulty.inject(Fault.REPLACE, "/secret/data/orders", answer=response("200 OK", json.dumps(leased).encode()))
        with pytest.raises(failure, match="gives a lease"):
            await provider.mint(order_of(ref, notes))
        assert owners(bao, ref) == []
        assert notes.refs["children"] == [leased["lease_id"]]  # whatever becomes of it
    assert len(pg.minted_roles("slow")) == 1
    assert (await settled(provider, with_refs(ref, notes.refs))).evidence is Evidence.SEEN_DEAD
    assert pg.minted_roles("slow") == []


async def test_no_list_of_leases_is_only_what_the_server_itself_says(
    bao: BaoServer, pg: PostgresServer, faulty: Proxy, provider: VaultProvider
) -> None:
    provision_database(bao, pg, "slow")
    path, ref = "LIST /v1/sys/leases/lookup/database/creds/slow", new_ref(SLOW)
    for body in (b"<html>404 Not Found</html>", b"", b"{}", b'{"errors": null}', b'{"errors": [1]}'):
        faulty.inject(Fault.REPLACE, path, answer=response("404 Not Found", body))
        with pytest.raises(ProviderError, match="answered 404"):
            await settled(provider, ref)
    assert (await settled(provider, ref)).evidence is Evidence.NOT_MINTED

    session = await provider._login.session()
    keys = [f"{number:064d}" for number in range(30_000)]  # 2 MB
    body = json.dumps({"data": {"keys": keys}}).encode()
    faulty.inject(Fault.REPLACE, path, answer=response("200 OK", body))
    assert len(await provider._client.list_leases(session.token, "database/creds/slow")) == len(keys)


async def test_with_the_database_down_the_lease_is_not_called_dead(
    bao: BaoServer, pg: PostgresServer, provider: VaultProvider
) -> None:
    """The token is; the login is not, and revocation's 2xx answers are no proof."""
    provision_database(bao, pg, "slow")
    ref = new_ref(SLOW)
    minted = await provider.mint(order_of(ref))
    ref = with_refs(ref, minted.refs)
    assert isinstance(minted.credential, UsernamePassword)
    try:
        connect_database(bao, pg, port=free_port())
        progress = await provider.revoke(ref)
        assert (progress.evidence, progress.step) == (None, "SECRET_ALIVE")
        assert owners(bao, ref) == []
        assert pg.minted_roles("slow") == [minted.credential.username]
    finally:
        connect_database(bao, pg)
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
    assert pg.minted_roles("slow") == []


async def test_a_database_down_for_longer_than_the_servers_own_tries_loses_its_login_in_the_end(
    bao: BaoServer, pg: PostgresServer, provider: VaultProvider
) -> None:
    """OpenBao calls the lease irrevocable after six tries and ignores every queued revocation from then on."""
    provision_database(bao, pg, "slow")
    ref = new_ref(SLOW)
    minted = await provider.mint(order_of(ref))
    ref = with_refs(ref, minted.refs)

    def given_up() -> bool:
        return str(ref.refs["children"][0]) in str(bao.must("GET", "sys/leases?type=irrevocable").data)

    try:
        connect_database(bao, pg, port=free_port())
        while not given_up():
            assert (await provider.revoke(ref)).evidence is None
        assert (await provider.revoke(ref)).evidence is None
        assert len(pg.minted_roles("slow")) == 1
    finally:
        connect_database(bao, pg)
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD
    assert pg.minted_roles("slow") == []
