"""The instant OpenBao says what the broker takes for an answer, however its bytes come in."""

from __future__ import annotations

import json

import pytest

from broker.providers.vault import answers
from tests.bench.stub import Answers, Connection, Request


class Wire:
    """What was written to it."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def said(raw: bytes) -> tuple[int, object]:
    """(status, body) of one answer, whose length must be what is told."""
    head, _, text = raw.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(": ", 1) for line in head.decode().splitlines()[1:])
    assert int(lines.get("content-length", 0)) == len(text)
    return int(head.split()[1]), json.loads(text) if text else None


def create(body: object) -> tuple[int, object]:
    return said(Answers().to(Request(b"/v1/auth/token/create/bench", json.dumps(body).encode())))


def test_a_token_has_the_id_and_the_life_that_were_asked_for() -> None:
    status, body = create({"id": "scv1-k1-abc", "ttl": "600s", "explicit_max_ttl": "600s"})
    assert isinstance(body, dict)
    made = body["auth"]
    assert (status, made["client_token"], made["lease_duration"]) == (200, "scv1-k1-abc", 600)
    assert (made["token_type"], made["orphan"], made["renewable"]) == ("service", True, False)


def test_a_rehearsal_is_refused_in_the_servers_words() -> None:
    status, body = create({"id": answers.REHEARSAL_ID, "ttl": "1s"})
    assert (status, body) == (answers.REHEARSED[0], {"errors": [answers.REHEARSED[1]]})


def test_every_token_is_dead() -> None:
    found = Answers()
    assert said(found.to(Request(b"/v1/auth/token/revoke-self", b"{}"))) == (204, None)
    status, why = answers.TOKEN_DEAD
    assert said(found.to(Request(b"/v1/auth/token/lookup", b"{}"))) == (status, {"errors": [why]})


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_requests_are_answered_in_order_in_whatever_pieces_they_come(size: int) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> bytes:
        asked.append(request)
        return b"."

    connection, wire = Connection(answer), Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]  # all that is used of one
    sent = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nhost: x\r\n\r\n"
    for start in range(0, len(sent), size):
        connection.data_received(sent[start : start + size])
    assert (asked, wire.written) == ([Request(b"/a", b"abc"), Request(b"/b", b"")], b"..")
