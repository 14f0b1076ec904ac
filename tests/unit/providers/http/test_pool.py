"""The pool over real sockets, on both event loops: one attempt, and no doubt about whether it was sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import Any

import pytest

from broker.providers.http import Answer, Lost, Origin, Pool, Unsent, Untrusted
from tests.support.certs import TestCA
from tests.unit.providers.http.far import (
    FINE,
    LONG,
    Far,
    Run,
    each,
    far_end,
    fine,
    refused,
    shown,
    trusting,
)


def test_it_says_what_it_was_given_and_keeps_the_connection(run: Run) -> None:
    async def go() -> None:
        async with far_end(fine) as far:
            pool = far.pool()
            for _ in range(3):
                answer = await pool.request("PUT", "/v1/a", {"X-Token": "t"}, b"body")
                assert (answer.status, answer.body) == (200, b"{}")
            await pool.close()
            host = b"Host: localhost:%d\r\nAccept-Encoding: identity\r\n" % far.port
            assert set(far.requests) == {b"PUT /v1/a HTTP/1.1\r\n" + host + b"X-Token: t\r\nContent-Length: 4\r\n\r\n"}
            assert far.connections == 1

    run(go())


def test_the_certificate_is_looked_at(run: Run, ca: TestCA) -> None:
    async def plain(_far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def go() -> None:
        async with far_end(fine, shown(ca.server())) as far:
            context = trusting(ca)
            pool = far.pool(tls=lambda: context)
            for _ in range(2):
                assert (await pool.request("GET", "/")).status == 200
            assert far.connections == 1
            context = ssl.create_default_context()  # from here on nothing that this root has signed is believed
            await refused(pool, Untrusted)
            await pool.close()
        async with far_end(fine, shown(ca.server(["another.example"]))) as far:
            await refused(far.pool(tls=lambda: trusting(ca)), Untrusted)
        async with far_end(plain) as far:
            far.tls = True
            await refused(far.pool(tls=lambda: trusting(ca)), Untrusted)
            assert far.requests == []

    run(go())


def test_who_does_not_answer_the_door_was_sent_nothing(run: Run, ca: TestCA) -> None:
    async def hang(_far: Far, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def go() -> None:
        async with far_end(hang) as far:
            far.tls = True
            await refused(far.pool(tls=lambda: trusting(ca), connect_timeout=0.1), Unsent)
        await refused(far.pool(tls=lambda: trusting(ca)), Unsent)  # nobody listens there any more
        await refused(Pool(Origin(host="no-such-host.invalid", port=1, tls=False)), Unsent)
        await refused(Pool(Origin(host="a" * 70 + ".example", port=1, tls=False)), Unsent)

    run(go())


def test_a_resolver_that_hangs_is_asked_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked, go_on = socket.getaddrinfo, [], threading.Event()

    def resolve(*arguments: Any, **more: Any) -> Any:
        asked.append(arguments[0])
        assert go_on.wait(LONG)
        return real(*arguments, **more)

    async def go() -> None:
        async with far_end(fine) as far:
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            await asyncio.gather(*(refused(far.pool(connect_timeout=0.05), Unsent) for _ in range(2)))
            assert len(asked) == 2  # of each pool
            pool = far.pool()
            requests = [asyncio.create_task(pool.request("GET", "/")) for _ in range(20)]
            requests[0].cancel()
            await asyncio.sleep(0.02)
            assert len(asked) == 3
            go_on.set()
            told = await asyncio.gather(*requests[1:])
            assert {answer.status for answer in told} == {200}
            await pool.close()
            await pool.request("GET", "/")
            assert len(asked) == 4  # an address may change
            await pool.close()

    asyncio.run(asyncio.wait_for(go(), 4 * LONG))


def test_what_would_be_another_request_is_never_sent(run: Run) -> None:
    async def go() -> None:
        async with far_end(fine) as far:
            pool = far.pool()
            for bad in ("a\r\nX: y", "a\nb", "a\rb", "a\0b", "\u20ac", "a\x7f"):
                with pytest.raises(Unsent):
                    await pool.request("GET", "/", {"X-Token": bad})
            for name in (
                "X\r\nY",
                "X Y",
                "X:",
                "",
                "Host",
                "content-length",
                "Transfer-Encoding",
                "CONNECTION",
                "X\u00e9",
            ):
                with pytest.raises(Unsent):
                    await pool.request("GET", "/", {name: "a"})
            for target in ("", "x", "/a b", "/a\r\nb", "/a\nb", "/\u00e9", "/a#b", "http://other/"):
                with pytest.raises(Unsent):
                    await pool.request("GET", target)
            for method in ("", "get", "GET /", "G\r\n"):
                with pytest.raises(Unsent):
                    await pool.request(method, "/")
            assert far.connections == 0

    run(go())


def test_no_redirect_is_followed_and_no_proxy_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with far_end(fine) as other, far_end(each(b"")) as far:
            away = b"HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other.port
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{other.port}")
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{other.port}")
            async with far_end(each(away)) as moved:
                assert (await moved.pool().request("GET", "/")).status == 307
            assert (far.connections, other.connections) == (0, 0)

    run(go())


@pytest.mark.parametrize(
    "answer", [b"", FINE[:1], FINE[:-1], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"]
)
def test_an_answer_that_breaks_off_leaves_a_doubt_and_is_not_asked_for_again(run: Run, answer: bytes) -> None:
    async def cut(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(far.requests) == 0:
            await far.request(reader)
            writer.write(FINE)
        await far.request(reader)
        writer.write(answer)

    async def go() -> None:
        async with far_end(cut) as far:
            pool = far.pool()
            await pool.request("GET", "/")  # the connection is one that has been used
            await refused(pool, Lost)
            await asyncio.sleep(0.02)
            assert len(far.requests) == 2
            assert far.connections == 1

    run(go())


def test_an_answer_of_a_byte_at_a_time_has_the_same_time_as_any(run: Run) -> None:
    async def slow(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(FINE)
        await far.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"y")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def go() -> None:
        async with far_end(slow) as far:
            pool = far.pool(request_timeout=0.3)
            await pool.request("GET", "/")
            assert await refused(pool, Lost) == "no answer in time"
            await far.over.wait()  # and the connection is closed

    run(go())


def test_connections_that_are_not_free_are_waited_for_in_turn(run: Run) -> None:
    async def go() -> None:
        async with far_end(fine) as far:
            pool = far.pool(max_connections=1)

            await asyncio.gather(*(pool.request("GET", f"/{number}") for number in range(20)))
            assert [head.split(b" ")[1] for head in far.requests] == [b"/%d" % number for number in range(20)]
            assert far.connections == 1
            await pool.close()

    run(go())


def test_who_waits_too_long_for_a_connection_was_sent_nothing(run: Run) -> None:
    async def one(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(FINE)
        await far.request(reader)
        asked.set()
        await reader.read(1)

    async def go() -> None:
        async with far_end(one) as far:
            pool = far.pool(max_connections=1)
            await pool.request("GET", "/")
            first = asyncio.create_task(refused(pool, Lost))
            await asked.wait()
            pool._connect_timeout = 0.05  # only now: the first connection has its time on a busy machine
            waiting = [asyncio.create_task(refused(pool, Unsent)) for _ in range(3)]
            assert {await task for task in waiting} == {"no connection became free in time"}
            await pool.close()
            await first
            assert len(far.requests) == 2
            assert far.connections == 1

    asked = asyncio.Event()
    run(go())


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(run: Run) -> None:
    async def once(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(FINE)

    async def go() -> None:
        async with far_end(once) as far:
            pool = far.pool()
            for number in (1, 2, 3):
                assert (await pool.request("GET", "/")).status == 200
                await asyncio.sleep(0.02)
                assert (len(far.requests), far.connections) == (number, number)

    run(go())


def test_idle_connections_are_closed_in_time(run: Run) -> None:
    async def go() -> None:
        async with far_end(fine) as far:
            pool = far.pool(idle_limit=0.05)
            await asyncio.gather(*(pool.request("GET", "/") for _ in range(3)))
            assert far.connections == 3
            await far.over.wait()
            await pool.request("GET", "/")
            pool._idle[0].idle_since -= 1  # as long as it may, and the timer is late
            connections = far.connections
            await pool.request("GET", "/")
            assert far.connections == connections + 1
            await pool.close()

    run(go())


def test_a_connection_that_is_being_opened_at_close_serves_one_request(run: Run) -> None:
    async def go() -> None:
        async with far_end(fine) as far:
            pool = far.pool(idle_limit=1000)
            task = asyncio.create_task(pool.request("GET", "/"))
            await asyncio.sleep(0)
            await pool.close()
            assert (await task).status == 200
            await far.over.wait()

    run(go())


def test_close_loses_what_is_under_way_and_the_next_request_opens_another(run: Run) -> None:
    async def some(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await far.request(reader):
            if b"/secret-path" in head:
                asked.set()
            else:
                writer.write(FINE)

    async def go() -> None:
        async with far_end(some) as far:
            pool = far.pool()
            await pool.request("GET", "/")
            task = asyncio.create_task(refused(pool, Lost))
            await asked.wait()
            await pool.close()
            assert await task == "the connection was closed"
            assert (await pool.request("GET", "/")).status == 200
            assert far.connections == 2
            await pool.close()

    asked = asyncio.Event()
    run(go())


def test_over_tls_an_answer_says_how_long_it_is(run: Run, ca: TestCA) -> None:
    """Else whoever cuts the connection says where it ends."""

    async def cut(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")

    async def go() -> None:
        async with far_end(cut) as far:
            assert (await far.pool().request("GET", "/")).body == b"{}"
        async with far_end(cut, shown(ca.server())) as far:
            await refused(far.pool(tls=lambda: trusting(ca)), Lost)

    run(go())


def test_an_answer_may_be_as_long_as_the_request_says(run: Run) -> None:
    async def go() -> None:
        long = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
        async with far_end(each(long)) as far:
            pool = far.pool(max_body_bytes=1000)
            await refused(pool, Lost)
            answer: Answer = await pool.request("GET", "/", max_body_bytes=300_000)
            assert len(answer.body) == 300_000
            await pool.close()
            await refused(pool, Lost, max_body_bytes=299_999)

    run(go())


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://vault.example", "vault.example"),
        ("https://vault.example:443/", "vault.example"),
        ("https://Vault.Example:8200/v1", "vault.example:8200"),
        ("http://127.0.0.1:80", "127.0.0.1"),
        ("http://[::1]:8200", "[::1]:8200"),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(url: str, authority: str) -> None:
    assert Origin.of(url).authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vault",
        "ftp://a",
        "https://",
        "https://a@b",
        "https://a b",
        "https://a:0x1",
        "https://a:99999",
        "https://[::1",
    ],
)
def test_anything_else_is_no_origin(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever its words
        Origin.of(url)
