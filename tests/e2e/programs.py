"""What programs that know nothing of stepcred are run against: OpenBao, PostgreSQL and a bucket, behind one daemon."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from tests.e2e.lake import BUCKET, MORE, Lake
from tests.e2e.world import ROOMY
from tests.support.aws import aws_section
from tests.support.bao import BaoServer, TokenRole, provision, provision_database, put_secret
from tests.support.daemon import HEAD, Deployment, vault_section
from tests.support.postgres import PostgresServer
from tests.support.processes import stop, wait_until

BIN = Path(sys.executable).parent
STEPCRED = BIN / "stepcred"
KV_VALUE = "programs-kv-canary-42/+x"
_OURS = ("STEPCRED_", "AWS_", "VAULT_", "BAO_", "PG")


@dataclass
class Programs:
    """One daemon for the scopes that the pages under docs/ speak of, and an agent that may have them all."""

    bao: BaoServer
    pg: PostgresServer
    lake: Lake
    folder: Path  # on tmpfs: files of secrets go there
    timings: Mapping[str, str] = field(default_factory=dict)
    name: str = "programs"
    _runs: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        roles = [
            TokenRole(name=f"{self.name}-token", reads=[f"secret/data/{self.name}"]),
            TokenRole(name=f"{self.name}-db", reads=[f"database/creds/{self.name}-db"]),
        ]
        login = provision(self.bao, self.folder, roles, broker=f"{self.name}-broker")
        put_secret(self.bao, self.name, {"password": KV_VALUE})
        provision_database(self.bao, self.pg, f"{self.name}-db")
        aws = aws_section(self.lake.ceph.url, self.folder, self.lake.ceph.key, accept_unbounded_roles=True)
        self.deployment = Deployment(
            self.folder / "daemon",
            self._scope_map(self.lake.role(self.name)),
            vault=vault_section(self.bao, login),
            aws=aws,
            timings=self.timings,
            more={**MORE, **ROOMY},
        )
        self.home = self.folder / "home"
        self.home.mkdir()
        self._creds = self.deployment.agent("workflow/nightly-etl/step/load")

    def _scope_map(self, role_arn: str) -> str:
        where = f"host: 127.0.0.1, port: {self.pg.port}, database: {self.pg.database}"
        return f"""{HEAD}
scopes:
  app-token: {{vault: {{role: {self.name}-token}}, ttl: 10m, tier: low}}
  orders-db:
    vault: {{role: {self.name}-db, read: database/creds/{self.name}-db, attributes: {{{where}}}}}
    ttl: 10m
    tier: low
  lake-write:
    aws:
      role_arn: {role_arn}
      any_region: true
      statements:
        - {{Effect: Allow, Action: "s3:ListBucket", Resource: "arn:aws:s3:::{BUCKET}"}}
        - {{Effect: Allow, Action: ["s3:GetObject", "s3:PutObject"], Resource: "arn:aws:s3:::{BUCKET}/{{workflow}}/*"}}
    ttl: 10m
    tier: elevated
grants:
  nightly: {{workloads: [load], workflows: [nightly-etl], scopes: [app-token, orders-db, lake-write], max_step: 2h}}
"""

    def env(self, **more: str) -> dict[str, str]:
        """Of a new run of the step `load`, with nobody's credentials; `stepcred` and its neighbours are on PATH."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        names = {"STEPCRED_WORKFLOW": "nightly-etl", "STEPCRED_RUN": f"r{next(self._runs)}", "STEPCRED_STEP": "load"}
        path = f"{BIN}{os.pathsep}{clean['PATH']}"
        where = {"HOME": str(self.home), "PATH": path, "BAO_ADDR": self.bao.address, "VAULT_ADDR": self.bao.address}
        return {**clean, **self.deployment.env(self._creds), **names, **where, **more}

    def run(
        self, argv: Sequence[str | Path], env: Mapping[str, str], *, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=dict(env), cwd=self.home, capture_output=True, text=True, timeout=seconds, check=False
        )

    def refuses(self, variables: Mapping[str, str]) -> str:
        """The bucket's answer to the session of these variables: "" when it may list it."""
        session = SimpleNamespace(
            access_key_id=variables["AWS_ACCESS_KEY_ID"],
            secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            session_token=variables["AWS_SESSION_TOKEN"],
        )
        return self.lake.tries(session)

    @contextmanager
    def sidecar(self, env: Mapping[str, str], *args: str, ready: Path) -> Iterator[subprocess.Popen[bytes]]:
        """`stepcred sidecar` from the moment that this file is there; ended by SIGTERM, if it was not before."""
        with (self.folder / "sidecar.log").open("ab") as log:
            process = subprocess.Popen([STEPCRED, "sidecar", *args], env=dict(env), stderr=log, cwd=self.home)
        try:
            wait_until(ready.exists, within=20, what=f"{ready} (log {self.folder / 'sidecar.log'})")
            yield process
        finally:
            stop(process)


def on_tmpfs(name: str) -> Path:
    """A new folder for one module's files of secrets; the caller removes it."""
    folder = Path(f"/dev/shm/stepcred-{name}-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder
