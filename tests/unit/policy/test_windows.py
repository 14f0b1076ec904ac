"""Time windows by the wall clock of a zone, also where that clock jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policy.decision import Denial
from broker.policy.durations import format_duration, parse_duration, parse_instant, parse_time
from broker.policy.windows import Daily, Phase, When, zone
from tests.unit.policy.maps import a_map, allowed, ask, denied


def daily(start: str, end: str, tz: str = "Europe/Berlin") -> When:
    return When(daily=Daily(start=parse_time(start), end=parse_time(end), tz=zone(tz)))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-01-10T21:00", "2026-01-11T05:00"),  # 22:00 in Berlin: the start is included
        ("2026-01-10T20:59", None),
        ("2026-01-11T04:59", "2026-01-11T05:00"),
        ("2026-01-11T05:00", None),  # the end is not
        ("2026-07-10T20:00", "2026-07-11T04:00"),  # summer time
        ("2026-07-10T22:30", "2026-07-11T04:00"),  # past midnight in Berlin
        ("2026-07-10T10:00", None),
    ],
)
def test_a_window_over_midnight_follows_its_own_zone(now: str, ends: str | None) -> None:
    phase, until = daily("22:00", "06:00").look(at(now))
    assert (phase, until) == ((Phase.OPEN, at(ends)) if ends else (Phase.OUTSIDE, None))


def test_a_window_whose_end_spring_skips_ends_at_the_jump() -> None:
    window = daily("22:00", "02:30")  # 2026-03-29: 02:00 becomes 03:00, at 01:00 UTC
    assert window.look(at("2026-03-29T00:45")) == (Phase.OPEN, at("2026-03-29T01:00"))
    assert window.look(at("2026-03-29T01:00"))[0] is Phase.OUTSIDE


def test_a_window_whose_end_autumn_repeats_ends_at_the_first() -> None:
    window = daily("22:00", "02:30")  # 2026-10-25: 03:00 becomes 02:00, at 01:00 UTC
    assert window.look(at("2026-10-25T00:15")) == (Phase.OPEN, at("2026-10-25T00:30"))
    assert window.look(at("2026-10-25T00:45"))[0] is Phase.OUTSIDE
    assert window.look(at("2026-10-25T01:15")) == (Phase.OPEN, at("2026-10-25T01:30"))


TIMES = st.times().map(lambda t: t.replace(second=0, microsecond=0))
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
)


@given(TIMES, TIMES, ZONES, st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)))  # noqa: DTZ001  # made aware below
def test_while_open_a_window_stays_open_until_it_says_it_ends(
    start: object, end: object, tz: str, wall: datetime
) -> None:
    if start == end:
        return
    window = Daily(start=start, end=end, tz=zone(tz))  # type: ignore[arg-type]  # hypothesis' times
    now = wall.replace(tzinfo=UTC)
    if not window.contains(now):
        return
    until = window.ends(now)
    assert now < until <= now + timedelta(hours=26)
    for part in range(10):
        assert window.contains(now + (until - now) * part / 10)


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))])))
def test_any_instant_is_answered_without_an_exception(now: datetime) -> None:
    for when in (daily("22:00", "06:00"), daily("00:00", "23:59"), When(until=at("2027-01-01T00:00")), When()):
        when.look(now)


NAIVE = datetime(2026, 6, 1, 23)  # noqa: DTZ001  # the point
EDGES = [NAIVE, datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]


@pytest.mark.parametrize("now", EDGES)
def test_what_cannot_be_evaluated_allows_nothing_and_denies(now: datetime) -> None:
    window = "when: {daily: {from: '22:00', to: '21:59', tz: America/St_Johns}}"
    if now.year == 9999:
        window = window.replace("America/St_Johns", "Asia/Kathmandu")  # where that year is already over
    granted = f"grants:\n  g: {{workloads: [load], workflows: [etl], scopes: [orders], {window}}}\n"
    refused = denied(a_map(granted), ask(now=now))
    assert (refused.reason, "cannot be evaluated" in refused.message) == (Denial.OUTSIDE_WINDOW, True)
    always = "grants:\n  g: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
    stop = f"denies:\n  stop: {{scopes: [orders], {window}}}\n"
    assert denied(a_map(always + stop), ask(now=now)).reason is Denial.DENY_RULE


def test_a_grant_is_over_at_its_until_and_short_just_before() -> None:
    scope_map = a_map(
        "grants:\n  g: {workloads: [load], workflows: [etl], scopes: [orders], when: {until: 2026-06-02}}\n"
    )
    assert allowed(scope_map, ask(now=at("2026-06-01T23:59"))).until == at("2026-06-02T00:00")
    assert denied(scope_map, ask(now=at("2026-06-01T23:59:01"))).reason is Denial.TTL_TOO_SHORT
    assert denied(scope_map, ask(now=at("2026-06-02T00:00"))).reason is Denial.GRANT_OVER


def test_of_window_and_until_the_sooner_ends_it() -> None:
    window = Daily(start=parse_time("10:00"), end=parse_time("18:00"), tz=UTC)
    when = When(until=at("2026-06-01T15:00"), daily=window)
    assert when.look(at("2026-06-01T12:00")) == (Phase.OPEN, at("2026-06-01T15:00"))


@pytest.mark.parametrize(
    "text", ["", "10", "10 m", "1h30m", "0m", "-5m", "1.5h", "10M", "\uff110m", "99999999s", 600, None]
)
def test_a_duration_is_one_number_and_one_unit(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.integers(1, 10**6), st.sampled_from("smhd"))
def test_durations_read_back_what_they_write(number: int, unit: str) -> None:
    span = parse_duration(f"{number}{unit}")
    assert parse_duration(format_duration(span)) == span


def test_instants_have_a_zone_or_are_a_day_in_utc() -> None:
    assert parse_instant("2027-01-01") == at("2027-01-01T00:00")
    assert parse_instant("2027-01-01T02:00+02:00") == at("2027-01-01T00:00")
    for bad in ("2027-01-01T00:00", "20270101", "tomorrow", "2027-13-01", 5, "0001-01-01T00:00+14:00"):
        with pytest.raises(ValueError, match="expected a date"):
            parse_instant(bad)
