"""Networks, weekdays, attempts, approvals, residencies, longest ttls: each allows, refuses, and is told with its fix."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from broker.policy.decision import Denial
from broker.policy.language.load import parse
from broker.policy.problems import ScopeMapError
from broker.policy.windows import read_address
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, HEAD, a_map, allowed, ask, denied


def granting(**more: str) -> str:
    keys = {"workloads": "[load]", "workflows": "[etl]", "scopes": "[orders]"} | more
    return "grants: {nightly: {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ScopeMapError) as caught:
        parse(text, "map.yaml", KINDS)
    return [str(problem) for problem in caught.value.problems]


OFFICE = granting(when='{networks: [10.1.0.0/16, "2001:db8::/32"]}')


@pytest.mark.parametrize("address", ["10.1.2.3", "2001:db8::1", "::ffff:10.1.0.9"])
def test_a_call_from_one_of_the_networks_is_allowed(address: str) -> None:
    allowed(a_map(OFFICE), ask(address=address))


@pytest.mark.parametrize("address", ["10.2.0.1", "2001:db9::1", "", "junk", "10.1.0.0/16", "010.1.0.1", "fe80::1%eth0"])
def test_a_call_from_elsewhere_or_from_nowhere_known_is_not(address: str) -> None:
    assert denied(a_map(OFFICE), ask(address=address)).reason is Denial.SOURCE_NOT_ALLOWED


def test_the_fix_names_the_address() -> None:
    fix = denied(a_map(OFFICE), ask(address="10.2.0.1")).smallest_fix
    assert fix == ('grants:\n  nightly:\n    when:\n      networks: ["10.1.0.0/16", "2001:db8::/32", "10.2.0.1/32"]')


@pytest.mark.parametrize(("address", "refused"), [("10.1.0.1", True), ("", True), ("8.8.8.8", False)])
def test_a_deny_of_networks_also_meets_whom_nobody_knows(address: str, refused: bool) -> None:  # noqa: FBT001
    scope_map = a_map(granting() + "denies: {lab: {when: {networks: [10.0.0.0/8]}}}\n")
    if refused:
        assert denied(scope_map, ask(address=address)).reason is Denial.DENY_RULE
    else:
        allowed(scope_map, ask(address=address))


def test_weekdays_are_those_on_which_a_window_begins() -> None:
    nights = a_map(granting(when='{daily: {from: "22:00", to: "06:00", tz: Europe/Berlin, days: [fri]}}'))
    friday = datetime(2026, 6, 5, tzinfo=UTC)
    for hours, is_open in ((19, False), (20, True), (27, True), (28, False), (44, False), (-1, False)):
        at = friday.fromtimestamp(friday.timestamp() + hours * 3600, UTC)
        if is_open:
            allowed(nights, ask(now=at))
        else:
            assert denied(nights, ask(now=at)).reason is Denial.OUTSIDE_WINDOW


def test_attempts_are_counted_from_one() -> None:
    scope_map = a_map(granting(attempts="2"))
    allowed(scope_map, ask(attempt=2))
    refused = denied(scope_map, ask(attempt=3))
    assert refused.reason is Denial.ATTEMPTS_EXHAUSTED
    assert refused.smallest_fix == "grants:\n  nightly:\n    attempts: 3"


OWNED = BASE.replace('step/load"}', 'step/load", owners: [ann]}')


@pytest.mark.parametrize(
    ("tiers", "scope", "grant", "expected"),
    [
        ("", "", "0", 0),
        ("tiers: {low: {approvals: 1}}\n", "", "0", 1),
        ("tiers: {low: {approvals: 1}}\n", ", approvals: 2", "0", 2),
        ("", ", approvals: 1", "3", 3),
    ],
)
def test_the_most_approvals_that_anyone_asks_for_count(tiers: str, scope: str, grant: str, expected: int) -> None:
    base = OWNED.replace("orders-ro}, tier: low}", f"orders-ro}}, tier: low{scope}}}")
    assert allowed(a_map(tiers + granting(approvals=grant), base=base), ask()).approvals == expected


@pytest.mark.parametrize("rules", ["tiers: {low: {approvals: 1}}\n" + granting(), granting(approvals="1")])
def test_whom_nobody_owns_cannot_need_approval(rules: str) -> None:
    found = problems(BASE + rules)
    assert len(found) == 1
    assert "'orders' needs approval, and workload 'load' has no owners who could not give it" in found[0]


def test_several_failures_are_one_piece_to_paste() -> None:
    scope_map = a_map(granting(attempts="1", workflows="[other]", when="{until: 2026-01-01, networks: [10.0.0.0/8]}"))
    refused = denied(scope_map, ask(attempt=2, address="9.9.9.9"))
    assert refused.smallest_fix.splitlines() == [
        "grants:",
        "  nightly:",
        "    workflows: [other, etl]",
        "    when:",
        '      until: "2026-06-03"',
        '      networks: ["10.0.0.0/8", "9.9.9.9/32"]',
        "    attempts: 2",
    ]


PLACES = "residency: {eu: [eu-west-1, eu-central-1], us: [us-east-1]}\n"


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ("residency: [eu], fake: {role: r, data: {regions: [eu-west-1]}}", None),
        ("residency: [eu, us], fake: {role: r, data: {regions: [us-east-1, eu-west-1]}}", None),
        ("residency: [eu], fake: {role: r}", None),
        ("fake: {role: r, data: {regions: [mars-1]}}", None),
        ("residency: [eur], fake: {role: r}", "no residency is named 'eur'; did you mean 'eu'?"),
        ("residency: [eu], fake: {role: r, data: {regions: [us-east-1]}}", "region us-east-1 is not in eu"),
        ("residency: [eu], fake: {role: r, data: {regions: []}}", "it may be used in any region; name its regions"),
    ],
)
def test_a_scope_s_regions_are_where_its_data_lives(scope: str, told: str | None) -> None:
    text = HEAD + PLACES + f"scopes: {{x: {{tier: low, {scope}}}}}\n"
    if told is None:
        assert parse(text, "map.yaml", KINDS).residency["eu"] == {"eu-west-1", "eu-central-1"}
    else:
        assert [told in one for one in problems(text)] == [True]


def test_a_tier_s_longest_ttl_holds_for_its_scopes() -> None:
    found = problems(BASE + "tiers: {high: {longest_ttl: 4m}}\n")
    assert found == ["map.yaml:11:3: ttl 5m: tier high takes at most 4m"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (granting(when="{networks: [10.0.0.1/8]}"), "without host bits"),
        (granting(when="{networks: [everywhere]}"), "expected a network"),
        (granting(when="{networks: []}"), "an empty list never allows anything"),
        (granting(when=f"{{networks: {json.dumps([f'10.0.{n}.0/24' for n in range(65)])}}}"), "more than 64 networks"),
        (granting(when='{daily: {from: "01:00", to: "02:00", tz: UTC, days: [monday]}}'), "a day is one of mon, tue"),
        (granting(when='{daily: {from: "01:00", to: "02:00", tz: UTC, days: []}}'), "an empty list"),
        (granting(attempts="0"), "between 1 and 1000"),
        (granting(attempts='"2"'), "expected a whole number, found text"),
        (granting(approvals="-1"), "between 0 and 5"),
        ("residency: {eu: eu-west-1}\n", "expected a list of regions"),
        ("residency: {eu: []}\n", "expected a list of regions"),
        ("residency: {'e u': [x]}\n", "not a name"),
        ("denies: {d: {attempts: 2}}\n", "unknown key 'attempts'"),
    ],
)
def test_what_cannot_be_a_condition(rules: str, told: str) -> None:
    assert any(told in one for one in problems(BASE + rules)), problems(BASE + rules)


@pytest.mark.parametrize(
    "text", ["", " 10.0.0.1", "10.0.0.1 ", "1", "0x7f.1", "10.0.0.1:80", "[::1]", "::1/128", "٣.1.1.1"]
)
def test_what_is_no_address(text: str) -> None:
    assert read_address(text) is None


def test_a_deny_of_digests_meets_a_launcher_that_says_none() -> None:
    bad = "sha256:" + "b" * 64
    scope_map = a_map(granting() + f"denies: {{d: {{definition_digest: ['{bad}']}}}}\n")
    for digest in ("", bad):
        assert denied(scope_map, ask(proven=True, definition_digest=digest)).reason is Denial.DENY_RULE
    allowed(scope_map, ask(proven=True, definition_digest="sha256:" + "a" * 64))


def test_a_credential_lives_as_long_as_the_grants_that_give_this_very_one() -> None:
    base = (
        HEAD
        + """
workloads:
  a: {id: "spiffe://prod.acme.internal/{place}/{other}"}
  b: {id: "spiffe://prod.acme.internal/{other}/{place}"}
scopes:
  x: {fake: {role: "{place}"}, tier: low}
"""
    )
    grants = """grants:
  short: {workloads: [a], workflows: ["*"], scopes: [x], when: {until: 2026-06-02}}
  long: {workloads: [b], workflows: ["*"], scopes: [x]}
"""
    decision = allowed(a_map(grants, base=base), ask("x", agent="spiffe://prod.acme.internal/p/t"))
    assert (decision.params, decision.until) == ({"role": "p"}, datetime(2026, 6, 2, tzinfo=UTC))
    same = allowed(a_map(grants, base=base), ask("x", agent="spiffe://prod.acme.internal/p/p"))
    assert same.until is None


def test_the_end_of_the_calendar_is_refused_and_raises_nothing() -> None:
    late = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    for when in ('{until: 2026-01-01, daily: {from: "22:00", to: "06:00", tz: Asia/Tokyo}}', "{until: 2026-01-01}"):
        denied(a_map(granting(when=when)), ask(now=late))
