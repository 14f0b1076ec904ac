from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from broker.alert import AlertRule
from broker.cli.root import build
from broker.config import load
from broker.errors import ConfigError, Reason
from broker.operators.file import read_operators
from broker.policy.decision import Denial
from broker.rpc.status import CODES
from stepcred.cli._app import app as agents_app

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
_ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def test_every_reason_is_documented_with_the_code_that_it_has_on_the_wire() -> None:
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    documented = dict(_ROW.findall(text))
    assert documented == {reason.value: CODES[reason].name for reason in Reason}


_WHY = re.compile(r"^\| `([A-Z_]+)` \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def test_every_verdict_that_an_agent_is_told_says_what_to_do() -> None:
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    section = text.partition("### Why a scope is not given\n")[2].partition("\n## ")[0]
    untold = {Denial.UNKNOWN_SCOPE, Denial.NO_GRANT, Denial.NO_WORKLOAD}  # to agents these are ACCESS_DENIED
    told = {denial.value for denial in Denial if denial not in untold}
    assert set(_WHY.findall(section)) == told | {"ACCESS_DENIED", "NEEDS_APPROVAL"}


def test_every_alert_has_a_section_that_says_what_to_look_at_and_to_do() -> None:
    text = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
    _, *parts = re.split(r"^### (.+)$", text.partition("\n## Rules\n")[2], flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert sections.keys() == {rule.value for rule in AlertRule}
    for rule in AlertRule:
        section = sections[rule.value]
        assert section.strip().startswith(f"*{rule.severity.value}.* ")
        assert "- **Look:** " in section
        assert "- **Do:** " in section


_COMMAND = re.compile(r"`(stepcred(?:-broker)?) ([a-z][^`]*)`")


def test_every_command_of_the_run_book_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
    said = _COMMAND.findall(text)
    assert len(said) > 20
    for program, rest in said:
        words = rest.split()
        found: Any = get_command(agents_app if program == "stepcred" else build(words))
        while commands := getattr(found, "commands", None):
            found = commands[words.pop(0)]
        options = {name for one in found.params for name in one.opts}
        assert options >= {word for word in words if word.startswith("--")}, rest


def test_the_example_settings_lack_nothing_but_their_files() -> None:
    with pytest.raises(ConfigError) as refused:
        load(EXAMPLES / "broker.toml", {})
    assert refused.value.problems != []
    files = ("does not exist", "is a systemd credential")
    assert [problem for problem in refused.value.problems if not any(said in problem for said in files)] == []


def test_the_example_operators_are_read() -> None:
    text = (EXAMPLES / "operators.yaml").read_bytes()
    found = read_operators(text, "operators.yaml", trust_domain="prod.acme.internal")
    assert sorted(found.operators) == ["ann", "bob", "pager"]
