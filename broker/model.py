"""The words of stepcred as types. Frozen, keyword-only, without I/O.

Times are aware UTC datetimes; spans are timedeltas. Nothing here holds a secret except
`Credential` payloads, whose secret fields are `Secret`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

from broker.clock import Moment
from broker.secret import Secret

# A workflow's own names. Rejected when they do not match; never folded, trimmed or decoded (CVE-2025-6004).
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,249}", re.ASCII)

# Of a workflow definition, as a launcher says it. Nothing else is taken, not even the same digits in capitals.
DEFINITION_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

# Of a lease; the name of an STS session, and metadata of a Vault token.
LEASE_ID = re.compile(r"[a-z2-7]{16}", re.ASCII)

JsonValue: TypeAlias = Any


class LeaseState(Enum):
    """DESIGN section 5. REVOKED, EXPIRED and VOID are terminal."""

    INTENT = "INTENT"  # durable before the provider is called
    ACTIVE = "ACTIVE"  # minted and committed
    REVOKING = "REVOKING"  # asked to die, no evidence yet
    REVOKED = "REVOKED"  # dead, with evidence
    EXPIRED = "EXPIRED"  # past the bound that the verifier itself enforces
    VOID = "VOID"  # nothing was made
    IN_DOUBT = "IN_DOUBT"  # the mint's outcome is unknown

    @property
    def terminal(self) -> bool:
        """No transition leads out."""
        return self in (LeaseState.REVOKED, LeaseState.EXPIRED, LeaseState.VOID)


class Evidence(Enum):
    """How the broker knows that a credential is dead."""

    SEEN_DEAD = "SEEN_DEAD"  # the provider's exact answer
    PROBE_DENIED = "PROBE_DENIED"  # it was used, and refused
    PUBLISHED = "PUBLISHED"  # on the revocation list
    EXPIRED = "EXPIRED"  # its verifier enforces time
    NOT_MINTED = "NOT_MINTED"
    ACCESS_ENDED = "ACCESS_ENDED"  # static: no longer served, the value lives on


class Revocability(Enum):
    """How dead a kind of scope can be made before its time."""

    EXACT = "EXACT"
    DENY_POLICY = "DENY_POLICY"
    PUBLISHED = "PUBLISHED"
    EXPIRY_ONLY = "EXPIRY_ONLY"
    STATIC = "STATIC"

    @property
    def ends_by_time(self) -> bool:
        """The verifier itself enforces time, so that a clock is evidence (DESIGN section 5)."""
        return self in (Revocability.DENY_POLICY, Revocability.EXPIRY_ONLY)


class Tier(Enum):
    """How dangerous a scope is; sets attempt budget and cool-down."""

    LOW = "low"
    ELEVATED = "elevated"
    HIGH = "high"


class StepState(Enum):
    """A step is open until something ends it, and is never opened again: that is the next attempt."""

    OPEN = "OPEN"
    ENDED = "ENDED"


class EndReason(Enum):
    """Why a step or a lease was ended."""

    STEP_ENDED = "STEP_ENDED"  # by EndStep
    REVOKED_BY_AGENT = "REVOKED_BY_AGENT"  # by RevokeLease
    SILENT = "SILENT"  # no heartbeat within the silence bound
    DEADLINE = "DEADLINE"  # the step's deadline
    LEASE_EXPIRED = "LEASE_EXPIRED"
    SUPERSEDED = "SUPERSEDED"  # a newer attempt was opened
    UNCLAIMED = "UNCLAIMED"  # no heartbeat named the lease in its claim window
    REPLAY_LOST = "REPLAY_LOST"  # asked for again when it could no longer be delivered
    REPLACED = "REPLACED"  # a successor was claimed
    GUARD_LOCK = "GUARD_LOCK"
    FROZEN = "FROZEN"
    EPOCH_LOST = "EPOCH_LOST"  # the broker's right to write ran out
    POLICY_CHANGED = "POLICY_CHANGED"
    AGENT_DENIED = "AGENT_DENIED"  # it, its launcher or the certificate that it was opened with
    BROKER_STOPPED = "BROKER_STOPPED"  # serve --on-stop revoke
    OPERATOR = "OPERATOR"
    MINT_FAILED = "MINT_FAILED"
    CUT_OFF = "CUT_OFF"  # its provider could end another one only together with it


class OnLock(Enum):
    """How much the guard ends when it locks or holds. Never more than what the agent's certificate, or its launcher, vouches for."""

    STEP = "step"
    RUN = "run"
    WORKFLOW = "workflow"


