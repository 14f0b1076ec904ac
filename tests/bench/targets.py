"""What the load generator is told: where everything listens, and whose CPU it watches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

AGENTS = 8  # certificates, and so connections; each carries a share of the calls in flight
RUNAWAY = "nightly"  # the workflow of the agent that does not stop; it is none of the others'
DRAIN_SCOPE = "drain"
SESSION_SCOPE = "session"  # of AWS's kind, for the sidecar
SCOPES = 64  # one after the other, a new one for each sample
TRUST_DOMAIN = "dev.local"
SESSION_BLOCK = (
    '{role_arn: "arn:aws:iam::123456789012:role/bench", any_region: true, revoke: bound, '
    'statements: [{Effect: Allow, Action: "s3:ListBucket", Resource: "arn:aws:s3:::lake"}]}'
)


def scope_name(number: int) -> str:
    return f"scope{number % SCOPES}"


def crowd_name(size: int) -> str:
    """The side that issues while so many leases live."""
    return f"live{size}"


def scope_map() -> str:
    """Each sample has a scope of its own, so that the guard's hour holds what it would hold in real life."""
    names = [scope_name(number) for number in range(SCOPES)]
    scopes = [f"  {name}: {{vault: {{role: bench}}, ttl: 10m, tier: low}}" for name in names]
    more = {
        "danger": "{vault: {role: bench}, ttl: 10m, tier: high}",
        DRAIN_SCOPE: "{vault: {role: bench}, ttl: 30m, tier: low}",
        SESSION_SCOPE: f"{{aws: {SESSION_BLOCK}, ttl: 1h, tier: low}}",
    }
    return scope_map_of([*scopes, *(f"  {name}: {block}" for name, block in more.items())], [*names, *more])


def scope_map_of(scopes: Iterable[str], granted: Iterable[str]) -> str:
    """One workload that may have them all. `scopes`: one line each."""
    return f"""
version: 1
environment: dev
trust_domain: {TRUST_DOMAIN}
workloads:
  load: {{id: "spiffe://{TRUST_DOMAIN}/workflow/{{workflow}}/step/load", owners: [group:bench]}}
scopes:
{chr(10).join(scopes)}
grants:
  all: {{workloads: [load], workflows: ["*"], scopes: [{", ".join(granted)}], max_step: 2h}}
"""


@dataclass(frozen=True, kw_only=True)
class Agent:
    """PEM files of one client certificate, and the workflow that it is for."""

    workflow: str
    cert: str
    key: str
    ca: str


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A gRPC server and those who may call it."""

    addr: str
    agents: tuple[Agent, ...]


@dataclass(frozen=True, kw_only=True)
class Direct:
    """OpenBao itself."""

    address: str
    ca: str


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Where its endpoint will be once it is started."""

    port: int
    path: str
    token_file: str


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Everything, and the pids whose CPU is read around each sample."""

    echo: Endpoint
    null: Endpoint
    stub: Endpoint  # the Vault provider over an instant server
    vault: Endpoint
    database: str  # of that one
    crowds: Mapping[int, Endpoint]  # by how many leases live there
    sidecar: Sidecar
    limited: Endpoint  # with the limits of a daemon that nobody has configured; its last agent is the runaway
    direct: Direct
    aws: Endpoint
    sts: Mapping[str, str]  # the instant one, as of tests.bench.aws.Sts
    ceph: Mapping[str, str]  # likewise; empty where there is none
    watch: dict[str, int]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def read_targets(path: Path) -> Targets:
    raw: dict[str, Any] = json.loads(path.read_text())

    def endpoint(name: str) -> Endpoint:
        return _endpoint(raw[name])

    return Targets(
        echo=endpoint("echo"),
        null=endpoint("null"),
        stub=endpoint("stub"),
        vault=endpoint("vault"),
        database=raw["database"],
        crowds={int(size): _endpoint(one) for size, one in raw["crowds"].items()},
        sidecar=Sidecar(**raw["sidecar"]),
        limited=endpoint("limited"),
        direct=Direct(**raw["direct"]),
        aws=endpoint("aws"),
        sts=raw["sts"],
        ceph=raw["ceph"],
        watch=raw["watch"],
    )


def _endpoint(raw: Mapping[str, Any]) -> Endpoint:
    return Endpoint(addr=raw["addr"], agents=tuple(Agent(**agent) for agent in raw["agents"]))
