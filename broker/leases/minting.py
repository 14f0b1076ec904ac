"""The mint itself, in a task that the engine owns: a client that vanishes cannot cancel it half-way.

The credential lives in memory only, for as long as a replay may ask for it (its claim window).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from tenacity import AsyncRetrying, retry_if_exception_type, stop_never, wait_exponential_jitter

from broker.errors import BrokerError, Reason, StoreError, access_denied
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.core import Core, ref_of, step_ended
from broker.leases.epoch import EpochLost
from broker.log import get_logger
from broker.metrics import IssueOutcome
from broker.model import Credential, EndReason, Evidence, JsonValue, Lease, LeaseState, Step, StepState
from broker.policy.decision import Denied
from broker.providers.base import Minted, MintInDoubt, MintOrder, MintRefused, ProviderError
from broker.store.base import Request, RequestOutcome, Tx

log = get_logger(__name__)

RETRY_MINT_AFTER = timedelta(seconds=1)  # told with PROVIDER_FAILED; a new, charged request
SETTLE_FACTOR = 3  # the provider's own timeouts are shorter; past this many of them the mint is in doubt


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """A credential on its way to the agent."""

    lease: Lease
    credential: Credential


class Minter:
    """Owns the mint tasks and the credentials that may still be asked for again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: dict[tuple[str, str], asyncio.Task[Delivered]] = {}
        self._cleaning: set[asyncio.Task[None]] = set()

    async def mint(self, lease: Lease, step: Step) -> Delivered:
        """Start the mint of a durable intent and wait for it. Cancelling the caller does not cancel it."""
        key = (lease.agent, lease.request_id)
        task = asyncio.create_task(self._mint(lease, step), name=f"mint {lease.id}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._forget_later(key))
        return await asyncio.shield(task)

    async def settled(self) -> None:
        """Wait until no mint is in flight."""
        if self._tasks or self._cleaning:
            await asyncio.gather(*self._tasks.values(), *self._cleaning, return_exceptions=True)

    async def replay(self, request: Request) -> Delivered:
        """Answer the same request again from memory, or say that it cannot be. Never mints."""
        core = self._core
        task = self._tasks.get((request.caller, request.request_id))
        if task is not None:
            delivered = await asyncio.shield(task)
            lease = await core.store.read(lambda tx: tx.lease(request.lease_id))
            if lease is not None and lease.state is LeaseState.ACTIVE:
                core.epoch.must_be_fresh()
                core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.REPLAYED)
                return replace(delivered, lease=lease)
        return await self._cannot_replay(request)

    async def _cannot_replay(self, request: Request) -> Delivered:
        """The recorded failure; else LEASE_ENDED; else the undeliverable lease is revoked: REPLAY_LOST."""
        core = self._core

        def operation(tx: Tx) -> BrokerError:
            core.enter(tx)
            known, lease = tx.request(request.caller, request.request_id), tx.lease(request.lease_id)
            if known is not None and known.outcome is RequestOutcome.FAILED:
                return _failed(known.message)
            if lease is not None and lease.state in (LeaseState.ACTIVE, LeaseState.INTENT, LeaseState.IN_DOUBT):
                moves.withdraw(tx, lease, at=core.clock.now(), reason=EndReason.REPLAY_LOST)
                return BrokerError(
                    Reason.REPLAY_LOST,
                    "the credential can no longer be delivered; ask with a new request_id",
                    retry_after=timedelta(0),
                )
            return _lease_ended()

        error = await core.store.write(operation)
        core.lane.set()
        raise error

    def _forget_later(self, key: tuple[str, str]) -> None:
        """Keep the answer for the claim window, then drop the only copy of the secret."""
        task = self._tasks[key]
        if not task.cancelled():
            task.exception()  # looked at: the caller may have gone
        window = self._core.timings.claim_window.total_seconds()
        asyncio.get_running_loop().call_later(window, self._tasks.pop, key, None)

    async def _mint(self, lease: Lease, step: Step) -> Delivered:
        core = self._core
        order = MintOrder(
            ref=ref_of(lease),
            agent=lease.agent,
            workflow=step.key.workflow,
            run=step.key.run,
            step=step.key.step,
            note=lambda refs: self._note(lease, refs),
        )
        limit = core.timings.mint_timeout.total_seconds() * SETTLE_FACTOR
        try:
            async with asyncio.timeout(limit):
                minted = await core.providers[lease.provider].mint(order)
        except MintRefused as refusal:
            return await self._void(lease, str(refusal))
        except MintInDoubt as doubt:
            return await self._in_doubt(lease, str(doubt))
        except Exception:
            log.exception("provider raised what it must not", provider=lease.provider, lease=lease.id)
            return await self._in_doubt(lease, "the provider failed unexpectedly")
        return await self._commit(lease, step, minted)

    async def _note(self, lease: Lease, refs: Mapping[str, JsonValue]) -> None:
        """What the provider made on the way is durable before it goes on."""

        def operation(tx: Tx) -> None:
            if tx.note(lease.id, epoch=lease.epoch, refs=refs):
                moves.record_lease(tx, Kind.LEASE_NOTED, lease, at=self._core.clock.now(), data={"refs": dict(refs)})

        await self._core.store.write(operation)

    async def _void(self, lease: Lease, why: str) -> Delivered:
        """Definitely nothing made: the charge is given back with the proof."""
        core = self._core

        def operation(tx: Tx) -> None:
            at = core.clock.now()
            if moves.end_lease(tx, lease, LeaseState.VOID, evidence=Evidence.NOT_MINTED, at=at):
                core.guard.give_back(tx, lease, now=at)
            self._fail(tx, lease, why)

        await self._write_surely(operation)
        core.endings.tell(lease.id)
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.FAILED)
        raise _failed(why)

    async def _in_doubt(self, lease: Lease, why: str) -> Delivered:
        core = self._core

        def operation(tx: Tx) -> None:
            moves.in_doubt(tx, lease, at=core.clock.now(), problem=why)
            self._fail(tx, lease, why)

        await self._write_surely(operation)
        core.lane.set()
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.IN_DOUBT)
        core.metrics.mint_in_doubt(lease.provider)
        raise _failed(why)

    def _fail(self, tx: Tx, lease: Lease, why: str) -> None:
        self._core.guard.mint_failed(tx, lease.guard_key, now=self._core.clock.now())
        if lease.replaces:
            tx.clear_replaced_by(lease.replaces, lease.id)
        tx.finish_request(
            lease.agent,
            lease.request_id,
            RequestOutcome.FAILED,
            reason=Reason.PROVIDER_FAILED.value,
            message=why,
        )

    async def _commit(self, lease: Lease, step: Step, minted: Minted) -> Delivered:
        """ONE transaction makes it ACTIVE, or finds why it must not live. The secret is never in the row."""
        core = self._core
        try:
            committed = await core.store.write(lambda tx: self._activate(tx, lease, step, minted))
        except EpochLost:
            # The row is a successor's now: it settles the doubt. Drop the secret, write nothing.
            raise BrokerError(
                Reason.REPLAY_LOST, "the broker lost its right to write", retry_after=timedelta(0)
            ) from None
        except StoreError:
            self._in_background(self._kill_then_write(lease, minted))
            raise
        if isinstance(committed, EndReason):
            core.lane.set()
            raise await self._must_not_deliver(step, committed)
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.ISSUED)
        return Delivered(lease=committed, credential=minted.credential)

    async def _must_not_deliver(self, step: Step, why: EndReason) -> BrokerError:
        if why is EndReason.FROZEN:
            return BrokerError(Reason.FROZEN, "the broker is frozen by an operator")
        if why is EndReason.POLICY_CHANGED:
            return access_denied()
        now_step = await self._core.store.read(lambda tx: tx.step(step.id))
        if now_step is not None and now_step.state is StepState.OPEN:
            return _lease_ended()  # only this lease was asked to die
        return step_ended(now_step or step)

    def _activate(self, tx: Tx, lease: Lease, step: Step, minted: Minted) -> Lease | EndReason:
        """An EndReason: doomed or refused meanwhile, and now REVOKING. Raises EpochLost."""
        core, at = self._core, self._core.clock.now()
        core.epoch.fence(tx)
        if lease.epoch != core.epoch.id:
            raise EpochLost
        tx.note(lease.id, epoch=lease.epoch, refs=minted.refs)
        why = self._must_not_live(tx, lease, step)
        refs = dict(lease.refs) | dict(minted.refs)
        if why is None and tx.activate(lease.id, epoch=lease.epoch, refs=refs, at=at):
            core.guard.mint_succeeded(tx, lease.guard_key, now=at)
            tx.finish_request(lease.agent, lease.request_id, RequestOutcome.DONE)
            data = {"provider_request_id": minted.provider_request_id, "refs": dict(minted.refs)}
            moves.record_lease(tx, Kind.LEASE_ACTIVE, lease, at=at, data=data)
            return tx.lease(lease.id) or lease
        row = tx.lease(lease.id)
        if row is None or row.state is not LeaseState.INTENT or row.epoch != lease.epoch:
            raise EpochLost
        reason = row.end_reason or why or EndReason.STEP_ENDED
        moves.revoke_settled(tx, row, at=at, reason=reason, refs=refs)
        tx.finish_request(lease.agent, lease.request_id, RequestOutcome.DONE)
        return reason

    def _must_not_live(self, tx: Tx, lease: Lease, step: Step) -> EndReason | None:
        """The predicate of the intent, once more: time has passed and other transactions with it."""
        core = self._core
        control, now_step = tx.control(), tx.step(step.id)
        if now_step is None or now_step.state is not StepState.OPEN:
            return EndReason.STEP_ENDED
        if control.frozen:
            return EndReason.FROZEN
        if control.policy_generation != lease.policy_generation and isinstance(
            core.decide(step.key, lease.scope, step=step), Denied
        ):
            return EndReason.POLICY_CHANGED
        return None

    async def _kill_then_write(self, lease: Lease, minted: Minted) -> None:
        """The commit did not get to disk and the credential lives: kill it first, then write (disk full)."""
        core, provider = self._core, self._core.providers[lease.provider]
        refs = dict(lease.refs) | dict(minted.refs)
        try:
            await provider.revoke(replace(ref_of(lease), refs=refs))
        except ProviderError:
            log.warning("could not be revoked at once; the revocation lane goes on", lease=lease.id)

        def operation(tx: Tx) -> None:
            moves.revoke_settled(tx, lease, at=core.clock.now(), reason=EndReason.MINT_FAILED, refs=refs)

        await self._insist(operation)

    async def _write_surely(self, operation: Callable[[Tx], None]) -> None:
        """Write how a mint settled; when the disk says no, go on trying behind the caller's back."""

        def fenced(tx: Tx) -> None:
            self._core.epoch.fence(tx)
            operation(tx)

        try:
            await self._core.store.write(fenced)
        except EpochLost:
            return  # a successor has the row
        except StoreError:
            self._in_background(self._insist(operation))
            raise

    async def _insist(self, operation: Callable[[Tx], None]) -> None:
        """Without end by design: until it is written the row says INTENT, and after a restart IN_DOUBT."""

        def fenced(tx: Tx) -> None:
            self._core.epoch.fence(tx)
            operation(tx)

        retrying = AsyncRetrying(
            stop=stop_never,
            wait=wait_exponential_jitter(initial=0.2, max=10),
            retry=retry_if_exception_type(StoreError),
            sleep=self._core.clock.sleep,
        )
        try:
            await retrying(self._core.store.write, fenced)
        except EpochLost:
            return
        self._core.lane.set()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


def _lease_ended() -> BrokerError:
    return BrokerError(Reason.LEASE_ENDED, "the lease of this request has ended")


def _failed(why: str) -> BrokerError:
    """ABORTED, never UNAVAILABLE, which gRPC would retry by itself."""
    return BrokerError(Reason.PROVIDER_FAILED, f"the credential was not minted: {why}", retry_after=RETRY_MINT_AFTER)
