"""Real servers for the whole run; each test makes its own roles on them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import ceph as ceph_support
from tests.support import logs, order
from tests.support.at_once import AtOnce
from tests.support.bao import BaoServer, openbao
from tests.support.postgres import MISSING, PostgresServer, find_postgres, postgres

# A test never judges how busy the machine is.
settings.register_profile("stepcred", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stepcred")
logs.keep_no_logger()


@pytest.hookimpl(trylast=True)  # the terminal is there only then
def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            # `nohup make test`, or a script's `make test &`: we stay as deaf, but an ignored signal would be ignored in
            # every program that a test starts.
            signal.signal(number, lambda *_: None)
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):  # what a worker of xdist prints is lost
        config.pluginmanager.register(AtOnce(terminal))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = order.spread(items)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    with logs.restored():
        yield


@pytest.fixture(autouse=True)
def _umask_as_before() -> Iterator[None]:
    """The daemon's commands set it, also where a test runs them in this process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with openbao(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="session")
def pg() -> Iterator[PostgresServer]:
    binaries = find_postgres()
    if binaries is None:
        pytest.skip(MISSING)
    with postgres(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph_support.CephServer]:
    """One per worker that needs it: it is up in a second, sharing one between workers would cost more."""
    if not ceph_support.find_ceph():
        pytest.skip(ceph_support.MISSING)
    with ceph_support.ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server
