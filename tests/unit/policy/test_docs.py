"""Every example of docs/scope-map.md and docs/examples loads with the real kinds of scope, and its tests pass.

An example of several files names each in its first line; the last of them that is no team's is the root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.model import ScopeKind
from broker.policy.decision import Denial
from broker.policy.expectations import run_tests
from broker.policy.language.files import Folder, Memory
from broker.policy.language.load import load_files
from broker.policy.language.schema.entries import (
    ROOT_SECTIONS,
    DailyEntry,
    GrantEntry,
    LauncherEntry,
    ScopeEntry,
    Strict,
    TeamEntry,
    TierEntry,
    WhenEntry,
)
from broker.policy.scope_map import ScopeMap
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.vault.kind import VaultScope

DOCS = Path(__file__).parents[3] / "docs"
DOC = (DOCS / "scope-map.md").read_text()
KINDS: dict[str, ScopeKind] = {"vault": VaultScope(), "aws": AwsScope()}
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def examples() -> Iterator[dict[str, bytes]]:
    """Name → content, the root first."""
    together: dict[str, bytes] = {}
    for text in re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL):
        name = re.match(r"# (\S+\.yaml)\n", text)
        if name is None:
            yield {"map.yaml": text.encode()}
            continue
        together[name[1]] = text.encode()
        if name[1] in ("prod.yaml", "teams/payments.yaml"):
            root = "prod.yaml" if name[1] == "prod.yaml" else "root.yaml"
            yield {root: together.pop(root), **together}
            together = {}
    assert not together


EXAMPLES = list(examples())


def passes(scope_map: ScopeMap) -> None:
    assert [outcome for outcome in run_tests(scope_map, NOW) if not outcome.passed] == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 13
    for section in (*ROOT_SECTIONS, "extends", "tests"):
        assert f"\n## {section}\n" in DOC, section


@pytest.mark.parametrize("contents", EXAMPLES)
def test_example_loads_and_its_tests_pass(contents: dict[str, bytes]) -> None:
    passes(load_files(Memory(contents=contents), next(iter(contents)), KINDS).map)


@pytest.mark.parametrize("root", ["prod.yaml", "staging.yaml"])
def test_the_company_s_map_loads_in_each_environment_and_its_tests_pass(root: str) -> None:
    scope_map = load_files(Folder(path=DOCS / "examples" / "acme"), root, KINDS).map
    passes(scope_map)
    assert len(scope_map.teams) == 2


def test_the_company_s_map_is_short_enough_to_be_read() -> None:
    assert len((DOCS / "examples" / "acme" / "base.yaml").read_text().splitlines()) <= 60


@pytest.mark.parametrize(
    "entry",
    [LauncherEntry, ScopeEntry, TierEntry, GrantEntry, WhenEntry, DailyEntry, TeamEntry],
    ids=lambda e: e.__name__,
)
def test_every_key_is_documented(entry: type[Strict]) -> None:
    for name, field in entry.model_fields.items():
        assert f"`{field.alias or name}`" in DOC, name


@pytest.mark.parametrize("reason", Denial)
def test_every_reason_is_documented(reason: Denial) -> None:
    assert f"`{reason.value}`" in DOC
