"""What counts as a probe's proof, and what never does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import AwsSession, Evidence, JsonValue
from broker.providers.aws import probes
from broker.providers.aws.calls import Failure
from broker.providers.aws.lanes import BUSY
from broker.providers.aws.probes import APART, Look, NoProbe, Prober
from broker.secret import Secret
from tests.fakes.clock import START, FakeClock
from tests.support.aws_orders import lease_of

LEASE = "abcdefghij234567"
DENIED = Failure(code="AccessDenied", status=403)
THROTTLED = Failure(code="SlowDown", status=503)
EXPIRED = Failure(code="ExpiredToken", status=400)
HUNG = Failure(code="ReadTimeoutError")
WORKS: Mapping[str, JsonValue] = {"KeyCount": 0}
# What a call may come to; only the first is a refusal.
ANSWERS = (DENIED, THROTTLED, EXPIRED, WORKS, Failure(code="NoSuchBucket", status=404), Failure(code="403", status=403))


class Store:
    """Answers as a test says; remembers who asked for what."""

    def __init__(self) -> None:
        self.answer: Mapping[str, JsonValue] | Failure = WORKS
        self.asked: list[tuple[str, str, str, Mapping[str, JsonValue]]] = []
        self.hold: asyncio.Event | None = None

    async def call(
        self, session: AwsSession, service: str, operation: str, parameters: Mapping[str, JsonValue]
    ) -> Mapping[str, JsonValue] | Failure:
        self.asked.append((session.access_key_id, service, operation, parameters))
        if self.hold is not None:
            await self.hold.wait()
        return self.answer


class Bench:
    """A prober with a store that a test controls."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Store()
        self.prober = Prober(self.store.call, self.clock)

    def keep(self, lease_id: str = LEASE, *, expires_at: datetime = START + timedelta(minutes=10)) -> None:
        ref = lease_of({}, START, life=expires_at - START, lease_id=lease_id)
        self.prober.keep(ref, "s3:ListObjectsV2", {"Bucket": "lake"}, _session())

    async def before(self, answer: Mapping[str, JsonValue] | Failure, lease_id: str = LEASE) -> None:
        self.store.answer = answer
        await self.prober.before_deny(lease_id)

    async def after(self, answer: Mapping[str, JsonValue] | Failure, lease_id: str = LEASE) -> Look:
        self.store.answer = answer
        return await self.prober.after_deny(lease_id)

    async def row(self, *answers: Mapping[str, JsonValue] | Failure, apart: float = APART) -> list[Evidence | None]:
        """One look after the other."""
        found = []
        for answer in answers:
            found.append((await self.after(answer)).evidence)
            self.clock.advance(apart)
        return found


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.keep()
    return made


def _session() -> AwsSession:
    return AwsSession(
        access_key_id="ASIAEXAMPLE",
        secret_access_key=Secret("kept-secret"),
        session_token=Secret("kept-token"),
        region="eu-west-1",
        endpoint_url="",
        session_expires_at=START + timedelta(minutes=15),
    )


async def test_three_refusals_in_a_row_after_a_success_are_evidence(bench: Bench) -> None:
    await bench.before(WORKS)
    assert await bench.row(DENIED, DENIED) == [None, None]
    assert (await bench.after(DENIED)).evidence is Evidence.PROBE_DENIED
    assert bench.store.asked == [("ASIAEXAMPLE", "s3", "list_objects_v2", {"Bucket": "lake", "MaxKeys": 1})] * 4
    assert bench.prober.kept == 0
    assert (await bench.after(DENIED)).hopeless is NoProbe.NOT_KEPT


async def test_a_call_that_never_worked_proves_nothing(bench: Bench) -> None:
    """The scope may not make it anyway: refused before the deny, it would be refused after it, dead or alive."""
    await bench.before(DENIED)
    assert (await bench.after(DENIED)) == Look(hopeless=NoProbe.USELESS)
    assert await bench.row(*[DENIED] * 5) == [None] * 5
    assert len(bench.store.asked) == 1
    assert bench.prober.kept == 0  # nobody needs the credential any more


async def test_without_a_call_before_the_deny_nothing_is_proven(bench: Bench) -> None:
    assert await bench.row(*[DENIED] * 5) == [None] * 5
    assert bench.store.asked == []


@pytest.mark.parametrize("answer", [THROTTLED, EXPIRED, HUNG, BUSY, Failure(code="NoSuchBucket", status=404)])
async def test_what_was_no_answer_before_the_deny_is_not_made_up_for_later(bench: Bench, answer: Failure) -> None:
    """The deny does not wait, and once it may be on its way a success says nothing about before."""
    await bench.before(answer)
    await bench.before(WORKS)
    assert (await bench.after(DENIED)) == Look(hopeless=NoProbe.UNANSWERED)


async def test_a_second_attempt_at_the_deny_does_not_ask_again(bench: Bench) -> None:
    await bench.before(WORKS)
    await bench.before(DENIED)  # the first attempt's deny may have arrived by now
    assert len(bench.store.asked) == 1
    assert await bench.row(DENIED, DENIED, DENIED) == [None, None, Evidence.PROBE_DENIED]