class Bind(Enum):
    """To what the calls about a step are held, beside its handle (a stolen handle is worth what this leaves of it)."""

    IDENTITY = "identity"  # the same SPIFFE ID, so that its certificate may be replaced over another key
    KEY = "key"  # the public key of the workload's first call as well

    @classmethod
    def strictest(cls, binds: Iterable[Bind]) -> Bind:
        """Of several, or of none."""
        return cls.KEY if any(bind is cls.KEY for bind in binds) else cls.IDENTITY


class Verdict(IntEnum):
    """What a client may do about a refusal."""

    RETRY_AFTER = 1
    NEVER = 2
    NEEDS_APPROVAL = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What a certificate is told from others by; all of it empty when it is not known."""

    spki_sha256: str = ""  # hex, of its public key: the same after a renewal over the same key
    serial_number: str = ""  # hex, as certificates are listed: lower case, no leading zeros
    issuer: str = ""  # RFC 4514


@dataclass(frozen=True, kw_only=True, slots=True)
class Agent:
    """A caller whose certificate passed every check of `broker.identity`."""

    spiffe_id: str
    trust_domain: str
    cert_sha256: str  # hex
    not_after: datetime
    peer: str = ""  # transport address, for the journal
    address: str = ""  # its IP address; "" when there is none
    certificate: Certificate = Certificate()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKey:
    """(agent, workflow, run, step): the same key opened again is the next attempt."""

    agent: str  # SPIFFE ID
    workflow: str
    run: str
    step: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One attempt of a step."""

    id: str
    key: StepKey
    attempt: int
    handle_hash: bytes  # SHA-256 of the handle; the handle itself is never stored
    handle_kid: str  # the mint key that derives the handle again
    request_id: str
    scopes: tuple[str, ...]  # named at BeginStep
    state: StepState
    opened_at: datetime
    deadline_at: datetime
    last_heartbeat_at: datetime
    opened_by: str  # SPIFFE ID of the launcher, or of the agent itself
    boot_id: str = ""  # of the boot in which it was opened
    deadline_boot: float = 0.0  # the deadline by elapsed time: seconds of that boot's CLOCK_BOOTTIME
    started_at: datetime | None = None  # the agent's own first call; None: so far only its launcher's
    proven: bool = False  # run, step and digest were said by a launcher
    definition_digest: str = ""
    bind: Bind = Bind.IDENTITY
    certificate: Certificate = Certificate()  # of the workload's first call; empty until then
    ended_at: datetime | None = None
    end_reason: EndReason | None = None

    @property
    def launched(self) -> bool:
        """Opened by a launcher, not by its own agent."""
        return self.opened_by != self.key.agent

    @property
    def launcher(self) -> str:
        """The SPIFFE ID of whoever opened it for its agent; "" when that did it itself."""
        return self.opened_by if self.launched else ""

    def began_with(self, certificate: Certificate) -> bool:
        """Is this the key of the workload's first call? One that is not known is none's."""
        return bool(certificate.spki_sha256) and certificate.spki_sha256 == self.certificate.spki_sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The durable record of one minted credential. No secret, hashed or not."""

    id: str  # 16 characters of [a-z2-7]; also the STS session name
    step_id: str
    agent: str
    request_id: str
    scope: str
    provider: str
    params: Mapping[str, JsonValue]  # the scope's provider block, templates filled
    tier: Tier
    revocability: Revocability
    state: LeaseState
    epoch: int
    policy_generation: int
    nonce: bytes  # 16 bytes; with the mint key it names the credential; erased (b"") at the end
    kid: str  # the mint key used
    guard_key: str
    intent_at: datetime
    expires_at: datetime  # absolute bound, computed at intent
    boot_id: str = ""  # of the boot in which it was intended
    expires_boot: float = 0.0  # the bound by elapsed time: seconds of that boot's CLOCK_BOOTTIME
    address: str = ""  # IP address that it was asked for from; "" when unknown
    certificate: Certificate = Certificate()  # of whoever asked for it
    refs: Mapping[str, JsonValue] = field(default_factory=dict)  # what the provider needs to find it again
    active_at: datetime | None = None
    claimed_at: datetime | None = None
    doomed_at: datetime | None = None  # end was asked for while minting
    end_reason: EndReason | None = None
    revoking_at: datetime | None = None
    ended_at: datetime | None = None
    evidence: Evidence | None = None
    replaces: str | None = None
    replaced_by: str | None = None
    approval_id: str = ""  # of what operators approved it by; successors keep it
    approval_digest: str = ""
    first_mint_at: datetime | None = None  # of the chain of successors; counts against max_ttl
    successor_no: int = 0
    attempts: int = 0  # at revoking or settling
    next_try_at: datetime | None = None
    last_problem: str = ""  # constant text, never a provider's own words


def past_deadline(step: Step, now: Moment) -> timedelta:
    """For how long; negative before it."""
    return now.since(wall=step.deadline_at, boot=step.deadline_boot, boot_id=step.boot_id)


def past_expiry(lease: Lease, now: Moment) -> timedelta:
    """For how long; negative before it."""
    return now.since(wall=lease.expires_at, boot=lease.expires_boot, boot_id=lease.boot_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleRef:
    """Where a decision comes from."""

    name: str
    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.name} ({self.position})"

    @property
    def position(self) -> str:
        """file:line:column without the folder: agents are told it, and need not know where the broker keeps its files."""
        return f"{self.file.rpartition('/')[2]}:{self.line}:{self.column}"


# --- credentials in flight: from a provider to the reply, never into the store ---


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultToken:
    """A token and where it is good."""

    token: Secret
    address: str
    namespace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsernamePassword:
    """A login; `attributes` say where, without a secret."""

    username: str
    password: Secret
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSession:
    """STS credentials; the lease may end before `session_expires_at`, by policy."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret
    region: str
    endpoint_url: str
    session_expires_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyValue:
    """A stored value; it outlives the step."""

    data: Mapping[str, Secret]
    version: int = 0
    version_id: str = ""  # where versions have names, not numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class X509Certificate:
    """A certificate; without a private key when the caller brought a CSR."""

    certificate_pem: str
    chain_pem: Sequence[str]
    serial_number: str
    private_key_pem: Secret | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SshCertificate:
    """The caller's own key, signed."""

    signed_key: str
    serial_number: str


