"""What the broker counts, as `stepcred_*` in a registry of its own.

Labels come from closed sets (states, reasons, codes) and from what operators declare (scopes). Never from what an
agent says: its names and ids would let it fill memory, and would tell a scraper who did what.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from broker.alert import AlertRule
from broker.errors import Reason
from broker.model import Evidence, LeaseState, Tier

MAX_SCOPES = 1000  # beyond it a scope is counted as "other"
OTHER = "other"

# Seconds. RPCs are answered in ms, AWS needs seconds to minutes until a session is dead.
_RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DEATH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class IssueOutcome(Enum):
    """How a request for a credential of a declared scope ended."""

    ISSUED = "issued"
    REPLAYED = "replayed"  # the same credential again, nothing minted
    REFUSED = "refused"  # policy, guard or state said no
    FAILED = "failed"  # definitely nothing minted
    IN_DOUBT = "in_doubt"


class GuardBlock(Enum):
    """What the guard did to a key."""

    LOCKED = "locked"
    HELD = "held"


class Delivered(Enum):
    """What became of something that was sent to a receiver of alerts or compensations."""

    TAKEN = "taken"
    REFUSED = "refused"  # this one message
    AWAY = "away"  # no answer, or a receiver in trouble


class Metrics:
    """Every metric, with one typed method per thing that happens. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._scopes: set[str] = set()
        self._make_lease_metrics()
        self._make_broker_metrics()
        # Of what every call counts: prometheus_client's own look-up of a label's values takes as long as counting.
        self._issues_of = cache(self._issues.labels)
        self._mint_of = cache(self._mint.labels)
        self._rpc_of = cache(self._rpc.labels)
        self._revocation_of = cache(self._revocation.labels)
        self._time_to_dead_of = cache(self._time_to_dead.labels)

    def _make_lease_metrics(self) -> None:
        registry = self.registry
        self._leases = Gauge("stepcred_leases", "Leases that are not terminal", ["state"], registry=registry)
        self._issues = Counter(
            "stepcred_issues", "Requests for a credential", ["scope", "provider", "outcome"], registry=registry
        )
        self._mint = Histogram(
            "stepcred_mint_seconds",
            "Provider's time for one mint",
            ["provider"],
            buckets=_RPC_BUCKETS,
            registry=registry,
        )
        self._revocation = Histogram(
            "stepcred_revocation_seconds",
            "Provider's time for one revocation attempt",
            ["provider", "outcome"],
            buckets=_RPC_BUCKETS,
            registry=registry,
        )
        self._time_to_dead = Histogram(
            "stepcred_time_to_dead_seconds",
            "From the wish to end a credential to the evidence that it is dead",
            ["provider", "evidence"],
            buckets=_DEATH_BUCKETS,
            registry=registry,
        )
        self._overdue = Gauge(
            "stepcred_revoking_overdue", "Leases that should have been dead for over a minute", registry=registry
        )
        self._doubts = Counter("stepcred_mints_in_doubt", "Mints of unknown outcome", ["provider"], registry=registry)
        for state in LeaseState:
            if not state.terminal:
                self._leases.labels(state.value).set(0)

    def _make_broker_metrics(self) -> None:
        registry = self.registry
        self._steps = Gauge("stepcred_steps_open", "Open steps", registry=registry)
        self._refusals = Counter("stepcred_refusals", "Refused calls", ["reason"], registry=registry)
        self._guard = Counter("stepcred_guard_blocks", "Guard keys locked or held", ["tier", "kind"], registry=registry)
        self._epoch = Gauge("stepcred_epoch", "This process's epoch; 0 when it has none", registry=registry)
        self._anchor = Gauge("stepcred_anchor_failing", "1 while the anchor file cannot be written", registry=registry)
        self._frozen = Gauge("stepcred_frozen", "1 while nothing is minted, by an operator's word", registry=registry)
        self._generation = Gauge("stepcred_policy_generation", "Policy generation in force", registry=registry)
        self._load_failures = Counter(
            "stepcred_scope_map_load_failures", "Scope maps refused; the last good one stays", registry=registry
        )
        self._map_refused = Gauge(
            "stepcred_scope_map_refused", "1 while the scope map on disk is refused", registry=registry
        )
        self._teams_refused = Gauge(
            "stepcred_scope_map_teams_refused", "Teams whose file on disk is refused", registry=registry
        )
        self._trust_refused = Gauge(
            "stepcred_trust_refused",
            "Bundles, lists and certificates of the front door whose newest reading is refused",
            registry=registry,
        )
        self._trust_ends = Gauge(
            "stepcred_trust_ends_seconds",
            "When the server's certificate ends, and the first of the revocation lists: seconds since 1970",
            ["what"],
            registry=registry,
        )
        self._places = Gauge(
            "stepcred_revoke_places",
            "Where a provider can end only so many credentials early: places taken, and those there are",
            ["provider", "at", "which"],
            registry=registry,
        )
        self._login_ends = Gauge(
            "stepcred_provider_login_ends_seconds",
            "When the broker's own login at a provider ends: seconds since 1970; 0 when it has none that ends",
            ["provider"],
            registry=registry,
        )
        self._alerts = Gauge("stepcred_alerts_firing", "Alerts that fire", ["rule"], registry=registry)
        self._deliveries = Counter(
            "stepcred_alert_deliveries",
            "Messages to sinks of alerts and to receivers of compensations",
            ["sink", "outcome"],
            registry=registry,
        )
        for rule in AlertRule:
            self._alerts.labels(rule.value).set(0)
        self._rpc = Histogram(
            "stepcred_rpc_seconds", "Time to answer", ["method", "code"], buckets=_RPC_BUCKETS, registry=registry
        )

    def lease_counts(self, counts: Mapping[LeaseState, int]) -> None:
        """Set the gauge of every state that is not terminal; those not in `counts` to zero."""
        for state in LeaseState:
            if not state.terminal:
                self._leases.labels(state.value).set(counts.get(state, 0))

    def issue(self, *, scope: str, provider: str, outcome: IssueOutcome) -> None:
        """Count one request. `scope` must be one that the scope map declares."""
        if scope not in self._scopes:
            if len(self._scopes) >= MAX_SCOPES:
                scope = OTHER
            self._scopes.add(scope)
        self._issues_of(scope, provider, outcome.value).inc()

    def mint(self, provider: str, took: timedelta) -> None:
        self._mint_of(provider).observe(took.total_seconds())

    def mint_in_doubt(self, provider: str) -> None:
        self._doubts.labels(provider).inc()

    def revocation(self, provider: str, took: timedelta, *, succeeded: bool) -> None:
        """One attempt, proven or not; `succeeded` = the provider answered."""
        outcome = "answered" if succeeded else "failed"
        self._revocation_of(provider, outcome).observe(took.total_seconds())

    def dead(self, provider: str, evidence: Evidence, took: timedelta) -> None:
        self._time_to_dead_of(provider, evidence.value).observe(took.total_seconds())

    def revoking_overdue(self, count: int) -> None:
        self._overdue.set(count)

    def steps_open(self, count: int) -> None:
        self._steps.set(count)

    def refusal(self, reason: Reason) -> None:
        self._refusals.labels(reason.value).inc()

    def guard_block(self, tier: Tier, block: GuardBlock) -> None:
        self._guard.labels(tier.value, block.value).inc()

    def epoch(self, epoch: int) -> None:
        self._epoch.set(epoch)

    def frozen(self, *, frozen: bool) -> None:
        self._frozen.set(frozen)

    def anchor_failing(self, *, failing: bool) -> None:
        """While it is, a database that is put back in time would not be noticed."""
        self._anchor.set(failing)

    def policy_generation(self, generation: int) -> None:
        self._generation.set(generation)

    def scope_map_load_failure(self) -> None:
        self._load_failures.inc()

    def scope_map_refused(self, *, refused: bool, teams: int = 0) -> None:
        """How the latest load ended; a refused map leaves its teams untold."""
        self._map_refused.set(refused)
        if not refused:
            self._teams_refused.set(teams)

    def front_door(self, *, refused: int, ends: Mapping[str, datetime]) -> None:
        """How it stands: what is on disk and not in force, and what runs out (its names are our own)."""
        self._trust_refused.set(refused)
        for what, at in ends.items():
            self._trust_ends.labels(what).set(at.timestamp())

    def login_ends(self, provider: str, at: datetime | None) -> None:
        """Of the broker itself at a provider."""
        self._login_ends.labels(provider).set(at.timestamp() if at else 0)

    def alerts_firing(self, counts: Mapping[AlertRule, int]) -> None:
        """Set every rule's; those not in `counts` to zero."""
        for rule in AlertRule:
            self._alerts.labels(rule.value).set(counts.get(rule, 0))

    def revoke_places(self, provider: str, at: str, *, taken: int, places: int) -> None:
        """`at`: what has room for only so many early ends, as the scope map names it."""
        self._places.labels(provider, at, "taken").set(taken)
        self._places.labels(provider, at, "all").set(places)

    def delivery(self, sink: str, outcome: Delivered) -> None:
        """One message. `sink` is a name of the config."""
        self._deliveries.labels(sink, outcome.value).inc()

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """One answered call. `method` is a name of the service's own table, never what a caller sent."""
        self._rpc_of(method, code).observe(seconds)
