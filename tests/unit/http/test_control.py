from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from broker.errors import ConfigError
from broker.http.control import ControlServer
from broker.model import JsonValue
from broker.secret import Secret

TOKEN = "right"


async def _echo(asked: Mapping[str, JsonValue]) -> JsonValue:
    return {"asked": asked}


async def _fail(asked: Mapping[str, JsonValue]) -> JsonValue:
    raise {
        "config": ConfigError(["a", "b"]),
        "value": ValueError("no"),
        "key": KeyError("x"),
        "overflow": OverflowError("int too large"),
        "ours": RuntimeError("s3cr3t"),
    }[str(asked["how"])]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    server = ControlServer({"echo": _echo, "fail": _fail}, Secret(TOKEN))
    yield await server.start()
    await server.stop()


async def ask(url: str, order: str, body: str = "{}", **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url + order, data=body, headers=headers) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN} "[:-2]},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer righ\u00fc"},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_nothing_without_its_token(url: str, headers: dict[str, str]) -> None:
    for order in ("echo", "none"):  # nor what there is
        status, body = await ask(url, order, **headers)
        assert (status, body) == (401, {"error": "the token of this dev broker is needed"})


async def test_a_token_that_is_no_text_is_a_wrong_one(url: str) -> None:
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\nContent-Length: 0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_orders(url: str) -> None:
    own = {"Authorization": f"Bearer {TOKEN}"}
    assert url.startswith("http://127.0.0.1:")
    assert await ask(url, "echo", '{"a": 1}', **own) == (200, {"asked": {"a": 1}})
    assert await ask(url, "echo", "", **own) == (200, {"asked": {}})
    assert await ask(url, "none", **own) == (404, {"error": "there is no such order; there are echo, fail"})
    for body in ("[1]", "7", '"x"', "{"):
        assert await ask(url, "echo", body, **own) == (400, {"error": "not an order of this form"})
    assert await ask(url, "fail", '{"how": "config"}', **own) == (422, {"error": "a\nb"})
    assert await ask(url, "fail", '{"how": "value"}', **own) == (400, {"error": "no"})
    for how in ("key", "overflow"):
        assert (await ask(url, "fail", f'{{"how": "{how}"}}', **own))[0] == 400
    status, told = await ask(url, "fail", '{"how": "ours"}', **own)
    assert status == 500
    assert "s3cr3t" not in str(told)
