"""What the end-to-end tests share: a scope map, OpenBao set up for it, and looks at what is really alive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.model import Lease, LeaseState
from broker.store.base import tail
from tests.support.bao import BaoServer, TokenRole, provision, put_secret
from tests.support.daemon import Deployment, vault_section

LOAD = "workflow/nightly/step/load"
REPORT = "workflow/nightly/step/report"

# A guard and a rate limit that never stand in the way: they have tests of their own.
ROOMY: dict[str, Any] = {
    "guard": {
        tier: {"budget": 1000, "hourly": 100_000, "cool_down": "1ms", "max_cool_down": "1ms"}
        for tier in ("low", "elevated", "high")
    },
    "limits": {"request_rate": 5000.0, "request_burst": 5000},
}


class Site:
    """One module's roles on OpenBao; each lists the other modules' tokens out by its own name."""

    def __init__(self, bao: BaoServer, folder: Path, name: str) -> None:
        self.bao = bao
        self.folder = folder
        self.name = name
        self.secret = f"{name}-kv-canary-7Q/x+%2"
        put_secret(bao, name, {"password": self.secret})
        self.roles = [
            TokenRole(name=f"{name}-token", reads=[f"secret/data/{name}"]),
            TokenRole(name=f"{name}-kv", reads=[f"secret/data/{name}"]),
            *(TokenRole(name=f"{name}-{db}", reads=[f"database/creds/{name}-{db}"]) for db in ("db", "slow")),
        ]
        self.login = provision(bao, folder, self.roles, broker=f"{name}-broker")
        self._count = 0

    @property
    def scope_map(self) -> str:
        name = self.name
        return f"""
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/load", owners: [group:data]}}
  report: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/report", owners: [group:data]}}
scopes:
  token: {{vault: {{role: {name}-token}}, ttl: 10m, tier: low}}
  kv: {{vault: {{role: {name}-kv, read: secret/data/{name}}}, ttl: 10m, tier: low}}
  db: {{vault: {{role: {name}-db, read: database/creds/{name}-db}}, ttl: 10m, tier: low}}
  slow: {{vault: {{role: {name}-slow, read: database/creds/{name}-slow}}, ttl: 10m, tier: low}}
  danger: {{vault: {{role: {name}-token}}, ttl: 10m, tier: high}}
  reports: {{vault: {{role: {name}-token}}, ttl: 10m, tier: low}}
grants:
  nightly: {{workloads: [load], workflows: [nightly], scopes: [token, kv, db, slow, danger], max_step: 2h}}
  reporting: {{workloads: [report], workflows: [nightly], scopes: [reports], max_step: 2h}}
"""

    def deployment(
        self,
        *,
        vault: Mapping[str, Any] | None = None,
        timings: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Deployment:
        """A new daemon's files. `vault` replaces parts of its section (None removes), `more` adds sections."""
        self._count += 1
        section = vault_section(self.bao, self.login) | dict(vault or {})
        return Deployment(
            self.folder / f"daemon{self._count}",
            self.scope_map,
            vault={key: value for key, value in section.items() if value is not None},
            timings=dict(timings or {}),
            more={**ROOMY, **(more or {})},
        )

    def live_tokens(self) -> list[dict[str, Any]]:
        """Tokens of leases alive now: OpenBao's own answer, not the broker's."""
        roles = {role.name for role in self.roles}
        return [token for token in self.bao.live_tokens() if token.get("role") in roles]

    def live_leases(self) -> set[str]:
        """The stepcred lease ids of those tokens."""
        return {token["meta"]["lease_id"] for token in self.live_tokens()}


def leases(deployment: Deployment) -> dict[str, Lease]:
    """Every lease row, read beside the daemon."""
    with deployment.store() as store:
        return {lease.id: lease for lease in store.read(lambda tx: tx.leases_in(*LeaseState))}


def journal(deployment: Deployment, *kinds: str) -> list[dict[str, Any]]:
    """The journal's records, of these kinds only."""
    with deployment.store() as store:
        records = [json.loads(entry.body) for entry in store.read(lambda tx: list(tail(tx)))]
    return [record for record in records if not kinds or record["kind"] in kinds]
