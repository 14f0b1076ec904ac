"""Launchers, put into a map from outside of its file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.model import RuleRef
from broker.policy.holder import Policies, Policy
from broker.policy.launch import Launcher, Launchers
from broker.policy.patterns import parse_pattern
from broker.policy.windows import ALWAYS

SCHEDULER = "spiffe://dev.local/scheduler"
DIGEST = "sha256:" + "ab" * 32


def launcher(name: str = "scheduler", spiffe_id: str = SCHEDULER, **changes: Any) -> Launcher:
    """May open steps of workload `load`, of every workflow and definition, at all times."""
    fields: dict[str, Any] = {
        "name": name,
        "pattern": parse_pattern(spiffe_id, trust_domain="dev.local"),
        "workloads": frozenset({"load"}),
        "workflows": None,
        "digests": None,
        "when": ALWAYS,
        "rule": RuleRef(name=f"launchers.{name}", file="scopes.yaml", line=1),
    }
    return Launcher(**{**fields, **changes})


class LaunchingPolicies(Policies):
    """The file's map, with these launchers."""

    launchers: tuple[Launcher, ...] = ()

    @property
    def current(self) -> Policy:
        found = super().current
        launchers = Launchers(found.map.trust_domain, self.launchers)
        return Policy(map=replace(found.map, launchers=launchers), generation=found.generation)
