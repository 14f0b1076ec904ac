"""`stepcred admin` in this process, against a fake office behind real mutual TLS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stepcred.cli import _app
from stepcred.v1 import operator_pb2 as pb
from tests.fakes.operator_office import FakeOffice
from tests.support.certs import Creds, TestCA

OPERATOR = "spiffe://test.local/operator/ann"


@dataclass(frozen=True, kw_only=True)
class Site:
    ca: TestCA
    server: tuple[Path, Path]
    operator: Creds


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    ca = TestCA(tmp_path_factory.mktemp("site"))
    return Site(ca=ca, server=ca.server(), operator=ca.operator(OPERATOR))


@pytest.fixture
def office(site: Site) -> Iterator[FakeOffice]:
    with FakeOffice(tls=(*site.server, site.ca.operator_root_path)) as running:
        running.answers["GetOperator"] = pb.GetOperatorResponse(spiffe_id=OPERATOR, environment="prod", name="ann")
        yield running


@dataclass(kw_only=True)
class Ran:
    code: int
    out: str
    err: str


class Admin:
    """Runs the command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["stepcred", "admin", *arguments])
        code = _app.run()
        told = self._capsys.readouterr()
        return Ran(code=code, out=told.out, err=told.err)


@pytest.fixture
def admin(office: FakeOffice, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Admin:
    variables = {
        "ADDR": office.addr,
        "CERT": str(site.operator.cert),
        "KEY": str(site.operator.key),
        "CA": str(site.operator.ca),
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"STEPCRED_ADMIN_{name}", value)
    return Admin(monkeypatch, capsys)


M = TypeVar("M")


def at(message: M, **minutes: float) -> M:
    """The same, with these times so many minutes from now."""
    for name, value in minutes.items():
        getattr(message, name).FromDatetime(datetime.now(UTC) + timedelta(minutes=value))
    return message


def lease(lease_id: str, **fields: Any) -> pb.OperatorLease:
    made = pb.OperatorLease(
        agent="spiffe://test.local/workflow/nightly/step/load",
        workflow="nightly",
        run="r1",
        step="load",
        provider="vault",
        state="ACTIVE",
        tier="high",
    )
    made.lease.lease_id, made.lease.scope = lease_id, "lake-write"
    at(made.lease, expires_at=10.5)
    for name, value in fields.items():
        setattr(made, name, value)
    return at(made, intent_at=-3.1)


def step(run: str = "r1", **fields: Any) -> pb.OperatorStep:
    made = pb.OperatorStep(
        step_id="s" * 16,
        agent="spiffe://test.local/workflow/nightly/step/load",
        workflow="nightly",
        run=run,
        step="load",
        attempt=1,
        open=True,
        live_leases=2,
        **fields,
    )
    return at(made, opened_at=-90, deadline=30.5, last_heartbeat=-0.2)
