"""Each map of tests/fixtures/scope_maps/lint says exactly what its `.findings` file says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.model import ScopeKind
from broker.policy.language.files import Folder, Memory
from broker.policy.lint import FAMILIES, RULES, Level, lint
from broker.policy.lint.loading import RULES as LOADING
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.vault.kind import VaultScope
from tests.unit.policy.kinds import KINDS

MAPS = Path(__file__).parents[2] / "fixtures" / "scope_maps" / "lint"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
EVERY_KIND: dict[str, ScopeKind] = {**KINDS, "vault": VaultScope(), "aws": AwsScope()}


def told(name: str) -> str:
    """A line each: where, how bad, which rule, and the words."""
    found = lint(Folder(path=MAPS), name, EVERY_KIND, NOW)
    places = [f"{Path(one.file).relative_to(MAPS)}:{one.line}:{one.column}" for one in found]
    said = [f"{one.rule.level.value} {one.rule.id}: {one.message.replace(f'{MAPS}/', '')}" for one in found]
    return "".join(f"{place}: {words}\n" for place, words in zip(places, said, strict=True))


@pytest.mark.parametrize("path", sorted(MAPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_lint_says_exactly_what_it_finds_and_where(path: Path) -> None:
    assert told(path.name) == path.with_suffix(".findings").read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_is_found_in_some_map(rule: object) -> None:
    found = {one.rule for path in MAPS.glob("*.yaml") for one in lint(Folder(path=MAPS), path.name, EVERY_KIND, NOW)}
    assert rule in found


def test_ids_are_unique_and_only_errors_keep_a_map_from_loading() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert {rule.level for rule in LOADING} == {Level.ERROR}
    assert all(rule.level is not Level.ERROR for family in FAMILIES for rule in family.RULES)


@pytest.mark.parametrize("path", sorted((MAPS.parent / "broken").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_broken_map_gives_the_loader_s_own_words_as_errors(path: Path) -> None:
    found = lint(Memory(contents={path.name: path.read_bytes()}), path.name, KINDS, NOW)
    assert {one.rule.level for one in found} == {Level.ERROR}
    said = [f"{one.file}:{one.line}:{one.column}: {one.message}" for one in found]
    assert "\n".join(said) + "\n" == path.with_suffix(".errors").read_text()
