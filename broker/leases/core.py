"""What every part of the engine works with, and the checks that they share."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from broker.clock import Clock
from broker.config import Grace, Timings
from broker.errors import BrokerError, Reason, StoreError, access_denied
from broker.guard.guard import Guard
from broker.journal.records import Kind, Record
from broker.keyring import Keyring, handle_of, hash_handle
from broker.leases.approving import Approving
from broker.leases.approving import give_back as give_back_approval
from broker.leases.breaker import Breaker
from broker.leases.epoch import ASK_AGAIN, EpochKeeper, EpochLost, epoch_lost
from broker.leases.standing import held_to
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import NAME, Agent, Bind, Certificate, JsonValue, Lease, LeaseState, Step, StepKey, StepState
from broker.policy.live.holder import Policies
from broker.providers.base import Foresees, HasRoom, KnowsTime, LeaseRef, Provider, TakesInput
from broker.store.base import Request, RequestOutcome, Store, Tx

log = get_logger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_COMPACT = json.JSONEncoder(separators=(",", ":"))
_NEVER = datetime.min.replace(tzinfo=UTC)
FOUND = "found"  # in a lease's refs: its mint was in doubt and had landed
ONLY_TIME = "only_time"  # in a lease's refs: its provider has done what it can, and time does the rest
OTHER_KEY = "bind: key, and the step began with another key"  # in the journal; the caller is not told
MAX_SCOPES = 32  # per step; keeps one request's answer small


def nobody(_spiffe_id: str, _certificate: Certificate) -> bool:
    """Is denied."""
    return False


class PolicyMoved(Exception):
    """The map was loaded anew between decision and transaction: decide again."""


class Endings:
    """Wakes those who wait for a lease's evidence. Holds nothing for leases that nobody waits for."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[Lease | None]]] = {}

    def awaited(self, lease_id: str) -> bool:
        """Does somebody want to know? Asked on any thread."""
        return lease_id in self._waiting

    def tell(self, lease_id: str, row: Lease | None = None) -> None:
        """The lease has come to its end; `row`: as it is durable now, where that is known without looking."""
        for future in self._waiting.pop(lease_id, ()):
            if not future.done():
                future.set_result(row)

    def expect(self, lease_id: str) -> asyncio.Future[Lease | None]:
        """Register before looking at the state, so that no ending is missed."""
        future: asyncio.Future[Lease | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lease_id, []).append(future)
        return future

    def forget(self, lease_id: str, future: asyncio.Future[Lease | None]) -> None:
        """The waiter gave up."""
        waiting = self._waiting.get(lease_id, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop(lease_id, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Talents:
    """What else a provider can do, beside minting; found out once, for that takes as long as a small query."""

    input: TakesInput | None
    room: HasRoom | None
    foresight: Foresees | None

    @staticmethod
    def of(provider: Provider) -> Talents:
        return Talents(
            input=provider if isinstance(provider, TakesInput) else None,
            room=provider if isinstance(provider, HasRoom) else None,
            foresight=provider if isinstance(provider, Foresees) else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """The engine's parts, wired once."""

    store: Store
    clock: Clock
    timings: Timings
    keyring: Keyring
    policies: Policies
    guard: Guard
    providers: Mapping[str, Provider]
    epoch: EpochKeeper
    metrics: Metrics
    grace: Grace = field(default_factory=Grace)
    approving: Approving = field(default_factory=Approving)
    denies: Callable[[str, Certificate], bool] = nobody  # (SPIFFE ID, its certificate); asked from any thread
    endings: Endings = field(default_factory=Endings)
    lane: asyncio.Event = field(default_factory=asyncio.Event)  # set: the revocation lane has work
    draining: asyncio.Event = field(default_factory=asyncio.Event)  # set: no new steps and intents
    heard: dict[str, float] = field(default_factory=dict)  # step id → boottime of its last sign of life
    breakers: Mapping[str, Breaker] = field(init=False)
    talents: Mapping[str, Talents] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "talents", {name: Talents.of(one) for name, one in self.providers.items()})
        object.__setattr__(self, "breakers", {name: Breaker(self.clock) for name in self.providers})

    def surely(self, provider: str) -> datetime:
        """A time that has certainly passed: by the verifier's own clock, where that can be heard.

        Evidence only together with the life that has elapsed here (`past_expiry`): either clock alone may be wrong.
        """
        told = self.providers.get(provider)
        if isinstance(told, KnowsTime):
            return told.time_heard() or _NEVER
        return self.epoch.surely()

    async def answered(self, provider: str) -> None:
        """It gave an answer, to a mint or a revocation: whoever had got none is asked for again at once (I5)."""
        told = self.breakers[provider].answered()
        if told.closed:
            log.warning("provider answers again", provider=provider)
            await self.make_due(provider=provider)
        elif told.unheard:
            await self.make_due(only=told.unheard)

    async def make_due(self, *, provider: str = "", only: Collection[str] | None = None) -> None:
        """Unfinished revocations are due now, whatever they wait for; a page at a time, as ever."""

        def operation(tx: Tx) -> None:
            self.epoch.fence(tx)
            tx.make_due(self.clock.now(), provider=provider, only=only)

        try:
            await self.store.write(operation)
        except (EpochLost, StoreError):
            log.warning("what is due could not be brought forward; it waits for its time", provider=provider)
        self.lane.set()

    def must_answer(self, provider: str) -> None:
        """Raises PROVIDER_FAILED while its breaker is open: before the intent, so free of charge."""
        after = self.breakers[provider].mints_after()
        if after is not None:
            raise BrokerError(
                Reason.PROVIDER_FAILED, "the provider gives no answer; nothing was sent to it", retry_after=after
            )

    def give_back(self, tx: Tx, lease: Lease) -> None:
        """Proven that nothing was minted: in the transaction that proves VOID."""
        self.guard.give_back(tx, lease)
        give_back_approval(tx, lease, self.clock.moment())

    def must_be_welcome(self, agent: Agent) -> None:
        """Raises AGENT_DENIED for one who was let in and has been denied since."""
        if self.denies(agent.spiffe_id, agent.certificate):
            raise BrokerError(Reason.AGENT_DENIED, "this certificate or agent is denied")

    def enter(self, tx: Tx) -> None:
        """First line of every writing operation of a request: the fence."""
        try:
            self.epoch.fence(tx)
        except EpochLost:
            raise epoch_lost() from None

    async def step_of(self, agent: Agent, handle: str) -> Step:
        """The step of this handle, if it is this agent's (I8). Raises ACCESS_DENIED; an ended step is returned.

        Of a step that a launcher opened, the first such call is its start.
        """
        step = self.own(agent, await self._find(handle))
        return await self.start(agent, step) if self.unstarted(step) else step

    def unstarted(self, step: Step) -> bool:
        """So far nobody but its launcher has called about it."""
        return step.started_at is None and step.state is StepState.OPEN

    async def start(self, agent: Agent, step: Step) -> Step:
        """Its workload's first call, if it is this agent's."""
        self.heard[step.id] = self.clock.boottime()  # before it counts as silence
        bind = held_to(self.policies.map, step, address=agent.address, now=self.clock.now())
        # Of two first calls with different keys one came first.
        return self.own(agent, await self.store.write(lambda tx: self._start(tx, step, agent, bind), quick=True))

    def step_to_end(self, tx: Tx, agent: Agent, handle: str) -> Step:
        """The same for EndStep, which is its launcher's too, whatever today's map says: giving back is always allowed.

        In the transaction that ends it.
        """
        step = tx.step_by_handle(hash_handle(handle))
        if step is not None and step.launched and step.opened_by == agent.spiffe_id:
            return step
        return self.own(agent, step)

    async def _find(self, handle: str) -> Step | None:
        return await self.store.read(lambda tx: tx.step_by_handle(hash_handle(handle)), quick=True)

    def _start(self, tx: Tx, step: Step, agent: Agent, bind: Bind) -> Step:
        self.enter(tx)
        at, key = self.clock.now(), agent.certificate
        if tx.start_step(step.id, at, certificate=key, bind=bind):
            data = {"opened_by": step.opened_by, "bind": bind.value, "spki_sha256": key.spki_sha256}
            tx.append(step_record(step, agent, kind=Kind.STEP_STARTED, at=at, data=data))
        return tx.step(step.id) or step

    def own(self, agent: Agent, step: Step | None) -> Step:
        """Refuse alike an unknown step, a foreign one, and one that is held to another key than the caller's."""
        if step is None or step.key.agent != agent.spiffe_id:
            raise access_denied()
        if step.bind is Bind.KEY and step.started_at is not None:
            must_have_begun(step, agent)
        return step

    def silence_bound(self, step: Step) -> timedelta:
        """For how long nothing may be heard of it."""
        return self.timings.start_within if step.started_at is None else self.timings.silence_bound

    def remember(
        self,
        tx: Tx,
        step: Step,
        *,
        caller: Agent,
        method: str,
        request_id: str,
        digest: bytes,
        lease_id: str = "",
        done: bool = True,
    ) -> None:
        """Keep the idempotency row of a mutating call for the step's life and a day."""
        at = self.clock.now()
        tx.insert_request(
            Request(
                caller=caller.spiffe_id,
                request_id=request_id,
                method=method,
                payload_hash=digest,
                created_at=at,
                keep_until=max(step.deadline_at, at) + self.timings.keep_requests,
                step_id=step.id,
                lease_id=lease_id,
                outcome=RequestOutcome.DONE if done else RequestOutcome.PENDING,
            )
        )

    def handle(self, step: Step) -> str:
        """Derive a step's handle again: HMAC over step key, attempt and request id, 128 bits."""
        return derive_handle(self.keyring, step.handle_kid, step.key, step.attempt, step.request_id)


def derive_handle(keyring: Keyring, kid: str, key: StepKey, attempt: int, request_id: str) -> str:
    """A replayed BeginStep derives the same handle; nobody without the mint key derives any."""
    parts = (key.agent, key.workflow, key.run, key.step, str(attempt), request_id)
    return handle_of(keyring.derive(kid, "step-handle", *parts))


def must_be_open(step: Step) -> None:
    """Raises STEP_ENDED, which only the step's own agent ever sees."""
    if step.state is not StepState.OPEN:
        raise step_ended(step)


def must_have_begun(step: Step, agent: Agent) -> None:
    """Raises ACCESS_DENIED unless it was with the caller's key that the step's workload first called."""
    if not step.began_with(agent.certificate):
        error = access_denied()
        key = step.key
        error.about = {"workflow": key.workflow, "run": key.run, "step": key.step, "step_id": step.id}
        error.about |= {"why": OTHER_KEY, "spki_sha256": agent.certificate.spki_sha256}
        raise error


def step_ended(step: Step) -> BrokerError:
    """The caller's own step is over, and why."""
    why = step.end_reason.value if step.end_reason else ""
    who = "its launcher can open the next attempt" if step.launched else "open its next attempt with BeginStep"
    return BrokerError(
        Reason.STEP_ENDED,
        f"the step has ended; {who}",
        metadata={"ended_by": why},
        about={"step_id": step.id},
    )


def must_take_new_work(core: Core) -> None:
    """Raises DRAINING while the broker stops; what is asked again is answered all the same."""
    if core.draining.is_set():
        raise BrokerError(Reason.DRAINING, "the broker is stopping; ask again", retry_after=ASK_AGAIN)


def check_request_id(text: str) -> str:
    """A canonical UUID (RFC 9562: lower case, with hyphens), or INVALID_REQUEST_ID."""
    if _UUID.fullmatch(text) is not None:
        return text
    raise BrokerError(Reason.INVALID_REQUEST_ID, "request_id must be a UUID in its canonical lower-case form")


def check_name(field_name: str, text: str) -> str:
    """Rejected when it does not match; never folded or decoded (CVE-2025-6004)."""
    if NAME.fullmatch(text) is None:
        raise BrokerError(
            Reason.INVALID_NAME,
            f"{field_name} must match {NAME.pattern}",
            metadata={"field": field_name},
        )
    return text


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Distinct, well-formed, not too many."""
    if not scopes or len(scopes) > MAX_SCOPES or len(set(scopes)) != len(scopes):
        raise BrokerError(Reason.INVALID_ARGUMENT, f"name between 1 and {MAX_SCOPES} distinct scopes")
    return tuple(check_name("scope", scope) for scope in scopes)


def payload_hash(method: str, *parts: str | Sequence[str]) -> bytes:
    """What a replay must repeat exactly (SHA-256)."""
    return hashlib.sha256(_COMPACT.encode([method, *parts]).encode()).digest()


def known_request(tx: Tx, caller: str, request_id: str, digest: bytes) -> Request | None:
    """An earlier call with this id. Raises REQUEST_ID_REUSED when its payload was another one."""
    known = tx.request(caller, request_id)
    if known is not None and known.payload_hash != digest:
        raise BrokerError(Reason.REQUEST_ID_REUSED, "this request_id was used for another request")
    return known


def ref_of(lease: Lease) -> LeaseRef:
    """What the provider may know of a lease."""
    return LeaseRef(
        lease_id=lease.id,
        agent=lease.agent,
        nonce=lease.nonce,
        kid=lease.kid,
        params=lease.params,
        refs=lease.refs,
        revocability=lease.revocability,
        intent_at=lease.intent_at,
        expires_at=lease.expires_at,
        epoch=lease.epoch,
        found=bool(lease.refs.get(FOUND)),
        attempts=lease.attempts,
        scope=lease.scope,
    )


def open_refs(tx: Tx, provider: str) -> list[LeaseRef]:
    """Every lease of this provider that has not ended."""
    unended = [state for state in LeaseState if not state.terminal]
    return [ref_of(lease) for lease in tx.leases_in(*unended) if lease.provider == provider]


def step_record(step: Step, agent: Agent, **fields: JsonValue) -> Record:
    """A record about a step with names, certificate and address filled; the latter two are the caller's, perhaps its launcher's."""
    return Record(
        agent=step.key.agent,
        cert_sha256=agent.cert_sha256,
        peer=agent.peer,
        workflow=step.key.workflow,
        run=step.key.run,
        step=step.key.step,
        step_id=step.id,
        **fields,
    )