Credential: TypeAlias = VaultToken | UsernamePassword | AwsSession | KeyValue | X509Certificate | SshCertificate


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """What a provider finds in a good block that is probably not meant."""

    path: tuple[str | int, ...]  # inside the block
    rule: str  # stable and short, such as any-action; shown as <kind>-any-action
    message: str
    help: str  # what to do, and why; the same for all of a rule
    note: bool = False  # worth knowing, and no mistake


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedBlock:
    """One scope's block, completed, templates not filled."""

    scope: str
    block: Mapping[str, JsonValue]
    ttl: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class Powers:
    """What one credential will be able to do, as its agent may know it: no secret, and nothing of how the broker comes by it."""

    words: tuple[str, ...]  # for people, a sentence each
    told: Mapping[str, JsonValue]  # for programs
    refused: str = ""  # why no such credential can be made; "" when nothing is known against it


class ScopeKind(Protocol):
    """What the scope map must know of a provider to check its block; one per provider, listed in wiring.

    Lives here because policy and providers are siblings and neither imports the other.
    """

    name: str  # the block's key in the scope map: "vault", "aws"

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[tuple[tuple[str | int, ...], str]]:
        """Every mistake as (path inside the block, message); empty when the block is good."""
        ...

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:
        """A good block, with what the scope's tier decides where the block is silent."""
        ...

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:
        """Of a good block: no lease can be longer, whatever `ttl` says. None: nothing is known."""
        ...

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        """Of a good block, completed."""
        ...

    def powers(self, block: Mapping[str, JsonValue]) -> Sequence[str]:
        """Of a good block: what it makes use of at the provider, the role first; each up to the name that says whose it is.

        A team's file is bounded by these names, and a role keeps its tier under whatever scope's name.
        """
        ...

    def regions(self, block: Mapping[str, JsonValue]) -> Sequence[str] | None:
        """Of a good block: where it may be used; empty = anywhere. None: regions mean nothing to this provider."""
        ...

    def describe(self, block: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:
        """Of a completed block, templates filled: what a lease from `now` until then is good for. Never raises for a block."""
        ...

    def warnings(self, block: Mapping[str, JsonValue]) -> Sequence[Remark]:
        """Of a good block, templates not filled: what is probably not meant, or might fail when it is minted."""
        ...

    def joint_warnings(self, blocks: Sequence[NamedBlock]) -> Sequence[tuple[str, Remark]]:
        """Of all scopes of this kind: what they do to each other, or can do only so often; each at a scope by name."""
        ...

    def json_schema(self) -> JsonValue:
        """Of its block, for editors (JSON Schema 2020-12)."""
        ...


@runtime_checkable
class Weakens(Protocol):
    """A ScopeKind that learns what keeps credentials from being ended as their block says."""

    def why_weaker(self, block: Mapping[str, JsonValue]) -> str:
        """Of a good block, completed: what is known against it; "": nothing."""
        ...


MIN_LEASE_LIFE = timedelta(seconds=60)  # DESIGN section 4: a shorter one is refused
