"""Nobody ever hears what was said to another: an answer is whole, asked for, and one; or its connection is over."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading

import pytest

from broker.providers.http import HttpError, Origin, Pool, Unsent
from broker.providers.http.connection import Connection
from tests.support.certs import TestCA
from tests.unit.providers.http.far import (
    CLOSING,
    FINE,
    LONG,
    Far,
    Run,
    Script,
    each,
    far_end,
    fine,
    refused,
    shown,
    trusting,
)


def test_who_is_cancelled_leaves_its_answer_to_nobody(run: Run) -> None:
    async def late(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await far.request(reader)
        if b"/slow" in head:
            asked.set()
            await answer.wait()
        writer.write(FINE.replace(b"{}", b"no" if b"/slow" in head else b"ok"))
        await reader.read(1)

    async def go() -> None:
        async with far_end(late) as far:
            pool = far.pool(max_connections=1)
            task = asyncio.create_task(pool.request("GET", "/slow"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            answer.set()
            assert (await pool.request("GET", "/fast")).body == b"ok"
            assert far.connections == 2
            await pool.close()

    asked, answer = asyncio.Event(), asyncio.Event()
    run(go())


def test_an_answer_before_the_whole_request_is_heard_and_ends_the_connection(run: Run) -> None:
    async def early(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.05)  # what it does not read is more than the buffers hold

    async def go() -> None:
        async with far_end(early) as far:
            pool = far.pool()
            for number in (1, 2):
                answer = await pool.request("PUT", "/", body=b"x" * (16 << 20))
                assert answer.status == 413
                assert far.connections == number

    run(go())


@pytest.mark.parametrize("answer", [CLOSING, FINE + FINE, FINE + b"H", FINE + b"\0"])
def test_a_connection_that_said_more_or_said_it_closes_is_used_once(run: Run, answer: bytes) -> None:
    async def go() -> None:
        async with far_end(each(answer)) as far:
            pool = far.pool()
            for number in (1, 2, 3):
                assert (await pool.request("GET", "/")).body == b"{}"
                assert far.connections == number

    run(go())


def test_what_is_said_unasked_ends_an_idle_connection(run: Run) -> None:
    async def chatty(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(FINE)
        await more.wait()
        writer.write(FINE.replace(b"{}", b"no"))
        await reader.read(1)

    async def go() -> None:
        async with far_end(chatty) as far:
            pool = far.pool()
            await pool.request("GET", "/")
            more.set()
            await far.over.wait()  # the client has hung up
            assert (await pool.request("GET", "/")).body == b"{}"
            assert far.connections == 2
            await pool.close()

    more = asyncio.Event()
    run(go())


@pytest.mark.parametrize("tls", [False, True])
def test_what_came_while_the_loop_was_busy_is_no_answer_to_the_next_request(run: Run, ca: TestCA, *, tls: bool) -> None:
    """It waits in the kernel, unread, while the next request is about to be written behind it."""
    more, said, over = threading.Event(), threading.Event(), threading.Event()
    context = shown(ca.server())
    door = socket.create_server(("127.0.0.1", 0))
    door.settimeout(LONG)

    def accept() -> socket.socket:
        plain = door.accept()[0]
        return context.wrap_socket(plain, server_side=True) if tls else plain

    def serve() -> None:
        with contextlib.suppress(TimeoutError), accept() as first:
            first.recv(1000)
            first.sendall(FINE)
            more.wait(LONG)
            first.sendall(FINE.replace(b"{}", b"no"))
            said.set()
            with accept() as second:
                second.recv(1000)
                second.sendall(FINE)
                over.wait(LONG)

    async def go() -> None:
        trust = trusting(ca)
        pool = Pool(
            Origin(host="localhost", port=door.getsockname()[1], tls=tls),
            tls=(lambda: trust) if tls else None,
            request_timeout=LONG,
        )
        await pool.request("GET", "/")
        more.set()
        assert said.wait(LONG)  # and the loop reads nothing meanwhile
        assert (await pool.request("GET", "/")).body == b"{}"
        over.set()
        await pool.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with door:
        run(go())
        thread.join()


def test_who_speaks_before_it_is_asked_was_sent_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Connection.connection_made

    def at_once(self: Connection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        self.data_received(FINE)

    async def go() -> None:
        async with far_end(fine) as far:
            monkeypatch.setattr(Connection, "connection_made", at_once)
            await refused(far.pool(), Unsent)
            assert far.requests == []

    run(go())


def in_chunks(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def in_length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def spoilt(kind: str, said: bytes, chance: random.Random) -> bytes:
    match kind:
        case "twice":
            return said + in_length(b"/nobody")
        case "and more":
            return said + in_length(b"/nobody")[: chance.randrange(1, 40)]
        case "cut short":
            return said[: -chance.randrange(1, len(said))]
        case "closing":
            return said.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
        case "after others":
            return b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n" * 3 + said
    return said


KINDS = [
    "twice",
    "and more",
    "cut short",
    "closing",
    "after others",
    "late",
    "none",
    "the last",
    "fine",
    "fine",
    "fine",
]


def wild(chance: random.Random) -> Script:
    """Says to each request what it asked for, somehow."""

    async def script(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await far.request(reader):
            said = chance.choice([in_chunks, in_length])(head.split(b" ")[1])
            kind = chance.choice(KINDS)
            if kind == "late":  # perhaps its asker has gone
                await asyncio.sleep(chance.random() / 50)
            if kind == "none":
                return
            cut = chance.randrange(len(said))  # before its end: nobody can tell what comes later from the next answer
            said = spoilt(kind, said, chance)
            writer.write(said[:cut])
            await asyncio.sleep(0)
            writer.write(said[cut:])
            if kind == "the last":
                return

    return script


@pytest.mark.parametrize("seed", range(3))
def test_among_many_nobody_ever_hears_what_was_said_to_another(run: Run, seed: int) -> None:
    """A server at its worst, callers that give up at any moment, and few connections for all of them."""
    chance = random.Random(seed)
    heard: list[str] = []

    async def ask(pool: Pool, own: str) -> None:
        with contextlib.suppress(HttpError, TimeoutError):
            async with asyncio.timeout(chance.choice([LONG, 0.0, 0.001, 0.003, 0.01])):
                answer = await pool.request("GET", own)
                assert answer.body.decode() == own
                heard.append(own)

    async def go() -> None:
        async with far_end(wild(chance)) as far:
            pool = far.pool(max_connections=4, request_timeout=0.05)
            for start in range(0, 400, 40):
                await asyncio.gather(*(ask(pool, f"/{start + number}") for number in range(40)))
            assert pool._slots._value == 4, "a place was lost"
            assert len(pool._idle) <= 4
            assert not pool._busy
            await pool.close()
            assert len(set(far.requests)) == len(far.requests), "something was sent twice"

    run(go())
    assert len(heard) > 40
