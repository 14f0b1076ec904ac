"""Team files: within their bounds, each failing alone where a last good one is kept."""

from __future__ import annotations

import pytest

from broker.policy.decision import Denial
from broker.policy.language.files import Memory
from broker.policy.language.load import Loaded, load_files
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import LOAD, allowed, ask, denied

PAY = "spiffe://prod.acme.internal/team/pay/job/settle"
ROOT = """version: 1
environment: prod
trust_domain: prod.acme.internal
workloads:
  load: {id: "spiffe://{trust_domain}/workflow/{workflow}/step/load"}
  pay-job: {id: "spiffe://{trust_domain}/team/pay/job/{job}", owners: [group:pay]}
scopes:
  orders: {fake: {role: orders-ro}, tier: low}
  pay-root: {fake: {role: pay-root}, tier: high}
grants:
  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}
never:
  no-high-for-pay: {agents: "spiffe://prod.acme.internal/team/pay/job/*", tier: high}
teams:
  pay: {path: teams/pay.yaml, scopes_prefix: pay-, max_tier: elevated, workloads: [pay-job]}
  web: {path: teams/web.yaml, scopes_prefix: web-, max_tier: low, workloads: [load], roles: ["shared", "w/*"]}
"""
PAY_FILE = """version: 1
scopes:
  pay-db: {fake: {role: pay-ro}, tier: elevated}
grants:
  settle: {workloads: [pay-job], workflows: ["*"], scopes: [pay-db]}
tests:
  - {as: "spiffe://prod.acme.internal/team/pay/job/settle", ask: pay-db, expect: allow}
"""
WEB_FILE = """version: 1
scopes:
  web-cache: {fake: {role: w/cache}, tier: low}
  web-shared: {fake: {role: shared}, tier: low}
grants:
  pages: {workloads: [load], workflows: ["*"], scopes: [web-cache, web-shared]}
"""


def load(root: str = ROOT, pay: str = PAY_FILE, web: str = WEB_FILE, kept: dict[str, str] | None = None) -> Loaded:
    contents = {"root.yaml": root, "teams/pay.yaml": pay, "teams/web.yaml": web}
    return load_files(
        Memory(contents={name: text.encode() for name, text in contents.items()}),
        "root.yaml",
        KINDS,
        kept=None if kept is None else {name: text.encode() for name, text in kept.items()},
    )


def problems(root: str = ROOT, pay: str = PAY_FILE, web: str = WEB_FILE) -> list[str]:
    with pytest.raises(ScopeMapError) as caught:
        load(root, pay, web)
    return [str(problem) for problem in caught.value.problems]


def test_a_team_s_rules_are_the_map_s_and_say_where_they_stand() -> None:
    loaded = load()
    decision = allowed(loaded.map, ask("pay-db", agent=PAY))
    assert str(decision.rule) == "pay:settle (pay.yaml:5:3)"
    assert loaded.map.grants["pay:settle"].team == "pay"
    assert sorted(loaded.contents) == ["root.yaml", "teams/pay.yaml", "teams/web.yaml"]
    assert loaded.map.tests[0].rule.name == "pay:tests.1"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("pay-db: {fake", "db: {fake"), "teams/pay.yaml:3:3: the names of team pay's scopes begin with 'pay-'"),
        (("tier: elevated", "tier: high"), "teams/pay.yaml:3:40: above elevated, the highest tier of team pay"),
        (("role: pay-ro", "role: hr-admin"), "teams/pay.yaml:3:18: 'hr-admin' is not among what team pay may use"),
        (("[pay-job]", "[load]"), "teams/pay.yaml:5:24: workload 'load' is not one that team pay may grant to"),
        (("[pay-job]", "[lod]"), "teams/pay.yaml:5:24: no workload is named 'lod'; did you mean 'load'?"),
        (("[pay-db]", "[orders]"), "teams/pay.yaml:5:61: team pay grants scopes that begin with 'pay-'"),
        (("[pay-db]", "[pay-root]"), "teams/pay.yaml:5:61: above elevated, the highest tier of team pay"),
        (("pay-db: {", "pay-root: {"), "teams/pay.yaml:3:3: is declared by scopes.pay-root (root.yaml:9:3) already"),
        (("version: 1", "version: 1\nnever: {}"), "teams/pay.yaml:2:1: unknown key 'never'"),
        (("version: 1", "version: 1\nworkloads: {}"), "teams/pay.yaml:2:1: unknown key 'workloads'"),
        (("version: 1", "version: 1\nextends: x"), "teams/pay.yaml:2:1: unknown key 'extends'"),
        (("grants:", "denies: {all: {}}\ngrants:"), "teams/pay.yaml:4:10: a team denies scopes of its own"),
        (("grants:", "denies: {all: {scopes: [orders]}}\ngrants:"), "a team denies scopes of its own"),
        # It would go when the file is bad, and what it denied would be given.
        (("grants:", "denies: {all: {scopes: [pay-root]}}\ngrants:"), "a team denies scopes of its own file"),
        # Another name makes nothing harmless.
        (("role: pay-ro", "role: pay-root"), "pay.yaml:3:42: below high, the tier of scopes.pay-root (root.yaml:9:3)"),
        (("settle:", "'a:b':"), "teams/pay.yaml:5:3: no ':' in it: team:rule is how a team's rules are named"),
    ],
)
def test_what_is_out_of_bounds_is_told_where_it_stands(change: tuple[str, str], told: str) -> None:
    found = problems(pay=PAY_FILE.replace(*change))
    assert any(told in problem for problem in found), found


