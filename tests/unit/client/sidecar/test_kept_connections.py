"""A connection may be used again: what it then may do, what each read costs, and that no answer outlives the step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from stepcred.cli._sidecar import _aws, _guarded
from tests.fakes.broker_server import STEP_ENDED, FakeBroker
from tests.unit.client.sidecar.conftest import Sidecar, Start, until

LAKE = "/v1/aws/lake-write"


class Reader:
    """One connection, by hand."""

    def __init__(self, sidecar: Sidecar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        head = f"GET {LAKE} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {sidecar.token}\r\nX-Padding: {'x' * 300}\r\n"
        self.request = head.encode() + b"\r\n"

    async def read(self) -> tuple[int, bytes]:
        """(status, body)."""
        self.writer.write(self.request)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def closed(self) -> bytes:
        """What came before it was."""
        try:
            async with asyncio.timeout(10):
                return await self.reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def connected(sidecar: Sidecar) -> AsyncIterator[Reader]:
    port = int(sidecar.life._uri.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Reader(sidecar, reader, writer)
    finally:
        writer.close()


async def test_many_reads_over_one_connection_are_one_mint_and_one_body(
    fake: FakeBroker, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[datetime | None] = []
    real = _aws.container

    def container(session: Any, until: datetime | None) -> dict[str, str]:
        made.append(until)
        return real(session, until)

    monkeypatch.setattr(_aws, "container", container)
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        # Together far more bytes than one request may have.
        answers = {await reader.read() for _ in range(50)}
    assert {status for status, _ in answers} == {200}
    assert len(made) == len({body for _, body in answers}) <= 2  # two seconds, at the most, for one moment
    assert len(fake.requests("IssueCredential")) == 1


async def test_a_successor_is_served_by_the_next_read(fake: FakeBroker, start: Start) -> None:
    fake.ttl, fake.ripe = timedelta(seconds=2), 0.1
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        assert b"s3cret-lease-1" in (await reader.read())[1]
        await until(lambda: len(fake.requests("IssueCredential")) > 1)
        async with asyncio.timeout(5):
            while b"s3cret-lease-1" in (await reader.read())[1]:  # noqa: ASYNC110 (of a task of the sidecar)
                await asyncio.sleep(0.05)


async def test_a_read_over_a_kept_connection_is_refused_once_the_step_is_over(fake: FakeBroker, start: Start) -> None:
    fake.heartbeat = 0.1
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        assert (await reader.read())[0] == 200
        fake.script("Heartbeat", STEP_ENDED)
        await sidecar.has_told("step_ended")
        status, body = await reader.read()
        assert status == 410
        assert b"s3cret" not in body


async def test_the_token_is_looked_at_in_every_request(start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        assert (await reader.read())[0] == 200
        reader.request = reader.request.replace(sidecar.token.encode(), b"wrong")
        assert (await reader.read())[0] == 401


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nX: "])
async def test_a_kept_connection_has_as_long_for_its_next_request_as_for_its_first(
    start: Start, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(_guarded, "TO_ASK", 0.5)
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        for _ in range(3):
            assert (await reader.read())[0] == 200
            await asyncio.sleep(0.3)  # together longer than one may wait
        reader.writer.write(said)
        async with asyncio.timeout(3):  # below the five seconds after which aiohttp closes it
            assert await reader.closed() == b""


async def test_an_answer_may_take_longer_than_a_question(
    fake: FakeBroker, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guarded, "TO_ASK", 0.2)
    fake.ttl, fake.ripe = timedelta(seconds=1), 2.0  # ends without a successor: the next read mints
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    await asyncio.sleep(1.1)
    fake.delay["IssueCredential"] = 1.0
    async with connected(sidecar) as reader:
        assert (await reader.read())[0] == 200


async def test_a_kept_connection_gives_way_to_who_asks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guarded, "MOST", 1)
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as kept:
        assert (await kept.read())[0] == 200
        assert (await sidecar.get(LAKE)).status == 200
        assert await kept.closed() == b""


async def test_a_later_request_may_be_no_larger_than_the_first(start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        assert (await reader.read())[0] == 200
        reader.writer.write(b"GET /livez HTTP/1.1\r\nZ: " + b"z" * 4000 + b"\r\nY: " + b"y" * 4200)
        async with asyncio.timeout(3):  # at once, not when its time is over
            assert await reader.closed() == b""


async def test_a_kept_connection_does_not_hold_the_end(start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    async with connected(sidecar) as reader:
        assert (await reader.read())[0] == 200
        async with asyncio.timeout(2):
            assert await sidecar.end() == 0
        assert await reader.closed() == b""
