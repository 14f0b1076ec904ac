"""Journal records become the questions that were asked, whatever a record holds."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.journal.records import Kind
from broker.policy.usage.events import Event, LeaseOver, Outcome, Question, StepOver, Uncounted, Unusable
from broker.policy.usage.reading import Reader, Recent
from broker.store.base import tail
from tests.fakes import world as fakes
from tests.support.examples import examples
from tests.unit.policy.journals import START, Journal
from tests.unit.policy.maps import LOAD


def events(records: list[dict[str, Any]], **period: Any) -> list[Event]:
    reader = Reader(**period)
    return [event for record in records for event in reader.read(record)]


def questions(journal: Journal) -> list[Question]:
    return [event for event in events(journal.dicts()) if isinstance(event, Question)]


def test_an_intent_knows_its_step_from_the_step_s_first_record() -> None:
    journal = Journal()
    step_id = journal.begin({"orders": "granted", "lake": "NO_GRANT"}, run="r7", attempt=3, address="10.0.0.1")
    journal.wait(minutes=2)
    journal.lease(step_id)
    refused, named, asked = questions(journal)
    assert (named.named, named.outcome, named.request.now) == (True, Outcome.ALLOWED, START)
    assert (refused.outcome, refused.reason, refused.request.scope) == (Outcome.REFUSED, "NO_GRANT", "lake")
    assert (asked.named, asked.outcome, asked.request.now) == (False, Outcome.ALLOWED, START + timedelta(minutes=2))
    assert (asked.request.agent, asked.request.workflow, asked.request.run) == (LOAD, "etl", "r7")
    assert (asked.request.attempt, asked.request.address) == (3, "10.0.0.1")


def test_what_an_intent_says_itself_stands_before_its_step() -> None:
    journal = Journal()
    step_id = journal.begin({"orders": "granted"}, address="10.0.0.1")
    journal.lease(step_id, address="10.0.0.9")
    assert questions(journal)[-1].request.address == "10.0.0.9"
    journal = Journal()
    journal.lease("forgotten", workflow="etl", run="r1", step="load", attempt=2)
    (alone,) = questions(journal)
    assert (alone.request.workflow, alone.request.attempt, alone.untold) == ("etl", 2, frozenset({"address"}))


def test_an_intent_whose_step_nobody_knows_is_said_to_be_so() -> None:
    journal = Journal()
    journal.lease("forgotten")
    assert events(journal.dicts()) == [Unusable(why="the beginning of its step is not in this journal")]


def test_what_a_launcher_said_is_kept_also_where_it_was_not_believed() -> None:
    digest = "sha256:" + "a" * 64
    said = {"opened_by": "spiffe://prod.acme.internal/airflow", "definition_digest": digest}
    journal = Journal()
    journal.begin({"orders": "granted"}, proven=True, **said)
    journal.begin({"orders": "granted"}, proven=False, **said)
    journal.begin({"orders": "granted"}, proven=False, opened_by=LOAD)
    believed, doubted, own = questions(journal)
    assert (believed.request.proven, believed.request.definition_digest) == (True, digest)
    assert (doubted.request.proven, doubted.request.definition_digest, doubted.said_digest) == (False, "", digest)
    assert (believed.launcher, own.launcher) == ("spiffe://prod.acme.internal/airflow", "")


def test_a_refusal_at_the_beginning_is_one_question_also_when_its_storm_was_only_counted() -> None:
    journal = Journal()
    step_id = journal.begin({"lake": "NO_GRANT"})
    journal.deny(step_id=step_id, data={"method": "BeginStep", "denial": "NO_GRANT"})
    assert [one.named for one in questions(journal)] == [True]
    journal.deny(step_id=step_id)
    assert [one.named for one in questions(journal)] == [True, False]


def test_only_policy_s_refusals_are_asked_again_and_the_others_are_counted() -> None:
    journal = Journal()
    journal.deny("COOLING", data={"method": "IssueCredential"})
    journal.deny("NEEDS_APPROVAL", data={"method": "IssueCredential"})
    journal.deny(scope="")
    journal.deny(workflow="")
    journal.add(Kind.DENIALS_COUNTED, agent=LOAD, reason="ACCESS_DENIED", data={"count": 40, "minute": "x"})
    guard, approval, scopeless, stepless, counted = events(journal.dicts())
    assert guard == Unusable(why="refused by something else than the scope map: COOLING")
    assert isinstance(approval, Question)
    assert approval.outcome is Outcome.APPROVAL
    assert scopeless == stepless == Unusable(why="the record names no step or no scope")
    assert counted == Uncounted(reason="ACCESS_DENIED", count=39)


def test_a_lease_after_approval_is_not_one_that_needed_none() -> None:
    journal = Journal()
    journal.lease(journal.begin({"orders": "needs approval"}))
    assert [one.outcome for one in questions(journal)] == [Outcome.APPROVAL, Outcome.APPROVAL]


def test_lives_end_when_the_end_is_asked_for_and_only_own_ends_count_as_use() -> None:
    journal = Journal()
    journal.whole(seconds=45)
    killed = journal.begin({"orders": "granted"})
    lease_id = journal.lease(killed)
    journal.wait(seconds=5)
    journal.end(killed, lease_id, reason="GUARD_LOCK")
    expired = journal.lease(journal.begin({"orders": "granted"}))
    journal.wait(minutes=15)
    journal.add(Kind.LEASE_EXPIRED, lease_id=expired, scope="orders", reason="EXPIRED")
    found = events(journal.dicts())
    lives = [(one.lived.total_seconds(), one.own_end) for one in found if isinstance(one, LeaseOver)]
    assert lives == [(45, True), (5, False), (900, True)]
    steps = [(one.lasted.total_seconds(), one.own_end) for one in found if isinstance(one, StepOver)]
    assert steps == [(45, True), (5, False)]


def test_a_period_leaves_out_what_is_before_and_after_but_remembers_whose_steps_they_are() -> None:
    journal = Journal()
    step_id = journal.begin({"orders": "granted"})
    journal.wait(hours=1)
    journal.lease(step_id)
    journal.wait(hours=1)
    journal.lease(step_id)
    since, until = START + timedelta(minutes=30), START + timedelta(minutes=90)
    reader = Reader(since=since, until=until)
    (asked,) = [event for record in journal.dicts() for event in reader.read(record)]
    assert isinstance(asked, Question)
    assert asked.request.now == START + timedelta(hours=1)
    assert (reader.period.records, reader.period.span) == (2, timedelta(0))


def test_memory_is_bounded() -> None:
    recent: Recent[int] = Recent(2)
    for number in range(3):
        recent.put(str(number), number)
    assert (recent.get("0"), recent.get("1"), recent.pop("2"), recent.get("2")) == (None, 1, 2, None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=6,  # there are up to a hundred of these in an example
)
_FIELDS = ["at", "agent", "workflow", "run", "step", "step_id", "lease_id", "scope", "reason", "reference_id"]
_DATA = ["scopes", "attempt", "address", "proven", "opened_by", "definition_digest", "denial", "count", "method"]


@settings(max_examples=examples(40, long=200))
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from([kind.value for kind in Kind]),
                "at": st.just("2026-06-01T12:00:00+00:00") | _JSON,
            },
            optional=dict.fromkeys(_FIELDS[1:], _JSON)
            | {"data": _JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(_DATA, _JSON))},
        ),
        max_size=5,
    )
)
def test_whatever_an_export_holds_is_read(records: list[dict[str, Any]]) -> None:
    for event in events(records):
        if isinstance(event, Question):
            assert all((event.request.agent, event.request.workflow, event.request.run, event.request.step))


async def test_the_engine_s_own_records_are_understood(tmp_path: Path) -> None:
    async with fakes.world(tmp_path, sqlite=True) as broker:
        opened = await broker.begin(["plain", "danger", "unknown"])
        await broker.issue(opened.handle)
        broker.fake_clock.suspend(10)
        await broker.end(opened.handle)
        entries = await broker.store.read(lambda tx: list(tail(tx)))
    found = events([json.loads(entry.body) for entry in entries])
    asked = [one for one in found if isinstance(one, Question)]
    assert [(one.request.scope, one.named, one.outcome) for one in asked] == [
        ("danger", True, Outcome.ALLOWED),
        ("plain", True, Outcome.ALLOWED),
        ("unknown", True, Outcome.REFUSED),
        ("plain", False, Outcome.ALLOWED),
    ]
    assert {(one.request.agent, one.request.workflow, one.request.run) for one in asked} == {
        (fakes.LOAD, "nightly", "r1")
    }
    assert [(one.lived.total_seconds(), one.own_end) for one in found if isinstance(one, LeaseOver)] == [(10, True)]
    assert [one.lasted.total_seconds() for one in found if isinstance(one, StepOver)] == [10]
