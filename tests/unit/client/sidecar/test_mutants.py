"""Each promise once more, on a sidecar that breaks it: a test that passes there too would show nothing."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stepcred._credentials import Credential
from stepcred.cli._sidecar._held import Held
from stepcred.cli._sidecar._places import FileOf
from stepcred.cli._sidecar._sinks import Sinks
from tests.fakes.broker_server import FakeBroker
from tests.unit.client.sidecar.conftest import Sidecar, Start

LAKE = "/v1/aws/lake-write"
Promise = Callable[[Sidecar, FakeBroker], Awaitable[None]]


async def any_number_of_reads_is_one_mint(sidecar: Sidecar, fake: FakeBroker) -> None:
    answers = await asyncio.gather(*(sidecar.get(LAKE) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len([one for one in fake.requests("IssueCredential") if one.scope == "lake-write"]) == 1


async def nothing_without_the_token(sidecar: Sidecar, fake: FakeBroker) -> None:
    for token in ("", "wrong", sidecar.token[:-1], f"Bearer {sidecar.token}"):
        assert (await sidecar.get(LAKE, token=token)).status == 401


async def no_file_is_left(sidecar: Sidecar, fake: FakeBroker) -> None:
    (sink,) = [one.path for one in sidecar.plan.files]
    assert sink.exists()
    assert await sidecar.end() == 0
    assert not sink.exists()


async def mints_each_time(self: Held, scope: str) -> Credential:
    return await self.step.issue(scope)


MUTANTS: dict[str, tuple[Promise, object, str, object]] = {
    "no single lease": (any_number_of_reads_is_one_mint, Held, "credential", mints_each_time),
    "the token is not looked at": (nothing_without_the_token, hmac, "compare_digest", lambda *_: True),
    "files are left": (no_file_is_left, Sinks, "remove", lambda _: None),
}


async def running(start: Start, folder: Path) -> Sidecar:
    sink = FileOf(path=folder / "step" / "token", scope="orders-read", what="token")
    return await start(scopes=["lake-write", "orders-read"], aws=["lake-write"], files=[sink])


@pytest.mark.parametrize("name", MUTANTS)
async def test_the_promise_is_kept(fake: FakeBroker, start: Start, tmp_path: Path, name: str) -> None:
    promise, *_ = MUTANTS[name]
    await promise(await running(start, tmp_path), fake)


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_sidecar_that_breaks_it_is_found_out(
    fake: FakeBroker, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    promise, owner, attribute, broken = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, broken)
    sidecar = await running(start, tmp_path)
    with pytest.raises(AssertionError):
        await promise(sidecar, fake)