def test_roles_of_providers_are_bounded_by_prefix_or_by_name() -> None:
    for role in ("shared2", "x/shared", "v/cache", "web-cache"):
        assert any("may use" in one for one in problems(web=WEB_FILE.replace("w/cache", role)))


def test_the_root_s_nevers_hold_for_teams() -> None:
    root = ROOT.replace("tier: high}\nteams", "tier: elevated}\nteams")
    (found,) = problems(root)
    assert found.startswith(
        "teams/pay.yaml:5:3: breaks never never.no-high-for-pay (root.yaml:13:3): it can give scope"
    )


def test_all_mistakes_of_all_teams_are_told_at_once() -> None:
    found = problems(pay="version: 2\n", web="\t")
    assert len(found) == 2
    assert found[0].startswith("teams/pay.yaml:1:10: this broker reads version 1")
    assert found[1].startswith("teams/web.yaml:1:1: indent with blanks")


def test_prefixes_and_paths() -> None:
    assert any(
        "'pay-db-' " not in one and "begins as 'pay-'" in one for one in problems(ROOT.replace("web-,", "pay-web-,"))
    )
    assert any(
        "teams/nope.yaml does not exist" in one for one in problems(ROOT.replace("teams/web.yaml", "teams/nope.yaml"))
    )
    assert any("expected the path" in one for one in problems(ROOT.replace("teams/web.yaml", "/etc/web.yaml")))


def test_a_test_of_the_root_may_ask_for_a_team_s_scope_that_is_there() -> None:
    test = "tests: [{as: 'spiffe://prod.acme.internal/x', ask: pay-SCOPE, expect: deny}]\n"
    assert load(ROOT + test.replace("SCOPE", "db")).map.tests
    assert problems(ROOT + test.replace("SCOPE", "typo")) == ["root.yaml:17:9: no scope is named 'pay-typo'"]


def test_a_bad_file_fails_alone_and_its_kept_one_stays() -> None:
    loaded = load(pay="version: 2\n", kept={"teams/pay.yaml": PAY_FILE})
    assert [str(one) for one in loaded.refused["pay"]] == ["teams/pay.yaml:1:10: this broker reads version 1"]
    assert str(allowed(loaded.map, ask("pay-db", agent=PAY)).rule) == "pay:settle (pay.yaml:5:3)"
    assert loaded.contents["teams/pay.yaml"] == PAY_FILE.encode()  # what is in force is what is kept
    allowed(loaded.map, ask("orders", agent=LOAD))
    allowed(loaded.map, ask("web-cache", agent=LOAD))


@pytest.mark.parametrize(
    "root",
    [
        ROOT.replace("max_tier: elevated", "max_tier: low"),
        ROOT.replace("tier: high}\nteams", "tier: elevated}\nteams"),  # never
        ROOT.replace("workloads: [pay-job]", "workloads: [load]"),
        ROOT.replace("scopes_prefix: pay-", "scopes_prefix: payments-"),
    ],
)
def test_a_kept_file_is_checked_again_by_today_s_bounds_and_nevers(root: str) -> None:
    loaded = load(root, pay="version: 2\n", kept={"teams/pay.yaml": PAY_FILE})
    assert list(loaded.refused) == ["pay"]
    assert denied(loaded.map, ask("pay-db", agent=PAY)).reason is Denial.UNKNOWN_SCOPE
    assert "teams/pay.yaml" not in loaded.contents
    allowed(loaded.map, ask("web-cache", agent=LOAD))


