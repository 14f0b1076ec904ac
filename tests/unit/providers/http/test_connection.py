"""One connection, fed with bytes: exactly one answer to one request, or none, however the bytes come."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.providers.http import Answer, Lost
from broker.providers.http.connection import Bounds, Connection

HEAD, BODY = 2000, 3000
QUIET = socket.socketpair()[0]
WHOLE = b"HTTP/1.1 200 OK\r\nDate: now\r\nX-One: a\r\nx-one: b\r\nContent-Length: 7\r\n\r\nthe end"
CHUNKED = b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n4;x=y\r\n end\r\n0\r\nDate: then\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\nDate: now\r\n\r\nthe end"


class Wire:
    """What a transport is to a connection. `unsent`: bytes of the request that are still here."""

    def __init__(self) -> None:
        self.sent = b""
        self.unsent = 0
        self.gone = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.gone

    def get_extra_info(self, _name: str) -> socket.socket:
        return QUIET

    def abort(self) -> None:
        self.gone = True


@dataclass
class Talk:
    """One request under way on a connection that nobody else knows."""

    wire: Wire
    connection: Connection
    answer: asyncio.Future[Answer]

    def hear(self, *pieces: bytes, eof: bool = False) -> Talk:
        for piece in pieces:
            if not self.wire.gone:
                self.connection.data_received(piece)
        if eof and not self.wire.gone:
            self.connection.eof_received()
            self.connection.connection_lost(None)
        return self

    @property
    def told(self) -> Answer | None:
        """None: lost, or still awaited."""
        return self.answer.result() if self.answer.done() and self.answer.exception() is None else None

    @property
    def lost(self) -> bool:
        return self.answer.done() and isinstance(self.answer.exception(), Lost)


LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _loop() -> Iterator[None]:
    yield
    LOOP.close()
    QUIET.close()


def talk(*, headless: bool = False) -> Talk:
    wire, connection = Wire(), Connection(LOOP, None)
    connection.connection_made(cast("Any", wire))
    future = connection.send(b"?", Bounds(head=HEAD, body=BODY), until=LOOP.time() + 1000, headless=headless)
    assert wire.sent == b"?"
    assert not connection.usable
    return Talk(wire, connection, future)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts} - {0}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


@pytest.mark.parametrize("data", [WHOLE, CHUNKED, TO_THE_END])
def test_wherever_it_is_cut_in_two_it_is_the_same_answer(data: bytes) -> None:
    for cut in range(1, len(data)):
        heard = talk().hear(data[:cut], data[cut:], eof=data is TO_THE_END)
        assert heard.told is not None
        assert (heard.told.status, heard.told.body, heard.told.header("Date")) == (200, b"the end", "now")
        assert heard.connection.usable is (data is not TO_THE_END)


@given(cuts=st.lists(st.integers(0, 200)), data=st.sampled_from([WHOLE, CHUNKED]))
def test_however_it_is_cut_it_is_the_same_answer(cuts: list[int], data: bytes) -> None:
    assert talk().hear(*split(data, cuts)).told == talk().hear(data).told
    byte_by_byte = talk().hear(*(bytes([one]) for one in data))
    assert byte_by_byte.told == talk().hear(data).told
    assert byte_by_byte.connection.usable


@given(
    body=st.binary(max_size=BODY),
    sizes=st.lists(st.integers(1, 700)),
    cuts=st.lists(st.integers(0, 5000), max_size=20),
    status=st.integers(200, 599).filter(lambda status: status not in (204, 304)),
    framing=st.sampled_from(["length", "chunked", "close"]),
)
def test_a_body_of_any_bytes_in_any_framing_is_read_as_it_is(
    body: bytes, sizes: list[int], cuts: list[int], status: int, framing: str
) -> None:
    head = f"HTTP/1.1 {status} x\r\n".encode()
    if framing == "length":
        data = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    elif framing == "chunked":
        rest, chunks = body, []
        for size in [*sizes, BODY]:
            if rest:
                chunks.append(f"{len(rest[:size]):x}\r\n".encode() + rest[:size] + b"\r\n")
            rest = rest[size:]
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join([*chunks, b"0\r\n\r\n"])
    else:
        data = head + b"\r\n" + body
    heard = talk().hear(*split(data, cuts), eof=framing == "close")
    assert heard.told is not None
    assert (heard.told.status, heard.told.body) == (status, body)
    assert heard.connection.usable is (framing != "close")


@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda more: WHOLE[:-9] + more)))
def test_no_bytes_at_all_make_it_raise_or_hold_more_than_it_may(data: bytes) -> None:
    heard = talk().hear(data, eof=True)
    assert heard.answer.done()
    assert not heard.connection.usable


@pytest.mark.parametrize("data", [WHOLE, CHUNKED, b"HTTP/1.1 204 No Content\r\n\r\n"])
@given(
    more=st.binary(min_size=1, max_size=80).filter(lambda more: more.strip(b"\r\n") != b""),
    cuts=st.lists(st.integers()),
)
def test_what_comes_after_the_answer_ends_the_connection(data: bytes, more: bytes, cuts: list[int]) -> None:
    """Else it would be the beginning of the next request's answer."""
    for pieces in ([data + more], [data, more], split(data + more, cuts)):
        heard = talk().hear(*pieces)
        assert heard.told == talk().hear(data).told
        assert not heard.connection.usable


