"""Whose scope map the fixture takes, in pytest sessions of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MAP = """
version: 1
environment: test
trust_domain: {domain}
workloads: {{a: {{id: "spiffe://{domain}/a"}}}}
scopes: {{s: {{dev: {{kind: token}}, tier: low}}}}
grants: {{g: {{workloads: [a], workflows: ["*"], scopes: [s]}}}}
"""
BY_INI = """
def test_by_ini(broker):
    assert broker.env("spiffe://ini.local/a")["STEPCRED_STEP"] == "a"
"""
BY_FIXTURE = """
import pytest

@pytest.fixture
def stepcred_scopes():
    return "other/map.yaml"

def test_by_fixture(broker):
    assert broker.env("spiffe://fixture.local/a")["STEPCRED_RUN"] == "dev-1"
"""
OTHERS_TROUBLE = """
import pytest

@pytest.fixture
def stepcred_scopes(nobody_has_this):
    return "maps"

def test_its_own_mistake(broker):
    pass
"""
NONE = """
from stepcred.testing import broker

def test_none(broker):
    pass
"""


def put(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def pytest_in(folder: Path) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("STEPCRED_", "PYTEST_"))}
    env["STEPCRED_BROKER_CONFIG"] = "/etc/stepcred/broker.toml"  # the dev broker itself would refuse such a shell
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
    return done.stdout


def test_an_ini_file_or_a_fixture_says_which(tmp_path: Path) -> None:
    put(tmp_path / "pytest.ini", "[pytest]\nstepcred_scopes = maps\n")
    put(tmp_path / "conftest.py", 'pytest_plugins = ["stepcred.testing"]\n')
    put(tmp_path / "maps" / "scopes.yaml", MAP.format(domain="ini.local"))
    put(tmp_path / "other" / "map.yaml", MAP.format(domain="fixture.local"))
    for name, text in (("ini", BY_INI), ("fixture", BY_FIXTURE), ("trouble", OTHERS_TROUBLE)):
        put(tmp_path / f"test_{name}.py", text)
    said = pytest_in(tmp_path)
    assert "2 passed, 1 error" in said, said[-3000:]
    assert "fixture 'nobody_has_this' not found" in said  # not taken for one that says nothing


def test_without_one_it_says_how_to_begin(tmp_path: Path) -> None:
    put(tmp_path / "pytest.ini", "[pytest]\n")
    put(tmp_path / "test_none.py", NONE)
    said = pytest_in(tmp_path)
    assert f"stepcred-broker dev --example > {tmp_path}/scopes/scopes.yaml" in said
    assert "Traceback" not in said


def test_pytest_is_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").write_text("raise ImportError")
    code = "import stepcred.testing"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert 'stepcred.testing needs pytest: pip install "stepcred[testing]"' in done.stderr
