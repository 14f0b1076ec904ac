"""What the load generator is told: where everything listens, and whose CPU it watches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

AGENTS = 8  # certificates, and so connections; each carries a share of the calls in flight
RUNAWAY = "nightly"  # the workflow of the agent that does not stop; it is none of the others'
SCOPES = 64  # one after the other, a new one for each sample
TRUST_DOMAIN = "dev.local"


def scope_name(number: int) -> str:
    return f"scope{number % SCOPES}"


def scope_map() -> str:
    """Each sample has a scope of its own, so that the guard's hour holds what it would hold in real life."""
    names = [scope_name(number) for number in range(SCOPES)]
    scopes = [f"  {name}: {{vault: {{role: bench}}, ttl: 10m, tier: low}}" for name in names]
    danger = "  danger: {vault: {role: bench}, ttl: 10m, tier: high}"
    return scope_map_of([*scopes, danger], [*names, "danger"])


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
class Targets:
    """Everything, and the pids whose CPU is read around each sample."""

    echo: Endpoint
    null: Endpoint
    vault: Endpoint
    limited: Endpoint  # with the limits of a daemon that nobody has configured; its last agent is the runaway
    direct: Direct
    aws: Endpoint | None  # without Ceph there is none
    sts: Mapping[str, str]  # as of tests.bench.aws.Sts
    watch: dict[str, int]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def read_targets(path: Path) -> Targets:
    raw: dict[str, Any] = json.loads(path.read_text())

    def endpoint(name: str) -> Endpoint:
        agents = tuple(Agent(**agent) for agent in raw[name]["agents"])
        return Endpoint(addr=raw[name]["addr"], agents=agents)

    return Targets(
        echo=endpoint("echo"),
        null=endpoint("null"),
        vault=endpoint("vault"),
        limited=endpoint("limited"),
        direct=Direct(**raw["direct"]),
        aws=endpoint("aws") if raw["aws"] else None,
        sts=raw["sts"],
        watch=raw["watch"],
    )