def test_without_a_kept_one_the_team_has_nothing_and_the_others_have_theirs() -> None:
    loaded = load(pay="version: 2\n", kept={})
    assert denied(loaded.map, ask("pay-db", agent=PAY)).reason is Denial.UNKNOWN_SCOPE
    allowed(loaded.map, ask("web-cache", agent=LOAD))


def test_a_bad_root_fails_as_a_whole_whatever_is_kept() -> None:
    with pytest.raises(ScopeMapError):
        load(ROOT + "nonsense: 1\n", kept={"root.yaml": ROOT, "teams/pay.yaml": PAY_FILE})


@pytest.mark.parametrize(("section", "rule"), [("denies", "{workloads: [pay-job]}"), ("grants", "x"), ("teams", "x")])
def test_no_rule_of_the_root_has_a_name_that_a_team_s_could_have(section: str, rule: str) -> None:
    root = (
        ROOT + f"{section}:\n  'pay:freeze': {rule}\n"
        if section == "denies"
        else ROOT.replace(f"{section}:\n", f"{section}:\n  'pay:freeze': {rule}\n")
    )
    assert any("no ':' in it" in one for one in problems(root))


def test_a_file_is_one_team_s() -> None:
    root = ROOT.replace("teams/web.yaml", "teams/pay.yaml")
    assert any("teams/pay.yaml is another part of this map" in one for one in problems(root))
    assert any("root.yaml is another part" in one for one in problems(ROOT.replace("teams/web.yaml", "root.yaml")))
    loaded = load(root, kept={})
    assert list(loaded.refused) == ["web"]
    assert sorted(loaded.contents) == ["root.yaml", "teams/pay.yaml"]  # what is in force is what it is known by


def test_what_bears_no_prefix_is_listed_or_nobody_s() -> None:
    arn = "arn:aws:iam::999999999999:role/admin/web-cache"
    assert any("may use" in one for one in problems(web=WEB_FILE.replace("w/cache", arn)))
    account = ROOT.replace('"w/*"', '"w/*", "arn:aws:iam::123456789012:role/web-*"').replace("'pay-'", "")
    assert any("may use" in one for one in problems(account, web=WEB_FILE.replace("w/cache", arn)))
    load(account, web=WEB_FILE.replace("w/cache", "arn:aws:iam::123456789012:role/web-cache"))


def test_a_path_is_relative_to_the_file_that_says_it_however_the_rest_is_narrowed() -> None:
    child = """version: 1
extends: base/root.yaml
environment: prod
trust_domain: prod.acme.internal
teams: {web: null, pay: {max_tier: elevated}}
"""
    contents = {
        "prod.yaml": child,
        "base/root.yaml": ROOT,
        "base/teams/pay.yaml": PAY_FILE,
        "teams/pay.yaml": "nonsense",
    }
    loaded = load_files(Memory(contents={name: text.encode() for name, text in contents.items()}), "prod.yaml", KINDS)
    assert str(allowed(loaded.map, ask("pay-db", agent=PAY)).rule) == "pay:settle (pay.yaml:5:3)"


def test_a_team_s_file_that_makes_an_extending_map_wider_is_refused_alone() -> None:
    child = """version: 1
extends: root.yaml
environment: prod
trust_domain: prod.acme.internal
scopes: {pay-root: null}
"""
    again = PAY_FILE.replace("scopes:\n", "scopes:\n  pay-root: {fake: {role: pay-x}, tier: low}\n").replace(
        "[pay-db]", "[pay-db, pay-root]"
    )

    def extended(pay: str, kept: dict[str, str] | None) -> Loaded:
        contents = {"prod.yaml": child, "root.yaml": ROOT, "teams/pay.yaml": pay, "teams/web.yaml": WEB_FILE}
        return load_files(
            Memory(contents={name: text.encode() for name, text in contents.items()}),
            "prod.yaml",
            KINDS,
            kept=None if kept is None else {name: text.encode() for name, text in kept.items()},
        )

    with pytest.raises(ScopeMapError, match=r"widens root\.yaml"):
        extended(again, None)
    for kept, reason in (({}, Denial.UNKNOWN_SCOPE), ({"teams/pay.yaml": again}, Denial.UNKNOWN_SCOPE)):
        loaded = extended(again, kept)
        assert list(loaded.refused) == ["pay"]
        assert denied(loaded.map, ask("pay-db", agent=PAY)).reason is reason
        allowed(loaded.map, ask("web-cache", agent=LOAD))
    loaded = extended(again, {"teams/pay.yaml": PAY_FILE})
    assert list(loaded.refused) == ["pay"]
    allowed(loaded.map, ask("pay-db", agent=PAY))
