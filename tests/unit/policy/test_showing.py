"""The document about one scope: the same head for every provider, and bounded."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from broker.policy.showing import MAX_DOCUMENT, document
from tests.unit.policy.kinds import FakeKind
from tests.unit.policy.maps import BASE, a_map, allowed, ask

GRANT = "grants:\n  all: {workloads: [load], workflows: [etl], scopes: [orders, lake]}\n"


def shown(scope: str = "lake", base: str = BASE) -> dict[str, Any]:
    asked = ask(scope)
    decision = allowed(a_map(GRANT, base=base), asked)
    text = document(FakeKind("fake"), decision, now=asked.now, until=asked.now + timedelta(minutes=5))
    assert len(text) <= MAX_DOCUMENT
    made: dict[str, Any] = json.loads(text)
    return made


def test_what_every_document_says() -> None:
    assert shown() == {
        "provider": "fake",
        "in_words": [
            "may what lake/etl/x may",
            "until 2026-06-01 12:05Z if issued now, with successors for 1h; ended with the step, at once",
        ],
        "until": "2026-06-01T12:05:00Z",
        "ttl_seconds": 300,
        "max_ttl_seconds": 3600,
        "revocability": "EXACT",
        "fake": {"kind": "fake", "role": "lake/etl/x"},
    }


def test_what_cannot_be_issued_says_nothing_of_what_it_could_do() -> None:
    said = shown("orders", BASE.replace("orders: {fake: {role: orders-ro}", "orders: {fake: {role: x, data: never}"))
    assert said["cannot_be_issued"] == "its data is never good"
    assert said["in_words"] == []
    assert "fake" not in said


def test_what_is_too_large_is_left_out_and_said_to_be() -> None:
    said = shown("orders", BASE.replace("{role: orders-ro}", f"{{role: {'x' * MAX_DOCUMENT}}}"))
    assert said["left_out"] == f"more than {MAX_DOCUMENT} characters"
    assert len(said["in_words"]) == 1
    assert "fake" not in said


def test_a_stored_value_lives_on() -> None:
    said = shown("orders", BASE.replace("orders-ro", "static"))
    assert said["in_words"][-1].endswith("if issued now; the value lives on after the step")
