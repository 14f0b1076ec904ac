"""The smallest interface of something that mints. Further powers are separate Protocols.

Providers know nothing of store, policy or gRPC. Each call is one attempt with a timeout of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol, runtime_checkable

from broker.model import Credential, Evidence, JsonValue, Revocability
from broker.secret import Secret

DENY_WRITTEN_AT = "deny_written_at"  # in a lease's refs: when its provider took the deny (RFC 3339, UTC)
ISSUED_AT = "issued_at"  # likewise: when it was made, by its provider's clock


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseRef:
    """What a provider needs to name, find, revoke and probe one credential. No secret."""

    lease_id: str
    agent: str  # SPIFFE ID
    nonce: bytes
    kid: str
    params: Mapping[str, JsonValue]  # the scope's block, templates filled
    refs: Mapping[str, JsonValue]  # what the provider noted at mint
    revocability: Revocability
    intent_at: datetime
    expires_at: datetime  # absolute bound
    epoch: int
    found: bool = False  # of a mint in doubt: it is on record that it had landed
    attempts: int = 0  # at ending or settling it, so far
    scope: str = ""  # its name in the map; means nothing at a real provider


@dataclass(frozen=True, kw_only=True, slots=True)
class MintOrder:
    """One mint. `note` records durably what was made so far, before the provider goes on."""

    ref: LeaseRef
    workflow: str
    run: str
    step: str
    note: Callable[[Mapping[str, JsonValue]], Awaitable[None]]
    public_input: str = ""  # the caller's CSR or public key; not stored

    @property
    def agent(self) -> str:
        """The SPIFFE ID that it is minted for."""
        return self.ref.agent


@dataclass(frozen=True, kw_only=True, slots=True)
class Minted:
    """A credential and what is needed to end it."""

    credential: Credential
    refs: Mapping[str, JsonValue] = field(default_factory=dict)
    provider_request_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutOff:
    """To end one credential, all of its kind that were made before it were ended as well: a choice of the scope."""

    param: str  # what they have in common: this key of `LeaseRef.params` …
    value: str  # … with this value
    before: datetime  # by the provider's clock

    def hits(self, ref: LeaseRef) -> bool:
        """Was this one made before, as far as is known? A stored value was not made, and is not ended by it."""
        if ref.revocability is Revocability.STATIC or ref.params.get(self.param) != self.value:
            return False
        told = ref.refs.get(ISSUED_AT)
        made = datetime.fromisoformat(told) if isinstance(told, str) else ref.intent_at
        return made < self.before


class Contact(Enum):
    """What one call says of its provider."""

    ANSWERED = "answered"  # it is there; when it is an error, this one lease cannot be ended: no reason to stop minting
    FAILED = "failed"  # it is there, and cannot do it
    NONE = "none"  # nobody answered at all: its next answer, to whomever, is a reason to ask again at once
    NOT_ASKED = "not asked"  # nothing was sent, so that it says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a revocation has come. Without evidence the lease stays REVOKING."""

    evidence: Evidence | None = None
    step: str = ""  # constant text for the journal, for example "DENY_WRITTEN"
    refs: Mapping[str, JsonValue] = field(default_factory=dict)  # merged into the lease's
    again: timedelta | None = None  # look again after this, though only time is the certain end
    cut_off: CutOff | None = None
    contact: Contact = Contact.ANSWERED


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """What is known of a mint in doubt.

    `found`: it had landed. `evidence` is set only when `final` was asked and no
    late mint can change the answer: SEEN_DEAD when found, NOT_MINTED when not, EXPIRED when it could not be
    looked for: then it counts only once the latest mint's whole life has passed.
    """

    found: bool
    evidence: Evidence | None = None
    refs: Mapping[str, JsonValue] = field(default_factory=dict)
    contact: Contact = Contact.ANSWERED


class MintRefused(Exception):
    """Definite: nothing was made, or what was made went to nobody and was seen dead, and nothing can land any more.

    DESIGN section 3, step 10. Text is constant. `contact`: FAILED counts for the breaker.
    """

    def __init__(self, text: str = "", contact: Contact = Contact.ANSWERED) -> None:
        super().__init__(text)
        self.contact = contact


class MintInDoubt(Exception):
    """Anything else: it may have been minted. Text is constant, never the provider's own words."""


class ProviderError(Exception):
    """Revoke, probe or settle could not be carried out; proves nothing. Text is constant."""

    def __init__(self, text: str, contact: Contact = Contact.FAILED) -> None:
        super().__init__(text)
        self.contact = contact


class Provider(Protocol):
    """Mints and revokes for one vendor."""

    name: str

    async def mint(self, order: MintOrder) -> Minted:
        """One attempt. Raises MintRefused or MintInDoubt, nothing else."""
        ...

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Push the credential towards its end, and look. Idempotent. Raises ProviderError."""
        ...

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Is it dead? None = not proven. Raises ProviderError."""
        ...

    async def check(self) -> list[str]:
        """Problems that keep it from minting, each with what to do; empty when it is ready."""
        ...

    async def close(self) -> None:
        """Give back connections and threads."""
        ...


@runtime_checkable
class SettlesDoubt(Protocol):
    """Can find out whether a mint of unknown outcome landed, and end it if so."""

    landing_seconds: float  # after the last possible send, until a late mint can no longer land

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Find out whether it landed, and kill it once `ref.found` says that this is on record.

        Reported before it is killed: were it killed first, a crash in between would leave no trace of a credential
        that had existed, and its charge would be given back (I4). `final`: the landing time has passed.
        Raises ProviderError.
        """
        ...


@runtime_checkable
class TakesInput(Protocol):
    """Knows what a caller must bring to a scope: a CSR, a public key, or nothing."""

    def input_problem(self, params: Mapping[str, JsonValue], public_input: str) -> str:
        """What is wrong with what was brought, as a constant text for the caller; "" when it fits. Without I/O."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NoRoom:
    """The provider could not end one more credential early, as its scope promises."""

    why: str  # constant text, for the agent
    after: timedelta  # when there may be room


