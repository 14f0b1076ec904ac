"""The fixture: one process for the session and a scope map, as new for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stepcred.testing._broker import Broker
from stepcred.testing._process import Process

OPTION = "stepcred_scopes"
_BESIDE = ("scopes", "scopes.yaml")
_PROCESSES = pytest.StashKey[dict[Path, Process]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """For those who name `stepcred.testing` in pytest_plugins."""
    parser.addini(OPTION, "the scope map of the dev broker, or its folder", type="string", default="")


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A `stepcred.testing.Broker`, of which no other test knows anything."""
    found = Broker(_process(request.config, _scopes(request)))
    yield found
    found.reset()  # what it left behind ends with it


def _process(config: pytest.Config, scopes: Path) -> Process:
    """Starting takes a second, beginning anew a tenth of one."""
    processes = config.stash.setdefault(_PROCESSES, {})
    known = processes.get(scopes)
    if known is None or not known.alive:
        known = processes[scopes] = Process(scopes)
        config.add_cleanup(known.stop)
    return known


def _scopes(request: pytest.FixtureRequest) -> Path:
    """What a fixture says, else the ini file, else what lies beside the test or above it."""
    try:
        given = request.getfixturevalue(OPTION)
    except pytest.FixtureLookupError as error:
        if error.argname != OPTION:  # it is there, and lacks something itself
            raise
        given = _ini(request.config)
    if given:
        return Path(request.config.rootpath, given).resolve()
    for folder in (request.path.parent, *request.path.parent.parents):
        for name in _BESIDE:
            if (folder / name).exists():
                return (folder / name).resolve()
        if folder == request.config.rootpath:
            break
    beside = request.path.parent / _BESIDE[0]
    pytest.fail(
        f"no scope map: put one into {beside} (stepcred-broker dev --example > {beside}/scopes.yaml), "
        f"or say where it is with a fixture {OPTION}",
        pytrace=False,
    )


def _ini(config: pytest.Config) -> str:
    try:
        return str(config.getini(OPTION))
    except ValueError:  # not loaded as a plugin, so nobody has declared it
        return ""
