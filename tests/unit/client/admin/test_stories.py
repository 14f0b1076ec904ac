"""Explain, timeline and the journal's tail."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from stepcred.cli._admin import _stories, _timeline
from stepcred.v1 import operator_pb2 as pb
from tests.fakes.broker_server import Refusal
from tests.fakes.operator_office import FakeOffice
from tests.unit.client.admin.conftest import Admin

GONE = Refusal(code=grpc.StatusCode.UNAVAILABLE, message="stopping")


def entry(seq: int, kind: str, *, seconds: float = 0.0, **fields: Any) -> pb.JournalEntry:
    at = f"2026-12-01T22:00:{seconds:09.6f}+00:00"
    body = {"kind": kind, "at": at, **fields}
    return pb.JournalEntry(chain=1, seq=seq, body=json.dumps(body), hash="ab" * 32)


def tale() -> Sequence[pb.JournalEntry]:
    """A step with one lease, a refusal, and its end; records of a lease's end do not name the run."""
    names: dict[str, Any] = {"workflow": "nightly", "run": "r1", "step": "load", "step_id": "s"}
    lease: dict[str, Any] = {"lease_id": "a" * 16, "scope": "lake-write", "step_id": "s"}
    return [
        entry(1, "STEP_BEGUN", **names, data={"scopes": {"lake-write": "granted", "db": "ACCESS_DENIED"}}),
        entry(
            2, "LEASE_INTENT", seconds=1, **names, **{k: lease[k] for k in ("lease_id", "scope")}, rule="nightly-load"
        ),
        entry(3, "LEASE_ACTIVE", seconds=1.04, **lease),
        entry(4, "LEASE_CLAIMED", seconds=2, **lease),
        entry(5, "DENIED", seconds=3, **names, scope="db", reason="SCOPE_REFUSED", reference_id="ref1"),
        entry(6, "STEP_ENDED", seconds=40, **names, reason="STEP_ENDED"),
        entry(7, "LEASE_REVOKING", seconds=40, **lease, reason="STEP_ENDED"),
        entry(8, "LEASE_REVOKED", seconds=40.05, **lease, reason="SEEN_DEAD", data={"seconds_to_dead": 0.05}),
        entry(9, "SOMETHING_NEW", seconds=41, step_id="s", reason="\x1b[2Jevil"),
    ]


def test_one_runs_story_in_a_few_lines(admin: Admin, office: FakeOffice) -> None:
    office.answers["GetTimeline"] = pb.GetTimelineResponse(entries=tale())
    told = admin("timeline", "r1", "--workflow", "nightly")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0] == "run r1 of nightly, from 2026-12-01 22:00:00 UTC"
    shown = [line.split() for line in lines[2:]]
    assert [(one[0], one[1], one[2]) for one in shown] == [
        ("+0.00s", "load", "begins"),
        ("+1.04s", "load", "minted"),
        ("+3.00s", "load", "refused"),
        ("+40.00s", "load", "ends"),
        ("+40.05s", "load", "dead"),
        ("+41.00s", "load", "something"),
    ]
    assert "in 0.04 s, by nightly-load" in told.out
    assert "db: ACCESS_DENIED" in told.out
    assert "SEEN_DEAD, 0.05 s after" in told.out
    assert "ref ref1" in told.out
    assert all(line.isprintable() for line in lines)
    assert office.requests("GetTimeline")[0].workflow == "nightly"


def test_every_record_when_asked_for(admin: Admin, office: FakeOffice) -> None:
    office.answers["GetTimeline"] = pb.GetTimelineResponse(entries=tale(), more=True)
    told = admin("timeline", "r1", "--full")
    assert len(told.out.splitlines()) == 2 + len(tale()) + 1
    assert "over 2,000 records" in told.out
    found = json.loads(admin("timeline", "r1", "--json").out)
    assert [one["seq"] for one in found["entries"]] == list(range(1, 10))
    assert found["more"] is True


def test_a_run_that_nobody_knows(admin: Admin) -> None:
    told = admin("timeline", "r9")
    assert (told.code, told.out) == (1, "")
    assert "no run r9" in told.err


