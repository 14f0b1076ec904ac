"""Leased secrets that a lost answer may have left: told from honest neighbours by what the store knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pytest

from broker.clock import SystemClock
from broker.model import Evidence, UsernamePassword
from broker.providers.base import MintInDoubt
from broker.providers.vault import children
from broker.providers.vault.provider import VaultProvider
from tests.support.bao import BaoServer, BrokerLogin, TokenRole, provision, provision_database
from tests.support.postgres import PostgresServer
from tests.support.proxy import Fault, Proxy, proxy
from tests.support.vault import Notes, as_recorded, new_ref, order_of, settled, vault_provider, with_refs

READ = "database/creds/stray"
SCOPE = {"role": "stray", "read": READ}
LANDING = 1.0  # seconds, of the mint and of the server


@pytest.fixture
def login(bao: BaoServer, pg: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> BrokerLogin:
    provision_database(bao, pg, "stray")
    return provision(
        bao, tmp_path_factory.mktemp("login"), [TokenRole(name="stray", reads=[READ])], broker="stray-broker"
    )


@pytest.fixture
def site(bao: BaoServer, pg: PostgresServer, login: BrokerLogin) -> tuple[BaoServer, PostgresServer, BrokerLogin]:
    return bao, pg, login


@pytest.fixture
async def faulty(bao: BaoServer) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(bao.address).port or 0) as between:
        yield between


@pytest.fixture
def known() -> set[str]:
    """What the rows of live leases name."""
    return set()


@pytest.fixture
async def provider(
    faulty: Proxy, login: BrokerLogin, known: set[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[VaultProvider]:
    """As after a restart: it has fetched nothing itself."""
    monkeypatch.setattr(children, "CLOCK_SKEW", timedelta(seconds=0.1))
    async with vault_provider(
        faulty.address, login, mint_timeout=LANDING, request_limit_seconds=LANDING, known=lambda: known
    ) as one:
        await one.check()
        yield one


async def test_a_neighbour_in_flight_is_waited_for_and_a_recorded_one_is_not(
    site: tuple[BaoServer, PostgresServer, BrokerLogin], faulty: Proxy, provider: VaultProvider, known: set[str]
) -> None:
    bao, pg, login = site
    async with vault_provider(bao.address, login) as other:
        recorded, in_flight = Notes(), Notes()
        neighbours = (new_ref(SCOPE), new_ref(SCOPE))
        kept = await other.mint(order_of(neighbours[0], recorded))
        young = await other.mint(order_of(neighbours[1], in_flight))
        known.update(recorded.refs["children"])

        ref = new_ref(SCOPE)
        faulty.inject(Fault.CUT, f"/{READ}")
        with pytest.raises(MintInDoubt):
            await provider.mint(order_of(ref))
        unsure = await settled(provider, ref)
        assert (unsure.found, unsure.evidence) == (True, None)
        known.update(in_flight.refs["children"])
        outcome = await settled(provider, as_recorded(ref, unsure))
        assert outcome.evidence is Evidence.SEEN_DEAD

        for minted in (kept, young):
            assert isinstance(minted.credential, UsernamePassword)
            assert pg.logs_in(minted.credential.username, minted.credential.password.reveal())
        for neighbour, minted in zip(neighbours, (kept, young), strict=True):
            await other.revoke(with_refs(neighbour, minted.refs))


async def test_an_orphan_is_revoked_when_it_is_nobodys_in_two_listings_and_older_than_any_mint(
    bao: BaoServer, pg: PostgresServer, login: BrokerLogin, provider: VaultProvider, known: set[str]
) -> None:
    async with vault_provider(bao.address, login) as other:
        recorded = Notes()
        neighbour = new_ref(SCOPE)
        kept = await other.mint(order_of(neighbour, recorded))
        known.update(recorded.refs["children"])

        ref = new_ref(SCOPE)
        # What outlived its parent: a secret of nobody's, made while this mint could still land.
        orphan = bao.must("GET", READ).body["lease_id"]
        assert (await settled(provider, ref)).evidence is None  # too young
        await asyncio.sleep(2 * LANDING + 1.5)  # the server tells its time in whole seconds
        assert orphan in bao.child_leases(READ)
        outcome = await settled(provider, ref)
        assert outcome.evidence is not None
        assert bao.child_leases(READ) == recorded.refs["children"]
        assert isinstance(kept.credential, UsernamePassword)
        assert pg.logs_in(kept.credential.username, kept.credential.password.reveal())
        await other.revoke(with_refs(neighbour, kept.refs))


class WrongClock(SystemClock):
    """The broker's machine is `off` by so much."""

    def __init__(self, off: timedelta) -> None:
        self.off = off

    def now(self) -> datetime:
        return super().now() + self.off


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_broker_whose_clock_is_wrong_finds_the_orphan_and_leaves_a_young_neighbour_alone(
    bao: BaoServer, login: BrokerLogin, known: set[str], monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    monkeypatch.setattr(children, "CLOCK_SKEW", timedelta(seconds=0.1))
    clock, limits = WrongClock(timedelta(minutes=minutes)), {"mint_timeout": LANDING, "request_limit_seconds": LANDING}
    async with vault_provider(bao.address, login, clock=clock, known=lambda: known, **limits) as provider:
        await provider.check()
        ref = with_refs(new_ref(SCOPE, ago=-60 * minutes), provider.foresee())
        orphan = bao.must("GET", READ).body["lease_id"]
        assert (await settled(provider, ref)).evidence is None
        await asyncio.sleep(2 * LANDING + 1.5)
        neighbour = bao.must("GET", READ).body["lease_id"]  # in flight: no row names it yet
        other = with_refs(new_ref(SCOPE, ago=-60 * minutes + 3), ref.refs)
        assert (await settled(provider, ref)).evidence is not None  # what came later is not its own
        assert (await settled(provider, other)).evidence is None  # this one looks for the first time
        assert bao.child_leases(READ) == [neighbour]
        known.add(neighbour)
        assert (await settled(provider, other)).evidence is not None
        assert orphan not in bao.child_leases(READ)
    bao.must("PUT", "sys/leases/revoke", {"lease_id": neighbour})


async def test_what_was_issued_outside_of_the_doubt_is_nobodys_business(
    bao: BaoServer, login: BrokerLogin, provider: VaultProvider
) -> None:
    foreign = bao.must("GET", READ).body["lease_id"]
    await asyncio.sleep(0.3)
    outcome = await settled(provider, new_ref(SCOPE))
    assert outcome.evidence is Evidence.NOT_MINTED
    assert foreign in bao.child_leases(READ)
    bao.must("PUT", "sys/leases/revoke", {"lease_id": foreign})
