"""The broker's own token: renewed ahead of its end, replaced near its maximum, one login at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker.providers.vault.client import VaultClient
from broker.providers.vault.login import Login, LoginFailed
from broker.providers.vault.settings import AppRole, Auth, TokenFile, VaultSettings
from broker.providers.vault.transport import Transport
from tests.fakes.clock import FakeClock
from tests.support.bao import BaoServer, TokenRole, provision
from tests.support.proxy import Fault, Proxy, proxy, response

BROKER = "login-broker"


@pytest.fixture
async def between(bao: BaoServer) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(bao.address).port or 0) as one:
        yield one


@pytest.fixture
def approle(bao: BaoServer, tmp_path: Path) -> AppRole:
    made = provision(bao, tmp_path, [TokenRole(name="login-kv")], broker=BROKER)
    return AppRole(role_id=made.role_id, secret_id_file=made.secret_id_file)


@pytest.fixture
async def transport(between: Proxy, approle: AppRole) -> AsyncIterator[Transport]:
    one = Transport(VaultSettings(address=between.address, auth=approle))
    yield one
    await one.close()


def login(transport: Transport, clock: FakeClock, auth: Auth | None = None) -> Login:
    return Login(VaultClient(transport), auth or transport.settings.auth, clock)


async def test_many_askers_cause_one_login(transport: Transport, between: Proxy) -> None:
    one = login(transport, FakeClock())
    sessions = await asyncio.gather(*(one.session() for _ in range(20)))
    assert len({id(session) for session in sessions}) == 1
    assert len(between.seen("/approle/login")) == 1


async def test_a_token_is_renewed_after_two_thirds_of_its_life_and_replaced_when_it_cannot_be(
    bao: BaoServer, transport: Transport, between: Proxy
) -> None:
    clock = FakeClock()
    one = login(transport, clock)
    first = await one.session()
    clock.advance(799)  # of 1,200 s
    assert await one.session() is first
    clock.advance(2)
    renewed = await one.session()
    assert renewed.token.matches(first.token)
    assert renewed.stale_at > first.stale_at

    bao.must("POST", "auth/token/revoke", {"token": first.token.reveal()})
    clock.advance(801)
    assert not (await one.session()).token.matches(first.token)


async def test_a_login_that_fails_leaves_a_good_token_in_use(transport: Transport, between: Proxy) -> None:
    clock = FakeClock()
    one = login(transport, clock)
    first = await one.session()
    clock.advance(900)
    between.inject(Fault.REPLACE, "/v1/", times=99, answer=response("503 Service Unavailable", b'{"errors": []}'))
    assert await one.session() is first
    clock.advance(301)
    with pytest.raises(LoginFailed):
        await one.session()
    between.inject(Fault.NONE)
    assert not (await one.session()).token.matches(first.token)


async def test_a_rotated_token_file_is_read_again(bao: BaoServer, transport: Transport, tmp_path: Path) -> None:
    def token() -> str:
        return str(bao.must("POST", "auth/token/create", {"ttl": "1h"}).body["auth"]["client_token"])

    clock, path = FakeClock(), tmp_path / "token"
    one = login(transport, clock, TokenFile(path=path))
    with pytest.raises(LoginFailed, match="cannot be read"):
        await one.session()
    path.write_text("")
    with pytest.raises(LoginFailed, match="is empty"):
        await one.session()
    first = token()
    path.write_text(first + "\n")
    assert (await one.session()).token.reveal() == first
    second = token()
    path.write_text(second)
    clock.advance(61)
    assert (await one.session()).token.reveal() == second


async def test_a_wrong_secret_id_fails_without_showing_it(transport: Transport, approle: AppRole) -> None:
    approle.secret_id_file.write_text("wrong-secret-id")
    with pytest.raises(LoginFailed) as caught:
        await login(transport, FakeClock()).session()
    assert "wrong-secret-id" not in repr(caught.value)
