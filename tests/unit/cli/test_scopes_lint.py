"""`stepcred-broker scopes lint`: what it prints in each format, and how it exits."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from tests.unit.cli.scope_maps import GRANTS, HEAD, MAP, SCOPES, WORKLOADS, parsed, run, write

SARIF = json.loads((Path(__file__).parents[2] / "fixtures" / "sarif" / "sarif-2.1.0.schema.json").read_text())
BROKEN = HEAD + WORKLOADS + SCOPES + GRANTS.replace("orders", "odrers").replace("[load]", "[laod]")
CLEAN = HEAD + WORKLOADS + SCOPES.replace("  spare: {vault: {role: spare}, tier: low}\n", "") + GRANTS
UNUSED = "no grant gives scope 'spare' [unused-scope]"


def test_a_map_without_findings_exits_0(tmp_path: Path) -> None:
    path = write(tmp_path, CLEAN)
    result = run("lint", path, "--strict")
    assert (result.exit_code, result.stdout) == (0, f"{path}: loads, nothing found\n")


def test_warnings_exit_0_and_with_strict_1(tmp_path: Path) -> None:
    path = write(tmp_path)
    result = run("lint", path)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{path}:8:3: warning: {UNUSED}",
        "    Grant it, or remove it: what nobody may have is what the next grant gives by mistake.",
        f"{path}: loads, 1 warning",
    ]
    assert run("lint", path, "--strict").exit_code == 1
    assert run("lint", path, "--strict", "--ignore", "unused-scope").exit_code == 0


def test_notes_alone_exit_0_even_with_strict(tmp_path: Path) -> None:
    never = 'never:\n  n: {agents: "spiffe://prod.acme.internal/workflow/*/step/load", tier: high}\n'
    result = run("lint", write(tmp_path, CLEAN + never), "--strict")
    assert result.exit_code == 0
    assert "1 note" in result.stdout


def test_errors_exit_1_and_are_never_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, BROKEN)
    result = run("lint", path, "--ignore", "unknown-reference")
    assert result.exit_code == 1
    assert (
        f"{path}:10:22: error: no workload is named 'laod'; did you mean 'load'? [unknown-reference]" in result.stdout
    )
    assert f"{path}: does not load, 2 errors" in result.stdout


def test_asked_wrongly_exits_64_and_a_missing_file_78(tmp_path: Path) -> None:
    path = write(tmp_path)
    result = run("lint", path, "--ignore", "unused-scop")
    assert result.exit_code == 64
    assert result.stderr == "error: --ignore: no rule is named 'unused-scop'; did you mean 'unused-scope'?\n"
    assert run("lint", path, "--json", "--format", "sarif").exit_code == 64
    assert run("lint", path, "--at", "noon").exit_code == 64
    assert run("lint", tmp_path / "none.yaml").exit_code == 78
    assert run("lint", path, "--ignore", "aws-any-action").exit_code == 0


def test_json_has_every_finding_and_the_counts(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = parsed(run("lint", path, "--json"))
    assert found == parsed(run("lint", path, "--format", "json"))
    help_text = "Grant it, or remove it: what nobody may have is what the next grant gives by mistake."
    assert found == {
        "file": str(path),
        "loads": True,
        "errors": 0,
        "warnings": 1,
        "notes": 0,
        "findings": [
            {
                "rule": "unused-scope",
                "level": "warning",
                "file": str(path),
                "line": 8,
                "column": 3,
                "message": "no grant gives scope 'spare'",
                "help": help_text,
            }
        ],
    }
    assert parsed(run("lint", write(tmp_path, BROKEN), "--json"))["loads"] is False


def test_what_is_over_depends_on_the_time_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, CLEAN.replace("[orders]}", "[orders], when: {until: 2030-01-01}}"))
    assert "is-over" in run("lint", path, "--at", "2031-01-01").stdout
    assert "is-over" not in run("lint", path, "--at", "2029-01-01").stdout


def sarif(*arguments: object) -> Any:
    result = run("lint", *arguments, "--format", "sarif")
    found = parsed(result)
    Draft4Validator(SARIF).validate(found)
    return found


def test_sarif_is_valid_and_names_files_relative_to_the_repository(tmp_path: Path) -> None:
    path = write(tmp_path, name="maps of prod/map.yaml")
    found = sarif(path, "--base", tmp_path)
    driver = found["runs"][0]["tool"]["driver"]
    (result,) = found["runs"][0]["results"]
    assert driver["version"] == metadata.version("stepcred")
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "unused-scope"
    assert all(rule["help"]["text"] for rule in driver["rules"])
    assert result["level"] == "warning"
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "maps%20of%20prod/map.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 8, "startColumn": 3},
    }
    assert str(tmp_path) not in json.dumps(found)


def test_sarif_shows_nothing_of_the_machine_in_messages_either(tmp_path: Path) -> None:
    text = CLEAN.replace("environment: prod", "environment: prod\nextends: none.yaml")
    found = sarif(write(tmp_path, text), "--base", tmp_path)
    assert found["runs"][0]["results"][0]["message"]["text"] == "none.yaml does not exist"
    assert found["runs"][0]["results"][0]["level"] == "error"
    assert str(tmp_path) not in json.dumps(found)


def test_sarif_fingerprints_stay_when_lines_move_and_differ_from_each_other(tmp_path: Path) -> None:
    twice = MAP + GRANTS.splitlines()[1].replace("read", "copy") + "\n"

    def prints(text: str) -> list[str]:
        found = sarif(write(tmp_path, text), "--base", tmp_path)["runs"][0]["results"]
        return [result["partialFingerprints"]["stepcredFinding/v1"] for result in found]

    before = prints(twice)
    assert len(set(before)) == len(before) == 2
    assert prints("# a new line\n" + twice) == before


def test_sarif_of_nothing_is_valid(tmp_path: Path) -> None:
    assert sarif(write(tmp_path, CLEAN))["runs"][0]["results"] == []


def test_a_file_that_is_no_sarif_is_found_by_the_schema() -> None:
    assert not Draft4Validator(SARIF).is_valid({"version": "2.1.0", "runs": [{"results": []}]})


def test_github_gets_a_line_for_each_finding_that_cannot_break_out(tmp_path: Path) -> None:
    path = write(tmp_path, name="a,b:50%.yaml")
    result = run("lint", path, "--format", "github", "--base", tmp_path)
    assert result.stdout == (
        "::warning file=a%2Cb%3A50%25.yaml,line=8,col=3,title=unused-scope::no grant gives scope 'spare'\n"
    )
    never = 'never:\n  n: {agents: "spiffe://prod.acme.internal/*", scopes: [spare]}\n'
    result = run("lint", write(tmp_path, MAP + never), "--format", "github", "--base", tmp_path)
    assert [line.split(" ")[0] for line in result.stdout.splitlines()] == ["::warning"] * 2
    result = run("lint", write(tmp_path, HEAD + '"a\\n::error::x": 1\n'), "--format", "github", "--base", tmp_path)
    assert result.exit_code == 1
    assert all(line.startswith("::error file=map.yaml,") for line in result.stdout.splitlines())


@pytest.mark.parametrize("level", ["\n", "\r", "%"])
def test_github_messages_are_escaped(level: str) -> None:
    from broker.cli.annotations import github_commands
    from broker.policy.lint import RULES, Finding

    finding = Finding(rule=RULES[0], file="f", line=1, column=1, message=f"a{level}::error::b")
    (line,) = github_commands([finding])
    assert line.count("\n") == line.count("\r") == 0
    assert line.split("::", 2)[2] == f"a%{ord(level):02X}::error::b"
