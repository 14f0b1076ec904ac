"""`stepcred-broker scopes schema`: current, valid, true of every good map, and false of most broken ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from broker.model import ScopeKind
from broker.policy.language.document import read_document
from broker.policy.language.schema.json_schema import root_schema, team_schema
from broker.wiring.adapters import scope_kinds
from tests.unit.cli.scope_maps import HEAD, run
from tests.unit.policy.kinds import KINDS

REPOSITORY = Path(__file__).parents[3]
MAPS = REPOSITORY / "tests" / "fixtures" / "scope_maps"
EVERY_KIND: dict[str, ScopeKind] = {**KINDS, **scope_kinds()}
ROOT = Draft202012Validator(root_schema(EVERY_KIND))
TEAM = Draft202012Validator(team_schema(EVERY_KIND))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "scope-map.md").read_text(), re.DOTALL)
FILES = [
    *(REPOSITORY / "docs" / "examples").rglob("*.yaml"),
    REPOSITORY / "deploy" / "examples" / "scopes.yaml",
    REPOSITORY / "tests" / "demo" / "scopes.yaml",
]
GOOD = sorted((MAPS / "lint").glob("*.yaml"))
# What a single file's shape can show; the others are of YAML itself, of names, captures, times and patterns.
SHAPE = [
    "a-list",
    "a-scalar",
    "bad-bind",
    "bad-concurrent",
    "bad-digest",
    "bad-name",
    "empty",
    "empty-lists",
    "grant-a-list",
    "listed-twice",
    "many-at-once",
    "misspelt-keys",
    "misspelt-section",
    "no-head",
    "no-provider",
    "no-tier",
    "no-workflows",
    "only-a-comment",
    "provider-block-a-list",
    "provider-block-wrong",
    "scalar-for-a-list",
    "star-and-more",
    "test-expectation",
    "tier-misspelt",
    "ttl-number",
    "two-providers",
    "upper-case-trust-domain",
    "version-2",
    "version-text",
]


def data_of(text: str | bytes) -> Any:
    return read_document(text, "map.yaml").data


@pytest.mark.parametrize(("name", "options"), [("scope-map", ()), ("scope-team", ("--team",))])
def test_the_schemas_in_docs_are_current(name: str, options: tuple[str, ...]) -> None:
    result = run("schema", *options)
    assert result.exit_code == 0
    assert result.stdout == (REPOSITORY / "docs" / "schema" / f"{name}.schema.json").read_text(), "run: make schema"


@pytest.mark.parametrize("name", ["scope-map", "scope-team"])
def test_the_schemas_are_schemas_and_need_nothing_else(name: str) -> None:
    schema = json.loads((REPOSITORY / "docs" / "schema" / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    used = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)))
    assert used == set(schema["$defs"])


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_docs_is_valid(example: str) -> None:
    of_a_team = example.startswith("# teams/")  # an example that is one of several files begins with its name
    (TEAM if of_a_team else ROOT).validate(data_of(example))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_map_of_the_repository_is_valid(path: Path) -> None:
    (TEAM if path.parent.name == "teams" else ROOT).validate(data_of(path.read_bytes()))


@pytest.mark.parametrize("path", [path for path in GOOD if path.stem != "does-not-load"], ids=lambda path: path.stem)
def test_every_map_that_loads_is_valid(path: Path) -> None:
    ROOT.validate(data_of(path.read_bytes()))


@pytest.mark.parametrize("name", SHAPE)
def test_a_broken_map_is_not_valid(name: str) -> None:
    assert not ROOT.is_valid(data_of((MAPS / "broken" / f"{name}.yaml").read_bytes()))


def test_a_team_s_file_has_a_schema_of_its_own() -> None:
    team = data_of((MAPS / "lint" / "teams" / "payments.yml").read_bytes())
    TEAM.validate(team)
    assert not TEAM.is_valid(team | {"never": {}})
    assert not TEAM.is_valid(data_of(HEAD))
    assert not ROOT.is_valid(team)


PART = HEAD.replace("environment", "extends: base.yaml\nenvironment")


@pytest.mark.parametrize(
    "part",
    [
        "extends: base.yaml\n",
        PART + "workloads: {load: null}\ngrants: null\n",
        PART + "scopes: {orders: {ttl: 5m}, lake: {vault: null, aws: {regions: [eu-west-1]}}}\n",
        PART + "grants: {g: {when: {daily: {tz: UTC}, until: null}, max_step: null}}\n",
        PART + "teams: {pay: {max_tier: low}}\ntiers: {high: null}\nconstants: {account: null}\n",
    ],
)
def test_with_extends_an_entry_may_be_a_part_or_null(part: str) -> None:
    ROOT.validate(data_of(part))
    whole = part.replace("extends: base.yaml\n", "")
    assert not ROOT.is_valid(data_of(whole) or {})


@pytest.mark.parametrize(
    "part",
    [
        "scopes: {orders: {ttl: 5}}\n",
        "scopes: {orders: {tll: 5m}}\n",
        "grants: {g: {workflows: []}}\n",
        "scopes: {lake: {aws: {statements: [{Effect: Maybe, Action: 's3:*', Resource: '*'}]}}}\n",
        "tests: [{as: x}]\n",
        "workload: {}\n",
    ],
)
def test_with_extends_what_is_there_is_still_looked_at(part: str) -> None:
    assert not ROOT.is_valid(data_of(PART + part))


def test_a_constant_may_stand_in_a_provider_s_block() -> None:
    scope = "scopes: {s: {tier: low, aws: {role_arn: 'arn:aws:iam::{account}:role/x', regions: ['{region}'], statements: %s}}}"
    one = "[{Effect: Allow, Action: ['s3:GetObject'], Resource: 'arn:aws:s3:::b/{workflow}/*', Condition: {Bool: {k-y: true}}}]"
    ROOT.validate(data_of(HEAD + "constants: {account: '123456789012', region: eu-west-1}\n" + scope % one))
    assert not ROOT.is_valid(data_of(HEAD + (scope % one).replace("s3:GetObject", "GetObject")))


def test_defaults_are_spelt_as_in_a_map() -> None:
    defs = root_schema(EVERY_KIND)["$defs"]
    assert defs["ScopeEntry"]["properties"]["ttl"]["default"] == "15m"
    assert defs["GrantEntry"]["properties"]["max_step"]["default"] == "1d"
