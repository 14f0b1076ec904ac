"""Every example of docs/scope-map.md loads with the real kinds of scope, and its tests pass."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.model import ScopeKind
from broker.policy.decision import Denial
from broker.policy.expectations import run_tests
from broker.policy.load import parse
from broker.providers.aws.scope import AwsScope
from broker.providers.vault.scope import VaultScope

DOC = (Path(__file__).parents[3] / "docs" / "scope-map.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)
KINDS: dict[str, ScopeKind] = {"vault": VaultScope(), "aws": AwsScope()}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_loads_and_its_tests_pass(example: str) -> None:
    outcomes = run_tests(parse(example, "docs/scope-map.md", KINDS), datetime(2026, 6, 1, 12, tzinfo=UTC))
    assert [outcome for outcome in outcomes if not outcome.passed] == []


@pytest.mark.parametrize("reason", Denial)
def test_every_reason_is_documented(reason: Denial) -> None:
    assert f"`{reason.value}`" in DOC
