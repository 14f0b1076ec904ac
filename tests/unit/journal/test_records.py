"""One text for one record."""

from __future__ import annotations

import json

from broker.journal.records import Kind, Record, by
from broker.model import Agent
from tests.fakes.domain import AGENT, NOW


def test_a_body_is_canonical_and_leaves_out_what_is_empty() -> None:
    first = Record(kind=Kind.DENIED, at=NOW, agent=AGENT, data={"b": 1, "a": "é"})
    second = Record(data={"a": "é", "b": 1}, agent=AGENT, at=NOW, kind=Kind.DENIED)
    assert first.body() == second.body()
    assert first.body().isascii()
    assert " " not in first.body()
    assert json.loads(first.body()) == {
        "agent": AGENT,
        "at": "2026-11-01T12:00:00.123456+00:00",
        "data": {"a": "é", "b": 1},
        "kind": "DENIED",
    }


def test_a_record_about_a_caller_says_who_and_where_from() -> None:
    agent = Agent(spiffe_id=AGENT, trust_domain="test.acme", cert_sha256="ab", not_after=NOW, peer="ipv4:127.0.0.1:9")
    assert json.loads(
        Record(kind=Kind.DENIED, at=NOW, **by(agent)).body()  # type: ignore[arg-type]  # by() gives text fields only
    ) == {
        "agent": AGENT,
        "at": "2026-11-01T12:00:00.123456+00:00",
        "cert_sha256": "ab",
        "kind": "DENIED",
        "peer": "ipv4:127.0.0.1:9",
    }
