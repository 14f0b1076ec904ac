"""The entries of a scope map. A field's description is what editors show, by way of the JSON Schema."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from broker.config import TierOverride
from broker.model import Bind, JsonValue
from broker.policy.decision import Concurrent, Signers
from broker.policy.language.schema import values as of
from broker.policy.patterns import TRUST_DOMAIN


class Strict(BaseModel):
    """Nothing is converted, nothing unknown is kept."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ApprovalsEntry(Strict):
    """Who may say yes under this map, beside what is so for every map."""

    signers: of.MapSigners = Field(
        default=Signers.ALLOW, description="refuse: whoever signed this map approves nothing under it."
    )


class Head(Strict):
    """The root file as a whole; entries are looked at one by one."""

    version: of.Version
    extends: str | None = Field(None, description="A map that this one may only narrow; a path relative to this file.")
    environment: of.Name
    trust_domain: of.TrustDomain
    federates_with: of.TrustDomains = Field(
        [], description="Further trust domains that workloads, launchers and never agents may be of."
    )
    constants: dict[str, Any] = Field({}, description="Texts for {name} in ids and provider blocks.")
    approvals: ApprovalsEntry = Field(ApprovalsEntry(), description="Who may approve under this map.")
    residency: dict[str, Any] = Field({}, description="Where data may live: a name, and its regions.")
    workloads: dict[str, Any] = Field({}, description="Who asks: patterns of certificates.")
    launchers: dict[str, Any] = Field({}, description="Schedulers that open steps for workloads.")
    scopes: dict[str, Any] = Field({}, description="What can be minted.")
    grants: dict[str, Any] = Field({}, description="Which workloads may have which scopes.")
    denies: dict[str, Any] = Field({}, description="What is refused whatever the grants say.")
    never: dict[str, Any] = Field({}, description="What no grant may ever give; checked at every load.")
    tiers: dict[str, Any] = Field({}, description="What each tier demands.")
    teams: dict[str, Any] = Field({}, description="Files of teams, and their bounds.")
    tests: list[Any] = Field([], description="Questions and the answers they must have.")


class TeamHead(Strict):
    """A team's file as a whole."""

    version: of.Version
    scopes: dict[str, Any] = {}
    grants: dict[str, Any] = {}
    denies: dict[str, Any] = {}
    tests: list[Any] = []


ROOT_SECTIONS = (
    "constants residency workloads launchers scopes grants denies never tiers teams".split()  # noqa: SIM905 - a list of words
)
TEAM_SECTIONS = ("scopes", "grants", "denies")


def lenient_head(data: JsonValue) -> Head:
    """What can be read of a file whose head has mistakes, so that those of its entries are reported as well."""
    found = data if isinstance(data, dict) else {}
    sections = {name: found[name] if isinstance(found.get(name), dict) else {} for name in ROOT_SECTIONS}
    tests = found["tests"] if isinstance(found.get("tests"), list) else []
    domain = found.get("trust_domain")
    known = domain if isinstance(domain, str) and TRUST_DOMAIN.fullmatch(domain) else ""
    others = found["federates_with"] if isinstance(found.get("federates_with"), list) else []
    return Head.model_construct(
        version=1,
        environment="",
        trust_domain=known,
        federates_with=[one for one in others if isinstance(one, str)],
        tests=tests,
        **sections,
    )


def lenient_team_head(data: JsonValue) -> TeamHead:
    """The same of a team's file."""
    found = data if isinstance(data, dict) else {}
    sections = {name: found[name] if isinstance(found.get(name), dict) else {} for name in TEAM_SECTIONS}
    tests = found["tests"] if isinstance(found.get("tests"), list) else []
    return TeamHead.model_construct(version=1, tests=tests, **sections)


class WorkloadEntry(Strict):
    """A named certificate pattern."""

    id: str = Field(description="spiffe://trust-domain/literal/{capture}; captures take whole segments.")
    owners: of.Optionals = Field(
        [], description="Operators, or group:NAME; who owns a workload approves nothing of it."
    )
    description: str = ""


class ScopeEntry(Strict):
    """Everything of a scope but its provider's block."""

    ttl: of.Ttl = Field(timedelta(minutes=15), description="Life of one credential, 60s to 24h.")
    max_ttl: of.LongSpan | None = Field(None, description="From the first credential to the end of its last successor.")
    tier: of.TierName  # no default: whoever declares a scope says how dangerous it is
    residency: of.Optionals = Field([], description="Where its data lives.")
    shared_hourly: of.Hourly | None = Field(
        None, description="Over all agents in any rolling hour, one workload a quarter at most; no limit by default."
    )
    approvals: of.Approvals = Field(0, description="Operators who must say yes.")
    description: str = ""


class DailyEntry(Strict):
    """A window of the day."""

    start: Annotated[of.TimeOfDay, Field(alias="from")]
    end: Annotated[of.TimeOfDay, Field(alias="to", description="Not included; before `from`: over midnight.")]
    tz: of.Zone
    days: of.Days | None = Field(None, description="On which it begins; every day by default.")


