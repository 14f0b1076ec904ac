"""What one map answers to one question."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

import pytest

from broker.model import Bind, Revocability, Tier
from broker.policy import index
from broker.policy.decision import Concurrent, Denial, Denied
from broker.policy.index import Index
from broker.policy.language.document import read_document
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD, a_map, allowed, ask, denied

NIGHTLY = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
DIGEST = "sha256:" + "a" * 64


def grant(**fields: str) -> str:
    entry = {"workloads": "[load]", "workflows": "[etl]", "scopes": "[orders]"} | fields
    return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"


def granting(**fields: str) -> ScopeMap:
    return a_map(f"grants:\n  nightly: {grant(**fields)}\n")


def test_a_grant_that_names_it_allows_with_its_rule_and_the_scope_s_bounds() -> None:
    decision = allowed(granting(scopes="[lake]", max_step="2h"), ask("lake"))
    assert decision.params == {"role": "lake/etl/x"}
    assert (decision.provider, decision.tier, decision.revocability) == ("fake", Tier.HIGH, Revocability.EXACT)
    assert (decision.ttl, decision.max_ttl) == (timedelta(minutes=5), timedelta(hours=1))
    assert (decision.max_step, decision.concurrent, decision.until) == (timedelta(hours=2), Concurrent.REFUSE, None)
    assert (decision.workload, decision.captures) == ("load", {"workflow": "etl"})
    assert str(decision.rule) == "nightly (map.yaml:14:3)"


def test_defaults_are_15_minutes_no_successors_and_a_day() -> None:
    decision = allowed(a_map(NIGHTLY), ask())
    assert decision.ttl == decision.max_ttl == timedelta(minutes=15)
    assert decision.max_step == timedelta(hours=24)


def work(scope_map: ScopeMap, scope: str, reason: Denial) -> int:
    """Calls that one decision makes, once everything that is kept between decisions is there."""
    steps = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal steps
        steps += event == "call"

    scope_map.decide(ask(scope))
    sys.setprofile(count)
    try:
        found = scope_map.decide(ask(scope))
    finally:
        sys.setprofile(None)
    assert isinstance(found, Denied)
    assert found.reason is reason
    return steps


def test_an_unknown_scope_costs_the_same_whatever_the_map_holds() -> None:
    """Anybody may ask, and what it takes must not tell what there is."""

    def asked(scopes: int) -> int:
        more = "".join(f"  asked-{number}: {{fake: {{role: x}}, tier: low}}\n" for number in range(scopes))
        return work(a_map(more), "asked-for", Denial.UNKNOWN_SCOPE)

    assert asked(0) == asked(300) < 300


def looks(scope_map: ScopeMap, scope: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a decision first asks the map's index for, in order."""
    asked: list[str] = []

    def noting(name: str, look: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            asked.append(name)
            return look(*arguments)

        return noted

    with monkeypatch.context() as patch:
        for name in ("matches", "given"):
            patch.setattr(Index, name, noting(name, getattr(Index, name)))
        scope_map.decide(ask(scope))
    return asked


def test_an_unknown_scope_costs_what_anothers_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are looked for in the same places: how long it takes must not tell them apart."""
    scope_map = granting(scopes="[lake]")
    unknown = work(scope_map, "ordres", Denial.UNKNOWN_SCOPE)
    assert abs(work(scope_map, "orders", Denial.NO_GRANT) - unknown) <= 10  # the words for operators
    assert looks(scope_map, "ordres", monkeypatch) == looks(scope_map, "orders", monkeypatch) == ["matches", "given"]


def test_an_empty_map_allows_nothing() -> None:
    decision = denied(a_map(), ask())
    assert (decision.reason, decision.known) == (Denial.NO_GRANT, False)


@pytest.mark.parametrize(
    ("agent", "scope", "reason"),
    [
        (LOAD, "nothing", Denial.UNKNOWN_SCOPE),
        (LOAD, "lake", Denial.NO_GRANT),
        (f"spiffe://{DOMAIN}/plain", "orders", Denial.NO_GRANT),
        (f"spiffe://{DOMAIN}/elsewhere", "orders", Denial.NO_WORKLOAD),
        ("spiffe://evil.example/workflow/etl/step/load", "orders", Denial.NO_WORKLOAD),
        (f"spiffe://{DOMAIN}/workflow/../step/load", "orders", Denial.NO_WORKLOAD),
        (f"spiffe://{DOMAIN}/workflow/etl/step/load/", "orders", Denial.NO_WORKLOAD),
        (f"spiffe://{DOMAIN}/workflow/etl/step/load/more", "orders", Denial.NO_WORKLOAD),
        ("", "orders", Denial.NO_WORKLOAD),
    ],
)
def test_what_no_grant_gives_is_not_known_to_the_agent(agent: str, scope: str, reason: Denial) -> None:
    decision = denied(a_map(NIGHTLY), ask(scope, agent=agent))
    assert (decision.reason, decision.known) == (reason, False)


@pytest.mark.parametrize("claim", ["other", "ETL", "etl ", ""])
def test_a_claim_must_be_what_the_certificate_says(claim: str) -> None:
    decision = denied(granting(workflows='["*"]'), ask(workflow=claim))
    assert decision.reason is Denial.CLAIM_MISMATCH
    assert decision.rule is not None
    assert decision.rule.name == "workloads.load"


def test_a_certificate_that_fits_two_workloads_is_bound_by_both() -> None:
    base = BASE.replace("workloads:\n", f'workloads:\n  loose: {{id: "spiffe://{DOMAIN}/workflow/{{w}}/step/load"}}\n')
    loose = a_map("grants:\n  nightly: " + grant(workloads="[loose]", workflows="[other]"), base=base)
    assert denied(loose, ask(workflow="other")).reason is Denial.CLAIM_MISMATCH


def test_another_workflow_is_refused_with_yaml_that_would_allow_it() -> None:
    decision = denied(a_map(NIGHTLY), ask(agent=LOAD.replace("etl", "adhoc"), workflow="adhoc"))
    assert (decision.reason, decision.known) == (Denial.WORKFLOW_NOT_GRANTED, True)
    assert decision.smallest_fix == "grants:\n  nightly:\n    workflows: [etl, adhoc]"
    fixed = NIGHTLY.replace("[etl]", "[etl, adhoc]")
    allowed(a_map(fixed), ask(agent=LOAD.replace("etl", "adhoc"), workflow="adhoc"))


def test_a_scope_not_granted_is_refused_with_yaml_that_would_allow_it() -> None:
    decision = denied(a_map(NIGHTLY), ask("lake"))
    assert decision.smallest_fix == "grants:\n  nightly:\n    scopes: [orders, lake]"
    assert str(decision.rule) == "nightly (map.yaml:14:3)"


@pytest.mark.parametrize(
    "hostile", ["x]\n  evil: {workflows: ['*']", "true", "a: b", "\x1b[2J", "x\u202e", "- a", "a" * 5000]
)
def test_a_fix_never_carries_an_agent_s_words_as_yaml(hostile: str) -> None:
    scope_map = granting(workloads="[plain]")
    decision = denied(scope_map, ask(agent=f"spiffe://{DOMAIN}/plain", workflow=hostile))
    assert (decision.smallest_fix + decision.message).replace("\n", "").isprintable()
    data = read_document(decision.smallest_fix, "fix").data
    assert set(data) == {"grants"}
    assert len(data["grants"]["nightly"]["workflows"]) == 2


def test_of_several_grants_the_first_is_the_rule_the_last_to_end_counts_and_the_strictest_bounds_hold() -> None:
    scope_map = a_map(
        "grants:\n"
        f"  closed: {grant(workflows='[other]')}\n"
        f"  first: {grant(max_step='3h', concurrent='supersede', when='{until: 2027-01-01}')}\n"
        f"  second: {grant(max_step='1h', workflows=chr(34).join(['[', '*', ']']), when='{until: 2027-02-01}')}\n"
    )
    decision = allowed(scope_map, ask())
    assert decision.rule.name == "first"
    assert decision.until == datetime(2027, 2, 1, tzinfo=UTC)
    assert decision.max_step == timedelta(hours=1)
    assert decision.concurrent is Concurrent.REFUSE


@pytest.mark.parametrize(
    ("first", "second", "bind"),
    [
        ({}, {}, Bind.IDENTITY),
        ({"bind": "identity"}, {"bind": "identity"}, Bind.IDENTITY),
        ({"bind": "key"}, {}, Bind.KEY),
        ({}, {"bind": "key"}, Bind.KEY),
        ({}, {"bind": "key", "workflows": "[other]"}, Bind.IDENTITY),  # one that does not match demands nothing
    ],
)
def test_bind_is_to_the_key_when_one_of_the_matching_grants_says_so(
    first: dict[str, str], second: dict[str, str], bind: Bind
) -> None:
    rules = f"grants:\n  first: {grant(**first)}\n  second: {grant(**second)}\n"
    assert allowed(a_map(rules), ask()).bind is bind


def test_concurrent_supersedes_when_every_matching_grant_says_so() -> None:
    assert allowed(granting(concurrent="supersede"), ask()).concurrent is Concurrent.SUPERSEDE


@pytest.mark.parametrize(
    "deny",
    [
        "{scopes: [orders]}",
        "{workloads: [load]}",
        "{workflows: [etl]}",
        '{workflows: ["*"]}',
        "{workloads: [load], workflows: [etl], scopes: [orders]}",
        "{scopes: [orders], when: {daily: {from: '11:00', to: '13:00', tz: UTC}}}",
        "{scopes: [orders], when: {until: 2027-01-01}}",
        f"{{scopes: [orders], definition_digest: ['{DIGEST}']}}",  # not proven: cannot be evaluated
    ],
)
def test_deny_wins(deny: str) -> None:
    decision = denied(a_map(NIGHTLY + f"denies:\n  stop: {deny}\n"), ask())
    assert (decision.reason, decision.known) == (Denial.DENY_RULE, True)
    assert str(decision.rule) == "denies.stop (map.yaml:16:3)"


@pytest.mark.parametrize(
    "deny",
    [
        "{scopes: [lake]}",
        "{workloads: [plain]}",
        "{workflows: [other]}",
        "{scopes: [orders], when: {daily: {from: '13:00', to: '11:00', tz: UTC}}}",
        "{scopes: [orders], when: {until: 2026-01-01}}",
    ],
)
def test_a_deny_of_something_else_denies_nothing(deny: str) -> None:
    allowed(a_map(NIGHTLY + f"denies:\n  stop: {deny}\n"), ask())


def test_a_claimed_workflow_does_not_talk_itself_out_of_a_deny() -> None:
    rules = f"grants:\n  nightly: {grant(workloads='[plain]', workflows='[etl, other]')}\ndenies:\n  stop: {{workflows: [other]}}\n"
    asked = ask(agent=f"spiffe://{DOMAIN}/plain")
    decision = denied(a_map(rules), asked)
    assert "only its own claim" in decision.message
    allowed(a_map(rules), ask(agent=f"spiffe://{DOMAIN}/plain", proven=True))


def test_a_pinned_definition_needs_a_launcher_that_proves_it() -> None:
    scope_map = granting(definition_digest=f"['{DIGEST}']")
    assert denied(scope_map, ask()).reason is Denial.NEEDS_LAUNCHER
    assert denied(scope_map, ask(definition_digest=DIGEST)).reason is Denial.NEEDS_LAUNCHER
    assert denied(scope_map, ask(proven=True)).reason is Denial.DIGEST_NOT_PINNED
    allowed(scope_map, ask(proven=True, definition_digest=DIGEST))


def test_run_fills_a_template_only_when_proven() -> None:
    scope_map = a_map(
        f"grants:\n  g: {grant(workloads='[load, team]', workflows=chr(34).join('[*]'), scopes='[scratch]')}\n"
    )
    assert denied(scope_map, ask("scratch")).reason is Denial.NEEDS_LAUNCHER
    assert allowed(scope_map, ask("scratch", proven=True)).params == {"role": "r1"}
    certified = ask("scratch", agent=f"spiffe://{DOMAIN}/team/red/run/r7", run="r7")
    assert allowed(scope_map, certified).params == {"role": "r7"}


def test_scopes_of_an_agent_are_those_that_some_grant_gives_whatever_the_conditions() -> None:
    scope_map = granting(scopes="[scratch, orders]", when="{until: 2020-01-01}")
    assert scope_map.scopes_of(LOAD) == ("orders", "scratch")
    assert scope_map.scopes_of(f"spiffe://{DOMAIN}/plain") == ()
    assert scope_map.workloads_of(LOAD) == (("load", {"workflow": "etl"}),)


def test_params_of_one_decision_are_nobody_else_s() -> None:
    scope_map = a_map(NIGHTLY)
    first = allowed(scope_map, ask()).params
    assert isinstance(first, dict)
    first["role"] = "admin"
    assert allowed(scope_map, ask()).params == {"role": "orders-ro"}


def test_captures_of_one_decision_are_nobody_else_s() -> None:
    """What a certificate fits is remembered by the map."""
    scope_map = a_map(NIGHTLY)
    first = allowed(scope_map, ask())
    for captures in (first.captures, *(captures for _, captures in first.fits)):
        assert isinstance(captures, dict)
        captures["workflow"] = "ml"
    again = allowed(scope_map, ask())
    assert again.captures == dict(again.fits)["load"] == {"workflow": "etl"}


def test_what_is_remembered_of_certificates_is_bounded_and_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_KNOWN", 3)
    scope_map, agents = a_map(NIGHTLY), [LOAD.replace("etl", f"w{number}") for number in range(5)]
    for agent in 3 * agents:
        assert scope_map.workloads_of(agent) == (("load", {"workflow": agent.split("/")[4]}),)
    assert len(scope_map.index._matches) <= 3


def test_the_digest_is_of_the_file_s_bytes() -> None:
    assert a_map(NIGHTLY).digest != a_map(NIGHTLY + "\n").digest
    assert parse(BASE.encode(), "f", KINDS).digest == parse(BASE, "f", KINDS).digest
