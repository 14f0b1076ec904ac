"""Would today's map still give it? Pure, and never a yes for what it would not give."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from broker.leases.standing import is_proven, question, still_given
from broker.model import Revocability, Step, Tier
from broker.policy import scope_map as module
from broker.policy.decision import Allowed, Decision, Denial, Denied
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from tests.fakes import domain
from tests.fakes.clock import START
from tests.fakes.launchers import DIGEST, SCHEDULER, launcher, with_launchers
from tests.fakes.provider import FakeKind
from tests.fakes.world import LOAD, MAP

STEP = domain.step(
    key=replace(domain.step().key, agent=LOAD, workflow="nightly", run="r1"),
    opened_by=SCHEDULER,
    proven=True,
    definition_digest=DIGEST,
    opened_at=START,
    attempt=3,
)
LEASE = domain.lease(
    agent=LOAD,
    scope="plain",
    provider="fake",
    params={"role": "plain"},
    intent_at=START,
    expires_at=START + timedelta(minutes=10),
    address="10.1.2.3",
)
NOW = START + timedelta(minutes=3)


@pytest.fixture
def today() -> ScopeMap:
    return a_map(launcher())


def a_map(*launchers: str) -> ScopeMap:
    kinds = {kind.name: kind for kind in (FakeKind("fake"), FakeKind("timed", Revocability.EXPIRY_ONLY))}
    return parse(with_launchers(MAP, *launchers), "scopes.yaml", kinds)


@pytest.mark.parametrize(
    ("rules", "step", "proven"),
    [
        ([launcher()], STEP, True),
        ([], STEP, False),
        ([launcher()], replace(STEP, proven=False), False),
        ([launcher()], replace(STEP, opened_by=LOAD), False),
        ([launcher(definition_digest=[DIGEST])], STEP, True),
        ([launcher(definition_digest=["sha256:" + "cd" * 32])], STEP, False),
        ([launcher(workflows=["weekly"])], STEP, False),
        ([launcher(workloads=["other"])], STEP, False),
        ([launcher(when={"until": NOW.isoformat()})], STEP, False),
        ([launcher(when={"until": (NOW + timedelta(seconds=1)).isoformat()})], STEP, True),
    ],
)
def test_a_launchers_word_is_worth_what_todays_map_says(rules: list[str], step: Step, *, proven: bool) -> None:
    scope_map = a_map(*rules)
    assert is_proven(scope_map, step, NOW) is proven
    asked = question(scope_map, step, "plain", address="::1", now=NOW)
    assert (asked.proven, asked.definition_digest) == (proven, DIGEST if proven else "")
    assert (asked.attempt, asked.address, asked.now) == (3, "::1", NOW)


def test_what_the_map_gives_still_is_still_given(today: ScopeMap) -> None:
    assert still_given(today, STEP, LEASE, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "nope"},
        {"provider": "timed"},
        {"params": {"role": "other"}},
        {"tier": Tier.HIGH},
        {"revocability": Revocability.EXPIRY_ONLY},
        {"expires_at": START + timedelta(minutes=10, seconds=1)},
    ],
)
def test_what_it_would_give_otherwise_is_not(today: ScopeMap, change: dict[str, Any]) -> None:
    assert not still_given(today, STEP, replace(LEASE, **change), NOW)


def given(monkeypatch: pytest.MonkeyPatch, decision: Decision) -> None:
    monkeypatch.setattr(module, "decide", lambda *_: decision)


def allowed(today: ScopeMap, **changes: Any) -> Allowed:
    decision = today.decide(question(today, STEP, "plain", address="", now=NOW))
    assert isinstance(decision, Allowed)
    return replace(decision, **changes)


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({"approvals": 1}, False),
        ({"until": LEASE.expires_at}, True),
        ({"until": LEASE.expires_at - timedelta(seconds=1)}, False),
        ({"max_step": timedelta(minutes=1)}, True),  # bounds what is given from now on
    ],
)
def test_for_as_long_and_without_asking_anybody(
    monkeypatch: pytest.MonkeyPatch, today: ScopeMap, changes: dict[str, Any], *, still: bool
) -> None:
    given(monkeypatch, allowed(today, **changes))
    assert still_given(today, STEP, LEASE, NOW) is still


@pytest.mark.parametrize(
    ("reason", "now", "still"),
    [
        (Denial.TTL_TOO_SHORT, LEASE.expires_at - timedelta(seconds=59), True),
        (Denial.TTL_TOO_SHORT, LEASE.expires_at - timedelta(seconds=60), False),  # the window was moved
        (Denial.OUTSIDE_WINDOW, LEASE.expires_at - timedelta(seconds=1), False),
        (Denial.NEEDS_LAUNCHER, LEASE.expires_at - timedelta(seconds=1), False),
        (Denial.SOURCE_NOT_ALLOWED, LEASE.expires_at - timedelta(seconds=1), False),
    ],
)
def test_what_ends_with_its_window_is_left_to_end_with_it(
    monkeypatch: pytest.MonkeyPatch, today: ScopeMap, reason: Denial, now: datetime, *, still: bool
) -> None:
    given(monkeypatch, Denied(reason=reason, message="m", known=True))
    assert still_given(today, STEP, LEASE, now) is still
