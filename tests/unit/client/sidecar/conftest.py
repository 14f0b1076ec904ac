"""A sidecar in this process, in front of the fake broker, and a client of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest

from stepcred.cli._sidecar._held import Wanted
from stepcred.cli._sidecar._life import Life
from stepcred.cli._sidecar._places import Address
from stepcred.cli._sidecar._plan import Plan
from stepcred.cli._sidecar._tell import Teller
from tests.fakes.broker_server import FakeBroker

LOOPBACK = Address(host="127.0.0.1", port=0)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 (of a broker in another thread, and of files)
            await asyncio.sleep(0.01)


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Sidecar:
    """One that runs. `code` once it has ended."""

    plan: Plan
    life: Life
    task: asyncio.Task[int]
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def token(self) -> str:
        assert self.plan.token_file is not None
        return self.plan.token_file.read_text()

    async def get(self, path: str, *, token: str | None = None, **headers: str) -> Answer:
        return await self.ask("GET", path, token=token, **headers)

    async def ask(self, method: str, path: str, *, token: str | None = None, **headers: str) -> Answer:
        sent = {"Authorization": self.token if token is None else token, **headers}
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, f"{self.life._uri}{path}", headers=sent) as response,
        ):
            text = await response.text()
            return Answer(response.status, json.loads(text) if text.startswith("{") else text, response.headers)

    async def end(self) -> int:
        self.life._end("the test is over")
        return await asyncio.wait_for(self.task, 20)

    def events(self, name: str) -> list[str]:
        return [text for event, text in self.told if event == name]

    async def has_told(self, event: str) -> str:
        await until(lambda: bool(self.events(event)) or self.task.done())
        assert self.events(event), self.told
        return self.events(event)[0]


class Start(Protocol):
    """`wait`: until it is ready."""

    def __call__(self, *, scopes: list[str], wait: bool = True, **plan: Any) -> Awaitable[Sidecar]: ...


@pytest.fixture
async def start(
    fake: FakeBroker, environ: dict[str, str], tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """Starts sidecars, whose files may lie on a disk, and ends those that still run."""
    started: list[Sidecar] = []

    async def start_one(*, scopes: list[str], wait: bool = True, **plan: Any) -> Sidecar:
        wanted = plan.pop("wanted", {})
        defaults: dict[str, Any] = {"allow_disk": True}
        if plan.get("aws") or plan.get("listen"):
            defaults |= {"listen": LOOPBACK, "token_file": tmp_path / "private" / "token"}
        made = Plan(wanted=Wanted(scopes=scopes, **wanted), **(defaults | plan))
        told: list[tuple[str, str]] = []
        teller = Teller(as_json=False)

        def tell(event: str, text: str, level: str = "info") -> None:
            told.append((event, text))

        teller.tell = tell  # type: ignore[method-assign]
        life = Life(made, teller)
        one = Sidecar(made, life, asyncio.create_task(life.run()), told)
        started.append(one)
        if wait:
            await one.has_told("ready")
        return one

    yield start_one
    for one in started:
        if not one.task.done():
            await one.end()
        with contextlib.suppress(asyncio.CancelledError):
            one.task.result()