class LaunchWhenEntry(Strict):
    """Conditions of time."""

    until: of.Instant | None = None
    daily: DailyEntry | None = None


class WhenEntry(LaunchWhenEntry):
    """Conditions of time and place."""

    networks: Annotated[of.Networks | None, Field(description="Networks that the call comes from.")] = None


class LauncherEntry(Strict):
    """A scheduler, and whom it opens steps for."""

    id: str = Field(description="The launcher's own certificate: spiffe://trust-domain/…")
    owners: of.Optionals = Field(
        [], description="Operators, or group:NAME; they approve nothing of the steps that it opens."
    )
    workloads: of.Names
    workflows: of.Workflows
    definition_digest: of.Digests | None = Field(None, description="Of the definitions it may launch; any by default.")
    when: LaunchWhenEntry = LaunchWhenEntry()
    description: str = ""


class GrantEntry(Strict):
    """Which workloads may have which scopes, under which conditions."""

    workloads: of.Names
    workflows: of.Workflows
    scopes: of.Names
    definition_digest: of.Digests | None = Field(None, description="Accepted definitions; needs a launcher.")
    max_step: of.LongSpan = Field(timedelta(hours=24), description="Longest life of a step.")
    concurrent: of.Concurrency = Field(Concurrent.REFUSE, description="What happens to an older attempt that is alive.")
    bind: of.Binding = Field(
        Bind.IDENTITY, description="What later calls about the step must come with: the same identity, or the same key."
    )
    attempts: of.Attempts | None = Field(None, description="For the first so many attempts of a step; all by default.")
    approvals: of.Approvals = Field(0, description="Operators who must say yes.")
    when: WhenEntry = WhenEntry()
    description: str = ""


class DenyEntry(Strict):
    """What is refused whatever the grants say. A selector left out selects everything."""

    workloads: of.Names | None = None
    workflows: of.Workflows | None = None
    scopes: of.Names | None = None
    definition_digest: of.Digests | None = None
    when: WhenEntry = WhenEntry()
    description: str = ""


class NeverEntry(Strict):
    """What no grant may ever give."""

    agents: str = Field(description="A SPIFFE ID in which * is any one segment.")
    tier: of.TierName | None = Field(None, description="This tier and those above it.")
    scopes: of.Names | None = None
    description: str = ""


class TierEntry(Strict):
    """What the scopes of a tier must be, and what they ask for."""

    revocability: of.Revocabilities | None = Field(
        None, description="How dead they must be able to be made; any by default."
    )
    approvals: of.Approvals = Field(0, description="Operators who must say yes to each of them.")
    longest_ttl: of.Ttl | None = Field(None, description="No scope of this tier may live longer.")
    budget: of.Budget | None = Field(None, description="Credentials that may exist, per step and scope.")
    hourly: of.Hourly | None = Field(None, description="Per workload and scope, in any rolling hour.")
    refill: of.GuardSpan | None = Field(None, description="One attempt comes back in each such span.")
    lock: of.GuardSpan | None = Field(None, description="How long a lock lasts.")
    cool_down: of.GuardSpan | None = Field(None, description="The first one; each further one doubles.")
    max_cool_down: of.GuardSpan | None = Field(None, description="Where doubling ends.")
    ceiling_factor: of.Factor | None = Field(
        None, description="Admitted requests in a step's life, failed ones included, as a multiple of the budget."
    )
    on_lock: of.Halting | None = Field(None, description="What a lock ends: the step by default, its run or workflow.")
    compensate: of.Name | None = Field(None, description="Who is told of a lock: a [compensation.NAME] of the broker.")
    description: str = ""

    @property
    def limits(self) -> TierOverride:
        """The guard's numbers among them."""
        return TierOverride(**{item.name: getattr(self, item.name) for item in fields(TierOverride)})


class TeamEntry(Strict):
    """A team's file, and what may be in it."""

    path: str = Field(description="Relative to this file.")
    scopes_prefix: of.Name = Field(description="How the names of its scopes begin.")
    max_tier: of.TierName
    workloads: of.Names = Field(description="Of this file; the only ones that its grants may name.")
    roles: Annotated[
        list[str] | None,
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = Field(
        None, description="Provider roles, a * at the end for any ending; by default those named with the prefix."
    )
    description: str = ""


def _expected(value: object) -> str:
    if value not in EXPECTED:
        raise ValueError(f"expect is one of {', '.join(EXPECTED)}")
    return str(value)


EXPECTED = ("allow", "deny", "approval")  # approval: allowed once operators have said yes


class Expectation(Strict):
    """One entry of `tests:`."""

    agent: Annotated[str, Field(alias="as")]
    ask: str
    expect: Annotated[str, BeforeValidator(_expected), WithJsonSchema({"enum": list(EXPECTED)})]
    at: of.Instant | None = Field(None, description="The time of the run by default.")
    workflow: str | None = None
    run: str | None = None
    step: str | None = None
    proven: bool = Field(False, description="A launcher says workflow, run, step and digest.")
    definition_digest: str = ""
    address: str = Field("", description="IP address that the call comes from.")
    attempt: of.Attempts = 1
    reason: of.Reason | None = None
