from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.policy.analysis import cells
from broker.policy.analysis.cells import TooManyCombinations
from broker.policy.language.load import parse
from broker.policy.live import changes
from broker.policy.live.changes import describe, rules, widens_high
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, HEAD, a_map

NOW = datetime(2026, 6, 1, tzinfo=UTC)
GRANTS = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders, lake]}\n"


def test_a_map_against_itself_has_no_changes() -> None:
    assert rules(a_map(GRANTS), a_map(GRANTS)) == {}


def test_where_a_rule_stands_and_what_comments_say_is_no_change() -> None:
    assert rules(a_map(GRANTS), a_map("# moved\n\n" + GRANTS)) == {}


@pytest.mark.parametrize(
    ("text", "change"),
    [
        (GRANTS.replace("lake", "scratch"), {"grants": {"changed": ["nightly"]}}),
        (GRANTS.replace("nightly", "hourly"), {"grants": {"added": ["hourly"], "removed": ["nightly"]}}),
        (GRANTS + "denies:\n  no: {scopes: [lake]}\n", {"denies": {"added": ["no"]}}),
        (GRANTS + "residency:\n  eu: [eu-west-1]\n", {"residency": {"added": ["eu"]}}),
        (
            GRANTS + f"launchers:\n  s: {{id: 'spiffe://{DOMAIN}/s', workloads: [load], workflows: [etl]}}\n",
            {"launchers": {"added": ["s"]}},
        ),
    ],
)
def test_what_differs_is_named(text: str, change: object) -> None:
    assert rules(a_map(GRANTS), a_map(text)) == change


def test_a_scope_that_changes_in_place_is_named() -> None:
    other = a_map(GRANTS, base=BASE.replace("role: orders-ro", "role: orders-rw"))
    assert rules(a_map(GRANTS), other) == {"scopes": {"changed": ["orders"]}}


def test_without_an_older_one_all_is_new() -> None:
    assert rules(None, a_map(GRANTS))["grants"] == {"added": ["nightly"]}


def test_a_long_list_is_cut_and_says_by_how_much() -> None:
    workloads = "\n".join(f"  w{number:03}: {{id: 'spiffe://{DOMAIN}/w/{number}'}}" for number in range(80))
    many = parse(f"{HEAD}workloads:\n{workloads}\nscopes: {{}}\ngrants: {{}}\n", "map.yaml", KINDS)
    added = rules(None, many)["workloads"]["added"]
    assert (len(added), added[-1]) == (51, "and 30 more")


LATER = GRANTS.replace("workflows: [etl]", "workflows: [etl, ml]")


def test_the_effect_is_the_plan_s() -> None:
    told = describe(a_map(GRANTS), a_map(LATER), NOW)
    assert told["rules"] == {"grants": {"changed": ["nightly"]}}
    assert (told["effect"]["widens"], told["effect"]["widens_high"]) == (True, True)
    assert any("lake" in line and "ml" in line for line in told["effect"]["lines"])
    assert "effect" not in describe(None, a_map(GRANTS), NOW)


@pytest.mark.parametrize(
    ("old", "new", "widens"),
    [
        (None, GRANTS, True),  # lake is high
        (GRANTS, LATER, True),
        (LATER, GRANTS, False),
        (GRANTS, GRANTS.replace("orders, lake", "lake, scratch"), False),  # only what is low
        (GRANTS + "denies: {no: {scopes: [lake]}}\n", GRANTS, True),
        (GRANTS, "# other words\n" + GRANTS, False),
        # Under another name, of a lower tier: the role is what it was.
        (GRANTS, GRANTS + "  more: {workloads: [plain], workflows: ['*'], scopes: [copy]}\n", True),
    ],
)
def test_what_is_high_is_widened_or_not(old: str | None, new: str, widens: bool) -> None:  # noqa: FBT001
    copy = BASE.replace("scopes:\n", 'scopes:\n  copy: {fake: {role: "lake/{workflow}/x"}, tier: low}\n')
    if "copy" in new:
        copy = copy.replace('plain"}', 'plain/{workflow}"}')
        assert widens_high(a_map(old or "", base=copy), a_map(new, base=copy), NOW) is widens
        return
    assert widens_high(a_map(old) if old else None, a_map(new), NOW) is widens


def test_a_tier_that_falls_is_a_loosening_also_where_nobody_has_the_scope() -> None:
    lower = BASE.replace('x"}, tier: high', 'x"}, tier: low')
    assert lower != BASE
    assert widens_high(a_map(), a_map(base=lower), NOW)
    assert not widens_high(a_map(base=lower), a_map(), NOW)


@pytest.mark.parametrize("error", [TooManyCombinations(), RecursionError()], ids=["too many", "a mistake of ours"])
def test_what_cannot_be_said_counts_as_widened(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(changes, "plan", give_up)
    assert widens_high(a_map(GRANTS), a_map(GRANTS), NOW)
    assert "unknown" in describe(a_map(GRANTS), a_map(GRANTS), NOW)["effect"]


def test_a_map_with_very_many_combinations_is_not_waited_for() -> None:
    """Its 30 workflows, networks and attempts are some 30,000 questions."""
    entry = "  g{0}: {{workloads: [plain], workflows: [w{0}], scopes: [orders], attempts: {1}, when: {{networks: [128.0.0.0/{1}]}}}}\n"
    hostile = "grants:\n" + "".join(entry.format(number, number + 1) for number in range(30))
    hostile = hostile.replace("workflows: [", "workflows: [" + ", ".join(f"x{number}" for number in range(30)) + ", ")
    maps = a_map(hostile), a_map(hostile + "denies: {no: {scopes: [orders]}}\n")
    assert "unknown" in describe(*maps, NOW)["effect"]


@pytest.mark.parametrize(
    ("prepared", "when"),
    [
        ("instants", "daily: {{from: '{0:02}:00', to: '{1:02}:{0:02}', tz: Europe/Berlin}}"),
        ("addresses", "networks: [{many}]"),
    ],
)
def test_what_must_be_prepared_counts_too(prepared: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few questions, for which many times or networks are combined beforehand."""
    monkeypatch.setattr(cells, prepared, lambda *_: pytest.fail("was begun"))
    rules = "grants:\n"
    for number in range(50):
        many = ", ".join(f"10.{number}.{part}.0/24" for part in range(60))
        said = when.format(number % 20, 20 + number // 20, many=many)
        rules += f"  g{number}: {{workloads: [plain], workflows: ['*'], scopes: [orders], when: {{{said}}}}}\n"
    told = describe(a_map(rules), a_map(rules + "denies: {no: {scopes: [orders]}}\n"), NOW)
    assert "too many" in told["effect"]["unknown"]