@runtime_checkable
class EndsTogether(Protocol):
    """Answers many ends with one call: more of them wait at a time than it has calls in flight."""

    ends_at_once: int


@runtime_checkable
class HasRoom(Protocol):
    """Can end only so many credentials early at a time."""

    def no_room(self, params: Mapping[str, JsonValue], agent: str) -> NoRoom | None:
        """Before the intent, so free of charge; without I/O. `mint` looks again, and is what holds."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Places for early ends."""

    taken: int
    places: int


@runtime_checkable
class KnowsRoom(Protocol):
    """Can say how much room there is, where it is bounded."""

    def rooms(self) -> Mapping[str, Room]:
        """By what has it, such as a role's ARN; what was not used yet is missing. Without I/O."""
        ...


@runtime_checkable
class Foresees(Protocol):
    """Knows something that a lease's row must say before its mint is sent."""

    def foresee(self) -> Mapping[str, JsonValue]:
        """What is known now, for the intent's refs; without I/O."""
        ...


@runtime_checkable
class KnowsTime(Protocol):
    """Has heard the time from where its credentials are verified."""

    def time_heard(self) -> datetime | None:
        """That clock's time now: the `Date` of its last answer, and what has elapsed on CLOCK_BOOTTIME since.

        None before the first answer. Never ahead of the truth: a `Date` is cut to the second and old on arrival.
        """
        ...


@runtime_checkable
class KnowsLogin(Protocol):
    """Has a login of its own that ends."""

    def login_left(self) -> float | None:
        """What is left of the life of its token, as a share of the whole; zero or less: it has none that is good.

        As far as it knows, without waiting. None: nothing is known yet, or it never ends.
        """
        ...

    def login_ends(self) -> datetime | None:
        """When what it has now ends. None: it has none, or it never ends."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DeclaredScope:
    """A scope as the map declares it; templates in its block are not filled."""

    block: Mapping[str, JsonValue]
    ttl: timedelta
    name: str = ""


class Findings(list[str]):
    """What is wrong; beside it what is good to know, and a command that prints what mends it (`{map}`: the map's file)."""

    def __init__(self, problems: Iterable[str] = ()) -> None:
        super().__init__(problems)
        self.remarks: list[str] = []
        self.remedy = ""


@runtime_checkable
class Remarks(Protocol):
    """Has something to say to the operator that is no problem."""

    def remarks(self) -> list[str]:
        """What the settings mean for the promises that are made."""
        ...


@runtime_checkable
class ChecksScopes(Protocol):
    """Can say whether it may mint, and end, what scopes declare."""

    async def check_scopes(self, scopes: Iterable[DeclaredScope]) -> list[str]:
        """As `Provider.check`, and for each of these scopes; may be Findings.

        Mints nothing that may do anything, and changes nothing.
        """
        ...


@runtime_checkable
class Surveys(Protocol):
    """Finds out what its ScopeKind must know: how dead the credentials of scopes can be made now."""

    async def survey(self, scopes: Iterable[DeclaredScope]) -> bool:
        """True: a map with these scopes may read otherwise than before. Bounded; an unreachable provider teaches nothing."""
        ...

    async def survey_again(self, scopes: Iterable[DeclaredScope]) -> bool:
        """The same, about what it knows nothing of, or nothing good: of these scopes and of all it was asked about before."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stray:
    """Something that was alive and that nothing known accounts for."""

    kind: str  # "token", "leased secret"
    id: str  # accessor, id of the secret's lease
    lease_id: str = ""  # of stepcred, where it says so itself
    about: str = ""  # role or path


async def _unheard(_stray: Stray) -> None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What is known after a database was restored or lost, and who asks."""

    since: datetime  # leased secrets issued before are left alone
    scopes: tuple[DeclaredScope, ...]
    leases: frozenset[str]  # ids of the leases that have not ended: the daemon itself ends them
    children: frozenset[str]  # ids of the leased secrets that those name
    operator: Secret | None = None  # a token with rights that the broker itself does not have
    tell: Callable[[Stray], Awaitable[None]] = _unheard  # each as it is seen dead: the sweep may be cut short


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What a sweep came to."""

    killed: tuple[Stray, ...] = ()  # each seen dead
    cut_off: tuple[str, ...] = ()  # what denies everything that is older
    unproven: tuple[str, ...] = ()  # what may still be alive, and until when


@runtime_checkable
class Recovers(Protocol):
    """Can find what is alive without the store's help."""

    async def may_recover(self, sweep: Sweep) -> list[str]:
        """What keeps a sweep from being made, each with what to do. Changes nothing. Raises ProviderError."""
        ...

    async def recover(self, sweep: Sweep) -> Swept:
        """Kill what is alive and unknown. Raises ProviderError when nothing can be said."""
        ...


class Standing(Enum):
    """What a second look at an ended credential found."""

    DEAD = "DEAD"
    ALIVE = "ALIVE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recheck:
    """`why` is constant text."""

    standing: Standing
    why: str = ""


@runtime_checkable
class Rechecks(Protocol):
    """Can look again at what was reported dead."""

    async def recheck(self, ref: LeaseRef, operator: Secret | None) -> Recheck:
        """Look, with the operator's token when there is one. Raises ProviderError."""
        ...