def test_a_second_answer_is_nobodys() -> None:
    heard = talk().hear(WHOLE + WHOLE.replace(b"the end", b"another"))
    assert heard.told is not None
    assert heard.told.body == b"the end"
    assert not heard.connection.usable


def test_what_comes_before_anything_was_asked_ends_the_connection() -> None:
    wire, connection = Wire(), Connection(LOOP, None)
    connection.connection_made(cast("Any", wire))
    assert connection.usable
    connection.data_received(b"\r\n")
    assert wire.gone
    assert not connection.usable


def test_one_connection_answers_one_after_another() -> None:
    heard = talk().hear(CHUNKED)
    for number in range(3):
        again = heard.connection.send(b"!", Bounds(head=HEAD, body=BODY), until=LOOP.time() + 1000, headless=False)
        assert not heard.connection.usable
        heard.hear(WHOLE.replace(b"the end", b"number%d" % number))
        assert again.result().body == b"number%d" % number
        assert [name for name, _ in again.result().headers] == [b"date", b"x-one", b"x-one", b"content-length"]
    assert heard.connection.usable


def test_headers_of_one_name_are_one_list() -> None:
    told = talk().hear(WHOLE).told
    assert told is not None
    assert (told.header("X-One"), told.header("x-two")) == ("a, b", "")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 6\r\n\r\nthe end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +7\r\n\r\nthe end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 7\r\n\r\nthe end",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 7\r\n\r\nthe end",
        b"HTTP/1.1 200 OK\r\nX y: z\r\nContent-Length: 7\r\n\r\nthe end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe end\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nPRI",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b'{"auth": {}}\n',
    ],
)
def test_what_is_no_answer_or_could_be_two_is_lost(data: bytes) -> None:
    for pieces in ([data], [bytes([one]) for one in data]):
        heard = talk().hear(*pieces)
        assert heard.lost
        assert heard.wire.gone


@pytest.mark.parametrize("data", [WHOLE, CHUNKED])
def test_an_answer_cut_short_is_lost(data: bytes) -> None:
    for cut in range(len(data)):
        assert talk().hear(data[:cut], eof=True).lost


def test_interim_answers_are_passed_over_with_their_headers() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-One: c\r\nDate: before\r\n\r\n"
    heard = talk().hear(interim + WHOLE)
    assert heard.told == talk().hear(WHOLE).told
    assert heard.connection.usable


@pytest.mark.parametrize(
    ("data", "usable"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    ],
)
def test_answers_without_a_body_end_with_their_head(data: bytes, *, usable: bool) -> None:
    heard = talk().hear(data)
    assert heard.told is not None
    assert heard.told.body == b""
    assert heard.connection.usable is usable


def test_the_answer_to_head_has_no_body_whatever_it_says() -> None:
    heard = talk(headless=True).hear(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
    assert heard.told is not None
    assert (heard.told.body, heard.told.header("content-length")) == (b"", "7")
    assert not heard.connection.usable


def test_an_answer_that_comes_before_the_request_has_left_ends_the_connection() -> None:
    heard = talk()
    heard.wire.unsent = 1
    heard.hear(WHOLE)
    assert heard.told is not None
    assert not heard.connection.usable


def test_who_no_longer_waits_leaves_no_connection_that_is_used_again() -> None:
    heard = talk()
    heard.answer.cancel()
    assert not heard.connection.usable
    heard.hear(WHOLE)
    assert heard.wire.gone


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n", b"y"),
        (b"HTTP/1.1 200 ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"y"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"y"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"y"),
    ],
)
def test_nothing_is_read_without_end(start: bytes, piece: bytes) -> None:
    heard, size = talk().hear(start), len(start)
    bound = HEAD + 2 * BODY if b"\r\n\r\n" in start else HEAD
    while not heard.answer.done():
        assert size <= bound
        heard.hear(piece)
        size += len(piece)
    assert heard.lost
    assert heard.wire.gone


def test_a_body_may_be_as_long_as_it_may_and_no_longer() -> None:
    for framing in (b"Content-Length: %d\r\n\r\n" % (BODY + 1), b"\r\n"):
        heard = talk().hear(b"HTTP/1.1 200 OK\r\n" + framing, b"x" * BODY)
        assert not heard.answer.done()
        assert heard.hear(b"x").lost


def test_one_piece_with_a_head_that_is_too_long_is_no_answer() -> None:
    assert talk().hear(b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD + b"\r\nContent-Length: 0\r\n\r\n").lost


def test_what_an_answer_says_is_not_shown_with_it() -> None:
    """Asyncio writes a future's result to its log when it is in debug mode, and a failed test shows it."""
    told = talk().hear(WHOLE).told
    assert repr(told) == "Answer(status=200)"


def test_a_body_in_crumbs_takes_no_more_memory_than_in_one_piece() -> None:
    heard = talk().hear(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nxy\r\n" * 1000)
    assert isinstance(heard.connection._body, bytearray)  # a list of a thousand pieces takes thirty times as much
    assert bytes(heard.connection._body) == b"xy" * 1000