async def test_a_second_attempt_waits_for_the_first_ones_call(bench: Bench) -> None:
    """Else it would send its deny while that call is under way."""
    bench.store.hold = asyncio.Event()
    first = asyncio.create_task(bench.prober.before_deny(LEASE))
    second = asyncio.create_task(bench.prober.before_deny(LEASE))
    await asyncio.sleep(0.01)
    assert not second.done()
    bench.store.hold.set()
    await asyncio.gather(first, second)
    assert len(bench.store.asked) == 1


@pytest.mark.parametrize("between", [answer for answer in ANSWERS if answer is not DENIED])
async def test_anything_else_in_between_begins_the_row_anew(
    bench: Bench, between: Mapping[str, JsonValue] | Failure
) -> None:
    await bench.before(WORKS)
    found = await bench.row(DENIED, DENIED, between, DENIED, DENIED, DENIED)
    assert found == [None] * 5 + [Evidence.PROBE_DENIED]


async def test_looks_too_soon_are_not_made(bench: Bench) -> None:
    await bench.before(WORKS)
    await bench.after(DENIED)
    asked = len(bench.store.asked)
    for _ in range(4):
        bench.clock.advance(1.2)
        look = await bench.after(DENIED)
    assert len(bench.store.asked) == asked
    assert look.again is not None
    assert 0 < look.again.total_seconds() <= APART
    bench.clock.advance(look.again.total_seconds())
    await bench.after(DENIED)
    assert len(bench.store.asked) == asked + 1


@given(answers=st.lists(st.sampled_from(ANSWERS), max_size=12), waits=st.lists(st.floats(0.5, 12.0), min_size=12))
async def test_evidence_means_three_refusals_in_a_row_five_seconds_apart(
    answers: list[Any], waits: list[float]
) -> None:
    bench = Bench()
    bench.keep()
    await bench.before(WORKS)
    heard: list[tuple[float, object]] = []
    evidence = False
    for answer, wait in zip(answers, waits, strict=False):
        asked = len(bench.store.asked)
        look = await bench.after(answer)
        if len(bench.store.asked) > asked:
            heard.append((bench.clock.monotonic(), answer))
        if look.evidence is not None:
            evidence = True
            break
        bench.clock.advance(wait)
    last = heard[-3:]
    proven = len(last) == 3 and all(answer is DENIED for _, answer in last)
    times = [at for at, _ in last]
    apart = all(later - earlier >= APART for earlier, later in itertools.pairwise(times))
    assert evidence <= (proven and apart)
    # Nor is a proof missed: a whole row of refusals at its end is evidence.
    rows = [answer is DENIED for _, answer in heard]
    assert evidence == any(all(rows[at : at + 3]) and len(rows) >= at + 3 for at in range(len(rows)))


async def test_where_nobody_answers_the_others_do_not_wait(bench: Bench) -> None:
    others = [f"abcdefghij23456{letter}" for letter in "abcdef"]
    for lease_id in others:
        bench.keep(lease_id)
    for lease_id in others[:5]:
        await bench.before(HUNG, lease_id)
    assert len(bench.store.asked) == probes.SILENT_CALLS
    bench.clock.advance(probes.SILENCE + 1)
    await bench.before(WORKS, others[5])
    assert len(bench.store.asked) == probes.SILENT_CALLS + 1


async def test_a_look_that_was_not_made_leaves_the_row_as_it_is(bench: Bench) -> None:
    await bench.before(WORKS)
    assert await bench.row(DENIED, BUSY, DENIED, BUSY, DENIED) == [None] * 4 + [Evidence.PROBE_DENIED]


async def test_a_call_without_an_end_holds_up_its_deny_for_seconds_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "LIMIT", 0.01)
    bench.store.hold = asyncio.Event()
    await bench.before(WORKS)
    assert (await bench.after(DENIED)) == Look(hopeless=NoProbe.UNANSWERED)


async def test_credentials_are_let_go_after_the_bound_and_at_the_close(bench: Bench) -> None:
    bench.keep("bbcdefghij234567", expires_at=START + timedelta(minutes=30))
    await bench.before(WORKS)
    bench.clock.advance(600 + probes.KEEP_AFTER)
    assert (await bench.after(DENIED)).hopeless is NoProbe.NOT_KEPT
    assert bench.prober.kept == 1
    bench.prober.close()
    assert bench.prober.kept == 0


async def test_only_so_many_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_KEPT", 2)
    bench.keep("bbcdefghij234567")
    bench.keep("cbcdefghij234567")
    assert bench.prober.kept == 2
    assert (await bench.after(DENIED, "cbcdefghij234567")).hopeless is NoProbe.NOT_KEPT


def test_nothing_shows_a_kept_credential(bench: Bench) -> None:
    shown = repr(bench.prober.__dict__) + repr(vars(bench.prober))
    assert "kept-" not in shown
    assert "ASIAEXAMPLE" not in shown
