"""The company acme's evening, as the broker tells it and as the client holds it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stepcred._settings import Settings
from stepcred._source import Files
from stepcred.cli._top.model import Snapshot
from tests.fakes.operator_server import FakeOperatorService
from tests.support.acme import Acme, evening, snapshot_of
from tests.support.certs import Creds
from tests.unit.client.conftest import Pki

OPERATOR = "spiffe://test.local/operator/ann"


@pytest.fixture
def acme() -> Acme:
    return evening()


@pytest.fixture
def snapshot(acme: Acme) -> Snapshot:
    return snapshot_of(acme)


@pytest.fixture(scope="session")
def operator(pki: Pki) -> Creds:
    return pki.authority.operator(OPERATOR)


@pytest.fixture
def service(pki: Pki, acme: Acme) -> Iterator[FakeOperatorService]:
    tls = (*pki.server, pki.authority.operator_root_path)
    # The methods that top never calls are left as they were generated.
    with FakeOperatorService(tls=tls, now=acme.now, **acme.lists()) as running:
        yield running


@pytest.fixture
def settings(service: FakeOperatorService, operator: Creds) -> Settings:
    files = {"cert": str(operator.cert), "key": str(operator.key), "ca": str(operator.ca)}
    return Settings(addr=service.addr, source=Files(files))


@pytest.fixture
def environ(service: FakeOperatorService, operator: Creds, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    variables = {
        "STEPCRED_ADMIN_ADDR": service.addr,
        "STEPCRED_ADMIN_CERT": str(operator.cert),
        "STEPCRED_ADMIN_KEY": str(operator.key),
        "STEPCRED_ADMIN_CA": str(operator.ca),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables
