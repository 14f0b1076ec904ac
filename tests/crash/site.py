"""What the crashes happen to: OpenBao on raft, PostgreSQL where there is one, the daemon's files."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.bao import BaoServer, TokenRole, provision, provision_database
from tests.support.daemon import Deployment, vault_section
from tests.support.postgres import PostgresServer, find_postgres, postgres
from tests.support.raft import raft_openbao

BROKER = "tests.crash.armed_broker"
AGENT = "workflow/nightly/step/load"
DATABASE = "database/creds/crash-db"
ROLES = (TokenRole(name="crash-token"), TokenRole(name="crash-db", reads=[DATABASE]))
REQUEST_LIMIT = 2  # seconds: the server's own bound on one request, and what the broker is told
MINT_TIMEOUT = 2
SILENCE = 6
LANDING = MINT_TIMEOUT + REQUEST_LIMIT
TTL = 600  # seconds, of both scopes
CREATION = 0.05  # seconds that a login takes to make, so that some are caught in flight

SCOPE_MAP = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  token: {vault: {role: crash-token}, ttl: 10m, tier: low}
  db: {vault: {role: crash-db, read: database/creds/crash-db}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [token, db], max_step: 2h, concurrent: supersede}
"""
TIMINGS = {
    "mint_timeout": f"{MINT_TIMEOUT}s",
    "heartbeat": "2s",
    "silence_bound": f"{SILENCE}s",
    "claim_window": "3s",
    "drain_grace": "5s",
}
MORE: dict[str, Any] = {
    "guard": {"low": {"budget": 1000, "hourly": 1_000_000}},
    "limits": {"request_rate": 5000.0, "request_burst": 5000},
    "log": {"level": "info"},
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """All of it running, but the daemon."""

    bao: BaoServer
    pg: PostgresServer | None
    deployment: Deployment

    @property
    def scopes(self) -> tuple[str, ...]:
        return ("token", "db") if self.pg else ("token",)


@contextlib.contextmanager
def site(*, keep: bool = False) -> Iterator[Site]:
    """From nothing; everything is stopped at the end, and its files deleted. On a real disk: /tmp may be memory."""
    base = Path("build")
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=base)).resolve()
    try:
        with contextlib.ExitStack() as stack:
            # The raw endpoint tells which token and which login belong to a leased secret.
            more = {"raw_storage_endpoint": True}
            bao = stack.enter_context(
                raft_openbao(folder / "bao", tls=False, request_limit=f"{REQUEST_LIMIT}s", more=more)
            )
            binaries = find_postgres()
            pg = stack.enter_context(postgres(binaries)) if binaries else None
            if pg:
                provision_database(bao, pg, "crash-db", creation_delay=CREATION, ttl=f"{TTL}s")
            login = provision(bao, folder, ROLES)
            vault = vault_section(bao, login, request_limit=f"{REQUEST_LIMIT}s")
            yield Site(
                bao=bao,
                pg=pg,
                deployment=Deployment(
                    folder / "daemon", SCOPE_MAP, vault=vault, timings=TIMINGS, more=MORE, module=BROKER
                ),
            )
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
