"""The pool over real sockets, on both event loops: one attempt, and no doubt about whether it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from broker.providers.http import Answer, HttpError, Lost, Origin, Pool, Unsent, Untrusted
from broker.providers.http.connection import Connection
from tests.support.certs import TestCA

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CLOSING = FINE.replace(b"Content-Length", b"Connection: close\r\nContent-Length")
LONG = 5.0  # seconds until a test that hangs fails

Run = Callable[[Coroutine[Any, Any, None]], None]
Script = Callable[["Far", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """What the test does, on a loop of this kind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 4 * LONG))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCA:
    return TestCA(tmp_path_factory.mktemp("http"))


@dataclass
class Far:
    """The far end. `requests`: the heads that came; `connections`: how many, and which are over."""

    port: int = 0
    tls: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)  # any of them

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The next one's head; raises when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length: "):
                await reader.readexactly(int(line[16:]))
        return head

    def pool(self, **settings: Any) -> Pool:
        settings = {"connect_timeout": LONG, "request_timeout": LONG, **settings}
        return Pool(Origin(host="localhost", port=self.port, tls=self.tls), **settings)


async def fine(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await far.request(reader):
        writer.write(FINE)


def each(answer: bytes) -> Script:
    """Gives this answer to the first request, and waits for the client to go."""

    async def script(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(answer)
        await reader.read(1)

    return script


@contextlib.asynccontextmanager
async def far_end(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Far]:
    far = Far(tls=context is not None)
    tasks: set[asyncio.Task[Any]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far.connections += 1
        tasks.add(asyncio.create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # RuntimeError: uvloop's, of a write to what the client has closed
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await script(far, reader, writer)
        far.over.set()
        writer.close()

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=context)
    far.port = server.sockets[0].getsockname()[1]
    try:
        yield far
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def trusting(ca: TestCA) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca.root_path)


def shown(pair: tuple[Any, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


async def refused(pool: Pool, error: type[Exception], **request: Any) -> str:
    with pytest.raises(error) as caught:
        await pool.request("GET", "/secret-path", {"X-Token": "hvs.secret"}, **request)
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


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
