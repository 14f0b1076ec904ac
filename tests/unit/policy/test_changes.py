from __future__ import annotations

import pytest

from broker.policy.changes import describe
from broker.policy.load import parse
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, HEAD, a_map

GRANTS = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders, lake]}\n"


def test_a_map_against_itself_has_no_changes() -> None:
    assert describe(a_map(GRANTS), a_map(GRANTS)) == {}


def test_where_a_rule_stands_and_what_comments_say_is_no_change() -> None:
    assert describe(a_map(GRANTS), a_map("# moved\n\n" + GRANTS)) == {}


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
    assert describe(a_map(GRANTS), a_map(text)) == change


def test_a_scope_that_changes_in_place_is_named() -> None:
    other = a_map(GRANTS, base=BASE.replace("role: orders-ro", "role: orders-rw"))
    assert describe(a_map(GRANTS), other) == {"scopes": {"changed": ["orders"]}}


def test_without_an_older_one_all_is_new() -> None:
    assert describe(None, a_map(GRANTS))["grants"] == {"added": ["nightly"]}


def test_a_long_list_is_cut_and_says_by_how_much() -> None:
    workloads = "\n".join(f"  w{number:03}: {{id: 'spiffe://{DOMAIN}/w/{number}'}}" for number in range(80))
    many = parse(f"{HEAD}workloads:\n{workloads}\nscopes: {{}}\ngrants: {{}}\n", "map.yaml", KINDS)
    added = describe(None, many)["workloads"]["added"]
    assert (len(added), added[-1]) == (51, "and 30 more")
