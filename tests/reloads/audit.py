"""What the journal says, in the order in which it was written: which map was in force at each decision."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from broker.journal.chain import Entry
from tests.reloads.maps import Version

SOON = timedelta(seconds=5)  # I5: from the adoption of a map to the wish to end what it gives no more, and to its death
_DEAD = ("LEASE_REVOKED", "LEASE_EXPIRED", "LEASE_VOID")


@dataclass
class Lease:
    """As the journal tells of it."""

    scope: str
    active: bool = False
    asked: bool = False  # to die
    gone: datetime | None = None  # since then no map gives it
    dead: bool = False


@dataclass
class Audit:
    """Reads on as the journal grows."""

    versions: dict[str, Version]  # digest → the good map of it
    current: Version | None = None
    generation: int = 0
    loaded: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)

    def read(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            body = json.loads(entry.body)
            kind, at = body["kind"], datetime.fromisoformat(body["at"])
            if kind == "POLICY_LOADED":
                self._loaded(body["data"], at)
            elif kind == "POLICY_REFUSED":
                self.refused += 1
            elif kind == "STEP_BEGUN":
                given = {scope for scope, verdict in body["data"]["scopes"].items() if verdict == "granted"}
                self._must(given == set(self._given), f"a step was begun with {sorted(given)}", body)
            elif kind.startswith("LEASE_"):
                self._lease(kind, body, at)

    @property
    def _given(self) -> tuple[str, ...]:
        return self.current.given if self.current else ()

    def _loaded(self, data: dict[str, Any], at: datetime) -> None:
        self.loaded += 1
        self.current = self.versions.get(data["digest"])
        if self.current is None:
            self.wrong.append(f"a map that nobody wrote whole is in force: generation {data['generation']}")
        if data["generation"] <= self.generation:
            self.wrong.append(f"generation {data['generation']} after {self.generation}")
        self.generation = data["generation"]
        for lease in self.leases.values():
            if lease.scope not in self._given and not lease.dead and lease.gone is None:
                lease.gone = at

    def _lease(self, kind: str, body: dict[str, Any], at: datetime) -> None:
        if kind == "LEASE_INTENT":
            self.leases[body["lease_id"]] = Lease(scope=body["scope"])
            number = self.current.number if self.current else -1
            rule, generation = body["rule"], body["data"]["policy_generation"]
            right = rule.startswith(f"v{number} ") and generation == self.generation
            self._must(right and body["scope"] in self._given, f"intent by {rule} of {generation}", body)
            return
        lease = self.leases[body["lease_id"]]
        if kind == "LEASE_ACTIVE":
            lease.active = True
            self._must(body["scope"] in self._given, "delivered though nothing gives it", body)
            self._must(lease.gone is None or lease.scope in self._given, "delivered after its grant went", body)
        elif kind in ("LEASE_DOOMED", "LEASE_REVOKING"):
            lease.asked = True
            self._in_time(lease, "asked to die", body, at)
        elif kind in _DEAD:
            lease.dead = True
            self._in_time(lease, "dead", body, at)

    def _in_time(self, lease: Lease, what: str, body: dict[str, Any], at: datetime) -> None:
        if lease.gone is not None and at - lease.gone > SOON:
            self.late.append(
                f"lease {body['lease_id']} of {lease.scope}: {what} {at - lease.gone} after its grant went"
            )

    def _must(self, right: bool, what: str, body: dict[str, Any]) -> None:  # noqa: FBT001 - a condition
        if not right:
            self.wrong.append(f"{what} under {self.current} of {self.generation}: {body.get('scope', '')}")

    def alive(self) -> list[str]:
        """Leases that are not dead."""
        return [lease_id for lease_id, lease in self.leases.items() if not lease.dead]
