"""`stepcred-broker scopes test`: results, coverage, JUnit, exit codes."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.unit.cli.scope_maps import CLEAN, HEAD, LOAD, parsed, run, write

RULES = """workloads:
  load: {id: "spiffe://prod.acme.internal/workflow/{workflow}/step/load"}
  clean: {id: "spiffe://prod.acme.internal/workflow/{workflow}/step/clean"}
scopes:
  orders: {vault: {role: orders}, tier: low}
  lake: {vault: {role: lake}, tier: high, approvals: 1}
grants:
  read: {workloads: [clean], workflows: [etl], scopes: [orders]}
  also: {workloads: [clean], workflows: ["*"], scopes: [orders]}
  never-asked: {workloads: [clean], workflows: [ml], scopes: [orders]}
denies:
  frozen: {scopes: [orders], workflows: [lab]}
  unseen: {scopes: [orders], workflows: [old]}
never:
  load-is-low: {agents: "spiffe://prod.acme.internal/workflow/*/step/load", tier: elevated}
  clean-is-low: {agents: "spiffe://prod.acme.internal/workflow/*/step/clean", tier: high}
"""
LAB = CLEAN.replace("/etl/", "/lab/")
TESTS = f"""tests:
  - {{as: "{CLEAN}", ask: orders, expect: allow}}
  - {{as: "{LAB}", ask: orders, expect: deny, reason: DENY_RULE}}
  - {{as: "{LOAD}", ask: lake, expect: deny}}
"""
UNTESTED = ["never-asked", "denies.unseen", "never.clean-is-low"]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path, HEAD + RULES + TESTS)


def test_good_tests_exit_0_and_say_what_they_leave_untested(good: Path) -> None:
    result = run("test", good)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "coverage: grants 2/3, denies 1/2, nevers 1/2",
        f"  not tested: never-asked ({good}:13:3)",
        f"  not tested: denies.unseen ({good}:16:3)",
        f"  not tested: never.clean-is-low ({good}:19:3)",
        "3 passed, 0 failed",
    ]


def test_a_failed_test_exits_1_and_covers_nothing(good: Path) -> None:
    good.write_text(HEAD + RULES + TESTS.replace("expect: allow", "expect: approval"))
    result = run("test", good)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == f"FAILED tests.1 ({good}:21:5): expected approval, allowed by read (map.yaml:11:3)"
    assert (lines[1], lines[-1]) == ("coverage: grants 0/3, denies 1/2, nevers 1/2", "2 passed, 1 failed")


@pytest.mark.parametrize(("percent", "code"), [(0, 0), (57, 0), (58, 1), (100, 1), (101, 64), (-1, 64)])
def test_min_coverage_counts_grants_denies_and_nevers_together(good: Path, percent: int, code: int) -> None:
    result = run("test", good, "--min-coverage", percent)  # 4 of 7 are tested
    assert result.exit_code == code
    assert (f"less than {percent}% is tested" in result.stdout) == (code == 1)


def test_a_map_without_rules_is_covered(tmp_path: Path) -> None:
    result = run("test", write(tmp_path, HEAD), "--min-coverage", 100)
    assert result.exit_code == 0
    assert "coverage: grants 0/0, denies 0/0, nevers 0/0" in result.stdout


def test_a_never_is_covered_only_by_a_question_for_what_it_forbids(good: Path) -> None:
    for test in (f'{{as: "{LOAD}", ask: orders, expect: deny}}', f'{{as: "{CLEAN}", ask: lake, expect: deny}}'):
        good.write_text(HEAD + RULES + f"tests:\n  - {test}\n")
        missing = [one["name"] for one in parsed(run("test", good, "--json"))["coverage"]["missing"]]
        assert "never.load-is-low" in missing
        assert ("never.clean-is-low" in missing) == ("orders" in test)


def test_json(good: Path) -> None:
    good.write_text(HEAD + RULES + TESTS.replace("reason: DENY_RULE", "reason: NO_GRANT"))
    found = parsed(run("test", good, "--json"))
    assert found["passed"] == 2
    assert found["failed"] == [
        {
            "name": "tests.2",
            "file": str(good),
            "line": 22,
            "column": 5,
            "as": LAB,
            "ask": "orders",
            "told": "expected deny (NO_GRANT), denied DENY_RULE: deny rule 'frozen' refuses it",
        }
    ]
    assert found["coverage"]["grants"] == {"covered": 2, "total": 3}
    assert found["coverage"]["missing"][0] == {
        "kind": "grants",
        "name": "never-asked",
        "file": str(good),
        "line": 13,
        "column": 3,
    }


def test_junit_has_a_case_for_each_test_and_the_story_of_failures(good: Path, tmp_path: Path) -> None:
    odd = '  - {as: "spiffe://<&\\e\\"", ask: orders, at: 2026-01-01, expect: allow}\n'
    good.write_text(HEAD + RULES + TESTS + odd)
    report = tmp_path / "junit.xml"
    assert run("test", good, "--junit", report).exit_code == 1
    top = ET.fromstring(report.read_text())
    assert (top.tag, top.get("tests"), top.get("failures"), top.get("errors")) == ("testsuites", "4", "1", "0")
    cases = top.findall("./testsuite/testcase")
    assert [case.get("classname") for case in cases] == [str(good)] * 4
    assert [case.get("line") for case in cases] == ["21", "22", "23", "24"]
    assert cases[0].get("name") == f"tests.1: '{CLEAN}' asks for orders: allow"
    assert cases[3].get("name") == ("tests.4: 'spiffe://<&\\x1b\"' asks for orders at 2026-01-01T00:00Z: allow")
    assert [case.find("failure") is not None for case in cases] == [False, False, False, True]
    failure = cases[3].find("failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("expected allow, denied NO_WORKLOAD")
    assert "DENIED NO_WORKLOAD" in (failure.text or "")


def test_a_report_that_cannot_be_written_exits_73(good: Path, tmp_path: Path) -> None:
    result = run("test", good, "--junit", tmp_path / "none" / "junit.xml")
    assert result.exit_code == os.EX_CANTCREAT
    assert "cannot be written" in result.stderr


def test_tests_of_teams_run_with_their_own_places(tmp_path: Path) -> None:
    teams = "teams:\n  pay: {path: pay.yaml, scopes_prefix: pay-, max_tier: low, workloads: [clean]}\n"
    path = write(tmp_path, HEAD + RULES + teams + TESTS)
    team = "version: 1\nscopes:\n  pay-a: {vault: {role: pay-a}, tier: low}\ntests:\n"
    pay = write(tmp_path, team + f'  - {{as: "{CLEAN}", ask: pay-a, expect: allow}}\n', name="pay.yaml")
    result = run("test", path)
    assert result.exit_code == 1
    assert f"FAILED pay:tests.1 ({pay}:5:5): expected allow, denied NO_GRANT" in result.stdout
    assert "3 passed, 1 failed" in result.stdout


def test_a_bad_time_exits_64_and_a_map_that_does_not_load_78(good: Path) -> None:
    assert run("test", good, "--at", "noon").exit_code == 64
    good.write_text("version: 1\n")
    assert run("test", good).exit_code == 78