def test_what_is_not_over_is_not_left_out() -> None:
    """A mint that hangs, and a lease that does not die, are what one looks for."""
    hanging = [_timeline.parse(one) for one in tale()[:2]]
    assert [row.what for row in _timeline.rows(hanging)] == ["begins", "asks for"]
    dying = [_timeline.parse(one) for one in tale()[:7]]
    assert [row.what for row in _timeline.rows(dying)][-1] == "to die"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "+0.00s"),
        (59.994, "+59.99s"),
        (60, "+1m00s"),
        (3599, "+59m59s"),
        (3600, "+1h00m"),
        (90061, "+25h01m"),
        (-2, "-2.0s"),
    ],
)
def test_time_since_the_beginning(seconds: float, text: str) -> None:
    assert _timeline._since(seconds) == text


def test_a_story_is_told_line_by_line(admin: Admin, office: FakeOffice) -> None:
    answer = pb.ExplainResponse(lines=["denial 'abc'", "  why: \x1b[2J"])
    answer.records.add().update({"kind": "DENIED"})
    office.answers["Explain"] = answer
    told = admin("explain", "abc")
    assert told.out.splitlines() == ["denial 'abc'", "  why: \\x1b[2J"]
    assert json.loads(admin("explain", "abc", "--json").out)["records"] == [{"kind": "DENIED"}]


# --- the journal ---


def part(*entries: pb.JournalEntry) -> pb.TailJournalResponse:
    return pb.TailJournalResponse(entries=entries)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_the_newest_records(admin: Admin, office: FakeOffice) -> None:
    office.answers["TailJournal"] = [[part(*tale()[:2]), part(*tale()[2:])]]
    told = admin("journal", "-n", "9", "--kind", "DENIED", "--kind", "ALERT")
    assert told.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == [f"1/{seq}" for seq in range(1, 10)]
    assert all(line.isprintable() for line in told.out.splitlines())
    (asked,) = office.requests("TailJournal")
    assert (asked.back, asked.follow, list(asked.kinds)) == (9, False, ["DENIED", "ALERT"])


def test_for_programs_one_object_a_line(admin: Admin, office: FakeOffice) -> None:
    office.answers["TailJournal"] = [[part(*tale())]]
    found = [json.loads(line) for line in admin("journal", "--json").out.splitlines()]
    assert [(one["seq"], one["kind"]) for one in found][:2] == [(1, "STEP_BEGUN"), (2, "LEASE_INTENT")]


@pytest.mark.parametrize(("after", "asked"), [("3/141", (3, 141)), ("0/0", (0, 1))])
def test_from_a_record_on(admin: Admin, office: FakeOffice, after: str, asked: tuple[int, int]) -> None:
    assert admin("journal", "--after", after).code == 0
    (request,) = office.requests("TailJournal")
    assert (request.after_chain, request.after_seq) == asked


@pytest.mark.parametrize("after", ["3", "3/", "a/b", "-1/2", "1/2/3", "1/" + "9" * 40])
def test_what_is_no_place_is_a_usage_error(admin: Admin, office: FakeOffice, after: str) -> None:
    assert admin("journal", "--after", after).code == 64
    assert office.calls == []


def test_following_goes_on_where_it_was_cut(admin: Admin, office: FakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a broker that stops, which ends the stream, or by a connection that is gone: nothing twice, nothing left out."""
    office.answers["TailJournal"] = [[part(*tale()[:2])], [part(*tale()[2:5]), GONE], [GONE], [part(*tale()[5:])], []]

    def sleep(_seconds: float) -> None:
        if len(office.requests("TailJournal")) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    told = admin("journal", "--follow", "--json")
    assert told.code == 0
    assert [json.loads(line)["seq"] for line in told.out.splitlines()] == list(range(1, 10))
    asked = [(one.after_chain, one.after_seq) for one in office.requests("TailJournal")]
    assert asked == [(0, 0), (1, 2), (1, 5), (1, 5)]


def test_a_broker_that_stays_away_ends_it(admin: Admin, office: FakeOffice) -> None:
    office.answers["TailJournal"] = [[GONE]]
    told = admin("journal", "--follow")
    assert told.code == 69
    assert len(office.requests("TailJournal")) == 1 + _stories._BROKEN


def test_a_refusal_ends_it_at_once(admin: Admin, office: FakeOffice) -> None:
    refusal = Refusal(code=grpc.StatusCode.PERMISSION_DENIED, reason="OPERATOR_UNKNOWN")
    office.answers["TailJournal"] = [[part(*tale()[:1]), refusal]]
    told = admin("journal", "--follow")
    assert (told.code, len(office.requests("TailJournal"))) == (77, 1)
