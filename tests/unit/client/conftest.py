"""A fake broker behind real mutual TLS, and the settings that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.broker_server import FakeBroker
from tests.support.certs import Creds, TestCA


@dataclass(frozen=True, kw_only=True)
class Pki:
    authority: TestCA
    server: tuple[Path, Path]
    agent: Creds


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    authority = TestCA(tmp_path_factory.mktemp("pki"))
    agent = authority.agent("spiffe://test.local/workflow/nightly-etl/step/load")
    return Pki(authority=authority, server=authority.server(), agent=agent)


@pytest.fixture
def fake(pki: Pki) -> Iterator[FakeBroker]:
    with FakeBroker(tls=(*pki.server, pki.authority.root_path)) as broker:
        yield broker


@pytest.fixture
def environ(fake: FakeBroker, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The four settings and the three names, set in the environment."""
    variables = {
        "STEPCRED_ADDR": fake.addr,
        "STEPCRED_CERT": str(pki.agent.cert),
        "STEPCRED_KEY": str(pki.agent.key),
        "STEPCRED_CA": str(pki.agent.ca),
        "STEPCRED_WORKFLOW": "nightly-etl",
        "STEPCRED_RUN": "42",
        "STEPCRED_STEP": "load",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables
