"""`stepcred-broker scopes test`: a map's own tests, and what they leave untested."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.junit import junit
from broker.cli.maps import AsJson, MapFile, instant, load_map, print_json, say
from broker.cli.options import FOUND, count, fail
from broker.model import JsonValue, RuleRef
from broker.policy.coverage import Coverage, Kind, coverage
from broker.policy.decision import Denied
from broker.policy.expectations import Outcome, run_tests
from broker.policy.explain import explain
from broker.policy.scope_map import ScopeMap

_ALL = 100  # percent


def run_map_tests(
    file: MapFile,
    *,
    at: Annotated[str, typer.Option(help="Time of the tests that say none.  (default: now)")] = "",
    min_coverage: Annotated[
        int, typer.Option(metavar="PERCENT", help="Exit 1 when fewer of the grants, denies and nevers are tested.")
    ] = 0,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML there, too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the map's `tests:`, its teams' among them. Exit 1: one of them failed, or too little is tested."""
    if not 0 <= min_coverage <= _ALL:
        fail(os.EX_USAGE, f"--min-coverage {min_coverage}: expected 0 to {_ALL}")
    scope_map = load_map(file)
    outcomes = run_tests(scope_map, instant(at))
    tested = coverage(scope_map, outcomes)
    if junit_file is not None:
        _write(junit_file, _junit(file, scope_map, outcomes))
    enough = tested.reaches(min_coverage)
    if as_json:
        print_json(_json(outcomes, tested))
    else:
        _tell(outcomes, tested)
        if not enough:
            say([("red", f"less than {min_coverage}% is tested")])
    good = enough and all(outcome.passed for outcome in outcomes)
    raise typer.Exit(os.EX_OK if good else FOUND)


def _tell(outcomes: Sequence[Outcome], tested: Coverage) -> None:
    failed = [outcome for outcome in outcomes if not outcome.passed]
    lines = [("red", f"FAILED {_where(one.test.rule)}: {_told(one)}") for one in failed]
    counts = ((kind.value, *tested.count(kind)) for kind in Kind)
    told = ", ".join(f"{name} {covered}/{there}" for name, covered, there in counts)
    lines.append(("yellow" if tested.missing else "green", f"coverage: {told}"))
    lines += [("yellow", f"  not tested: {_where(part.rule)}") for part in tested.missing]
    lines.append(("red" if failed else "green", f"{len(outcomes) - len(failed)} passed, {len(failed)} failed"))
    say(lines)


def _where(rule: RuleRef) -> str:
    return f"{rule.name} ({rule.file}:{rule.line}:{rule.column})"


def _told(outcome: Outcome) -> str:
    expected = outcome.test.expect
    expected += f" ({outcome.test.reason.value})" if outcome.test.reason else ""
    decision = outcome.decision
    if isinstance(decision, Denied):
        return f"expected {expected}, denied {decision.reason.value}: {decision.message}"
    after = f" after {count(decision.approvals, 'approval')}" if decision.approvals else ""
    return f"expected {expected}, allowed{after} by {decision.rule}"


def _junit(file: Path, scope_map: ScopeMap, outcomes: Sequence[Outcome]) -> str:
    return junit(str(file), outcomes, _told, lambda one: "\n".join(explain(scope_map, one.request).lines()))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(os.EX_CANTCREAT, f"--junit {file}: cannot be written ({error.strerror})")


def _json(outcomes: Sequence[Outcome], tested: Coverage) -> dict[str, JsonValue]:
    failed = [one for one in outcomes if not one.passed]
    counts = {kind.value: dict(zip(("covered", "total"), tested.count(kind), strict=True)) for kind in Kind}
    missing = [
        {"kind": part.kind.value, "name": part.rule.name, **_place(part.rule.file, part.rule.line, part.rule.column)}
        for part in tested.missing
    ]
    return {
        "passed": len(outcomes) - len(failed),
        "failed": [_failed(one) for one in failed],
        "coverage": {**counts, "missing": missing},
    }


def _failed(outcome: Outcome) -> JsonValue:
    test = outcome.test
    place = _place(test.rule.file, test.rule.line, test.rule.column)
    return {"name": test.rule.name, **place, "as": test.agent, "ask": test.ask, "told": _told(outcome)}


def _place(file: str, line: int, column: int) -> dict[str, JsonValue]:
    return {"file": file, "line": line, "column": column}
