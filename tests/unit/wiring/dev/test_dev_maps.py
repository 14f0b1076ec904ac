from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.policy.problems import ScopeMapError
from broker.wiring.dev.maps import find_map, is_served, load_dev_map, real_settings

ACME = Path(__file__).parents[4] / "docs" / "examples" / "acme"


def scope_map(environment: str = "dev", more: str = "") -> str:
    return f"version: 1\nenvironment: {environment}\ntrust_domain: dev.local\n{more}workloads: {{a: {{id: 'spiffe://dev.local/a'}}}}\nscopes: {{s: {{vault: {{role: r}}, tier: low}}}}\ngrants: {{g: {{workloads: [a], workflows: ['*'], scopes: [s]}}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "name", ["dev", "development", "test", "testing", "local", "sandbox", "ci", "dev-eu", "test-1", "local-ann"]
)
def test_environments_that_are_served(name: str) -> None:
    assert is_served(name)


@pytest.mark.parametrize(
    "name",
    [
        *("prod", "production", "live", "staging", "any", "", "Dev", "DEV", "devprod", "dev-", "dev_prod", "prod-dev"),
        *("tested", "ci-prod", "sandbox-eu", "dev\n", "dev\nprod"),
    ],
)
def test_environments_that_are_not(name: str) -> None:
    """An allow-list: what is not on it is production."""
    assert not is_served(name)


def test_a_production_map_is_refused_where_it_says_so(folder: Path) -> None:
    path = put(folder / "scopes.yaml", scope_map("prod"))
    with pytest.raises(ScopeMapError) as refused:
        load_dev_map(path)
    (problem,) = refused.value.problems
    assert (problem.line, problem.column) == (2, 14)
    assert "'prod'" in problem.message
    assert "stepcred-broker serve" in problem.message  # what to do


def test_the_environment_of_what_it_extends_is_not_what_counts(folder: Path) -> None:
    put(folder / "base.yaml", scope_map("prod"))
    path = put(folder / "dev.yaml", "extends: base.yaml\nversion: 1\nenvironment: dev\ntrust_domain: dev.local\n")
    assert load_dev_map(path).environment == "dev"
    backwards = put(folder / "prod.yaml", "extends: dev.yaml\nversion: 1\nenvironment: prod\ntrust_domain: dev.local\n")
    with pytest.raises(ScopeMapError, match=r"prod\.yaml:3:14"):
        load_dev_map(backwards)


def test_acme_has_nothing_for_it() -> None:
    with pytest.raises(ConfigError, match=r"prod\.yaml \(prod\), staging\.yaml \(staging\)"):
        find_map(ACME)
    with pytest.raises(ScopeMapError, match="'prod'"):
        load_dev_map(ACME / "prod.yaml")


def test_finds_the_one_map(folder: Path) -> None:
    only = put(folder / "anything.yml", "broken: [")
    assert find_map(folder) == only  # its mistakes are told by whoever reads it
    assert find_map(only) == only


def test_finds_the_root_among_its_parts(folder: Path) -> None:
    put(folder / "base.yaml", scope_map())
    put(folder / "team.yaml", "version: 1\n")
    root = put(
        folder / "dev.yaml",
        "extends: base.yaml\nversion: 1\nenvironment: dev\ntrust_domain: dev.local\nteams: {t: {path: team.yaml}}\n",
    )
    put(folder / "prod.yaml", "extends: base.yaml\nversion: 1\nenvironment: prod\ntrust_domain: p.local\n")
    assert find_map(folder) == root


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no scope map"),
        ({"a.yaml": scope_map(), "b.yaml": scope_map("test")}, r"a\.yaml \(dev\), b\.yaml \(test\); name the one"),
        ({"a.yaml": "- x", "b.yaml": "{"}, "none that can be read"),
    ],
)
def test_says_which_map_is_missing(folder: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        put(folder / name, text)
    with pytest.raises(ConfigError, match=said):
        find_map(folder)


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_map(folder / "none")


def test_stays_away_from_a_real_daemons_place(folder: Path) -> None:
    put(folder / "scopes.yaml", scope_map())
    assert real_settings(folder, {"PATH": "/bin", "VAULT_TOKEN": "x"}) == []
    assert real_settings(folder, {"STEPCRED_BROKER_SERVICE_HOST": "10.0.0.1"}) == []  # Kubernetes says so to every pod
    (said,) = real_settings(folder, {"STEPCRED_BROKER_VAULT__ADDRESS": "https://v", "STEPCRED_BROKER_CONFIG": "c"})
    assert "env -u STEPCRED_BROKER_CONFIG -u STEPCRED_BROKER_VAULT__ADDRESS" in said
    assert "https://v" not in said
    put(folder / "pyproject.toml", "[project]\nname = 'x'\n")
    assert real_settings(folder, {}) == []
    put(folder / "broker.toml", "environment='prod'\ntrust_domain='p'\n[vault]\naddress='https://v'\n")
    for given in (folder, folder / "scopes.yaml"):
        (said,) = real_settings(given, {})
        assert "broker.toml: settings of a real daemon ([vault])" in said


def test_brings_no_client_of_vault_or_aws() -> None:
    """What is not loaded cannot be contacted."""
    code = "import sys, broker.cli.dev, broker.wiring.dev.control; print({m.split('.')[0] for m in sys.modules} & {'hvac', 'boto3', 'botocore'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
