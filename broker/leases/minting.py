"""The mint itself, in a task that the engine owns: a client that vanishes cannot cancel it half-way.

The credential lives in memory only, for as long as a replay may ask for it (its claim window).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from broker.errors import BrokerError, Reason, StoreError, access_denied
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.background import Background
from broker.leases.core import Core, PolicyMoved, ref_of, step_ended
from broker.leases.epoch import EpochLost, epoch_lost
from broker.log import get_logger
from broker.metrics import IssueOutcome
from broker.model import Credential, EndReason, Evidence, JsonValue, Lease, LeaseState, Step, StepState
from broker.policy.decision import Denied
from broker.providers.base import Minted, MintInDoubt, MintOrder, MintRefused
from broker.store.base import Request, RequestOutcome, Tx

log = get_logger(__name__)
T = TypeVar("T")

RETRY_MINT_AFTER = timedelta(seconds=1)  # told with PROVIDER_FAILED; a new, charged request
SWAP_TRIES = 20  # looks, while a map is durable and not yet the one that decides
SWAP_WAIT = 0.1  # seconds between them
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
        self._background = Background(core)

    def start(self, lease: Lease, step: Step, public_input: str = "") -> None:
        """Start the mint of a durable intent. Nothing that a caller does can cancel it."""
        key = (lease.agent, lease.request_id)
        task = self._tasks[key] = self._background.run(self._mint(lease, step, public_input), name=f"mint {lease.id}")
        task.add_done_callback(lambda _: self._forget_later(key))

    async def delivered(self, lease: Lease) -> Delivered:
        """Wait for a mint that was started."""
        return await _answer(self._tasks[lease.agent, lease.request_id])

    async def own(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry `work` to its end, whether or not the caller stays to hear of it."""
        return await asyncio.shield(self._background.run(work))

    @property
    def busy(self) -> bool:
        """An intent or a mint is in flight."""
        return self._background.busy

    async def settled(self) -> None:
        """Wait until no mint is in flight."""
        await self._background.settled()

    async def cancel(self) -> None:
        """The process ends; what was in flight is IN_DOUBT for the next epoch."""
        await self._background.cancel()

    async def replay(self, request: Request) -> Delivered:
        """Answer the same request again from memory, or say that it cannot be. Never mints."""
        core = self._core
        task = self._tasks.get((request.caller, request.request_id))
        if task is not None:
            delivered = await _answer(task)
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
        window = self._core.timings.claim_window.total_seconds()
        asyncio.get_running_loop().call_later(window, self._tasks.pop, key, None)

    async def _mint(self, lease: Lease, step: Step, public_input: str) -> Delivered:
        core = self._core
        order = MintOrder(
            ref=ref_of(lease),
            agent=lease.agent,
            workflow=step.key.workflow,
            run=step.key.run,
            step=step.key.step,
            note=lambda refs: self._note(lease, refs),
            public_input=public_input,
        )
        if lease.epoch != core.epoch.id or not core.epoch.fresh():
            raise epoch_lost()  # stopped between intent and send: whoever has the row by now settles it
        try:
            minted = await self._send(lease, order)
        except MintRefused as refusal:
            return await self._void(lease, str(refusal))
        except MintInDoubt as doubt:
            core.breakers[lease.provider].failed(lease.id)
            return await self._in_doubt(lease, str(doubt))
        except Exception:
            log.exception("provider raised what it must not", provider=lease.provider, lease=lease.id)
            return await self._in_doubt(lease, "the provider failed unexpectedly")
        if core.breakers[lease.provider].answered():
            core.lane.set()
        return await self._commit(lease, step, minted)

    async def _send(self, lease: Lease, order: MintOrder) -> Minted:
        """One attempt, bounded and measured."""
        core = self._core
        limit = core.timings.mint_timeout.total_seconds() * SETTLE_FACTOR
        begun = core.clock.monotonic()
        try:
            async with asyncio.timeout(limit):
                return await core.providers[lease.provider].mint(order)
        finally:
            core.metrics.mint(lease.provider, timedelta(seconds=core.clock.monotonic() - begun))

    async def _note(self, lease: Lease, refs: Mapping[str, JsonValue]) -> None:
        """What the provider made on the way is durable before it goes on. Raises EpochLost: it must not go on."""

        def operation(tx: Tx) -> None:
            if not tx.note(lease.id, epoch=lease.epoch, refs=refs):
                raise EpochLost
            moves.record_lease(tx, Kind.LEASE_NOTED, lease, at=self._core.clock.now(), data={"refs": dict(refs)})

        await self._core.store.write(operation)

    async def _void(self, lease: Lease, why: str) -> Delivered:
        """Definitely nothing made: the charge is given back with the proof."""
        core = self._core

        def operation(tx: Tx) -> None:
            at = core.clock.now()
            if moves.end_lease(tx, lease, LeaseState.VOID, evidence=Evidence.NOT_MINTED, at=at, problem=why):
                core.guard.give_back(tx, lease, now=at)
            self._fail(tx, lease, why)

        await self._background.write_surely(operation, then=lambda: core.endings.tell(lease.id))
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.FAILED)
        log.warning("mint refused", provider=lease.provider, scope=lease.scope, lease=lease.id, problem=why)
        raise _failed(why)

    async def _in_doubt(self, lease: Lease, why: str) -> Delivered:
        core = self._core

        def operation(tx: Tx) -> None:
            moves.in_doubt(tx, lease, at=core.clock.now(), problem=why)
            self._fail(tx, lease, why)

        await self._background.write_surely(operation, then=core.lane.set)
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.IN_DOUBT)
        core.metrics.mint_in_doubt(lease.provider)
        log.warning("mint in doubt", provider=lease.provider, scope=lease.scope, lease=lease.id, problem=why)
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
            committed = await self._committed(lease, step, minted)
        except EpochLost:
            # The row is a successor's now: it settles the doubt. Drop the secret, write nothing.
            raise BrokerError(
                Reason.REPLAY_LOST, "the broker lost its right to write", retry_after=timedelta(0)
            ) from None
        except StoreError:
            self._background.run(self._kill_then_write(lease, minted))
            raise
        if isinstance(committed, EndReason):
            core.lane.set()
            raise await self._must_not_deliver(step, committed)
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.ISSUED)
        return Delivered(lease=committed, credential=minted.credential)

    async def _committed(self, lease: Lease, step: Step, minted: Minted) -> Lease | EndReason:
        core = self._core
        for _ in range(SWAP_TRIES):
            try:
                return await core.store.write(lambda tx: self._activate(tx, lease, step, minted))
            except PolicyMoved:
                await core.clock.sleep(SWAP_WAIT)
        return await core.store.write(lambda tx: self._activate(tx, lease, step, minted, wait=False))

    async def _must_not_deliver(self, step: Step, why: EndReason) -> BrokerError:
        if why is EndReason.FROZEN:
            return BrokerError(Reason.FROZEN, "the broker is frozen by an operator")
        if why is EndReason.POLICY_CHANGED:
            return access_denied()
        now_step = await self._core.store.read(lambda tx: tx.step(step.id))
        if now_step is not None and now_step.state is StepState.OPEN:
            return _lease_ended()  # only this lease was asked to die
        return step_ended(now_step or step)

    def _activate(self, tx: Tx, lease: Lease, step: Step, minted: Minted, *, wait: bool = True) -> Lease | EndReason:
        """An EndReason: doomed or refused meanwhile, and now REVOKING. Raises EpochLost, PolicyMoved."""
        core, at = self._core, self._core.clock.now()
        core.epoch.fence(tx)
        if lease.epoch != core.epoch.id:
            raise EpochLost
        tx.note(lease.id, epoch=lease.epoch, refs=minted.refs)
        why = self._must_not_live(tx, lease, step, wait=wait)
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

    def _must_not_live(self, tx: Tx, lease: Lease, step: Step, *, wait: bool) -> EndReason | None:
        """The predicate of the intent, once more: time has passed and other transactions with it.

        A newer map is durable before it decides. What the older one says then counts for nothing: PolicyMoved,
        and without `wait` POLICY_CHANGED.
        """
        core = self._core
        control, now_step = tx.control(), tx.step(step.id)
        if now_step is None or now_step.state is not StepState.OPEN:
            return EndReason.STEP_ENDED
        if control.frozen:
            return EndReason.FROZEN
        if control.policy_generation == lease.policy_generation:
            return None
        swapped = core.policies.generation >= control.policy_generation
        if not swapped and wait:
            raise PolicyMoved
        if not swapped or isinstance(core.decide(step.key, lease.scope, step=step), Denied):
            return EndReason.POLICY_CHANGED
        return None

    async def _kill_then_write(self, lease: Lease, minted: Minted) -> None:
        """The commit did not get to disk and the credential lives: kill it first, then write (disk full)."""
        core, provider = self._core, self._core.providers[lease.provider]
        refs = dict(lease.refs) | dict(minted.refs)
        try:
            await provider.revoke(replace(ref_of(lease), refs=refs))
        except Exception:  # whatever it was, the row must still say what there is to revoke
            log.exception("could not be revoked at once; the revocation lane goes on", lease=lease.id)

        def operation(tx: Tx) -> None:
            moves.revoke_settled(tx, lease, at=core.clock.now(), reason=EndReason.MINT_FAILED, refs=refs)

        await self._background.insist(operation, then=core.lane.set)


def _lease_ended() -> BrokerError:
    return BrokerError(Reason.LEASE_ENDED, "the lease of this request has ended")


def _failed(why: str) -> BrokerError:
    """ABORTED, never UNAVAILABLE, which gRPC would retry by itself."""
    return BrokerError(Reason.PROVIDER_FAILED, f"the credential was not minted: {why}", retry_after=RETRY_MINT_AFTER)


async def _answer(task: asyncio.Task[Delivered]) -> Delivered:
    """Several may wait for one mint: each gets an error of its own, for it will carry a reference of its own."""
    try:
        return await asyncio.shield(task)
    except BrokerError as error:
        raise error.anew() from None
