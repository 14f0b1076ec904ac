"""The mint itself, in a task that the engine owns: a client that vanishes cannot cancel it half-way.

The credential lives in memory only, for as long as a replay may ask for it (its claim window).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from broker.errors import BrokerError, Reason, StoreError
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.background import Background
from broker.leases.committing import Commit, Delivered, lease_ended, mint_failed
from broker.leases.core import Core, ref_of
from broker.leases.epoch import EpochLost, epoch_lost
from broker.leases.freezing import frozen, stopped
from broker.log import get_logger
from broker.metrics import IssueOutcome
from broker.model import EndReason, JsonValue, Lease, LeaseState, Step
from broker.providers.base import Contact, Minted, MintInDoubt, MintOrder, MintRefused
from broker.store.base import Request, RequestOutcome, Tx

log = get_logger(__name__)
T = TypeVar("T")

# A lease that ended so was never in its agent's hands.
UNDELIVERED = frozenset({EndReason.REPLAY_LOST, EndReason.UNCLAIMED, EndReason.EPOCH_LOST, EndReason.MINT_FAILED})
SETTLE_FACTOR = 3  # the provider's own timeouts are shorter; past this many of them the mint is in doubt


class Minter:
    """Owns the mint tasks and the credentials that may still be asked for again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: dict[tuple[str, str], asyncio.Task[Delivered]] = {}
        self._background = Background(core)
        self._commit = Commit(core, self._background)

    async def mint(self, lease: Lease, step: Step, public_input: str = "") -> Delivered:
        """Mint a durable intent, in a task of `own`, which ends with it: whoever asks again is answered from that task."""
        key, task = (lease.agent, lease.request_id), asyncio.current_task()
        if task is not None:
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._forget_later(key))
        return await self._mint_surely(lease, step, public_input)

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
            lease, halted = await core.store.read(lambda tx: _as_it_stands(tx, request), quick=True)
            if halted:
                raise frozen()
            if lease is not None and lease.state is LeaseState.ACTIVE:
                core.epoch.must_be_fresh()
                core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.REPLAYED)
                return replace(delivered, lease=lease)
        return await self._cannot_replay(request)

    async def _cannot_replay(self, request: Request) -> Delivered:
        """The recorded failure; REPLAY_LOST for what was never delivered, which is revoked; else LEASE_ENDED."""
        core = self._core

        def operation(tx: Tx) -> BrokerError:
            core.enter(tx)
            known, lease = tx.request(request.caller, request.request_id), tx.lease(request.lease_id)
            if known is not None and known.outcome is RequestOutcome.FAILED:
                return mint_failed(lease, known.message)
            if lease is not None and lease.state in (LeaseState.ACTIVE, LeaseState.INTENT, LeaseState.IN_DOUBT):
                moves.withdraw(tx, lease, at=core.clock.now(), reason=EndReason.REPLAY_LOST)
                return _replay_lost()
            pending = known is not None and known.outcome is RequestOutcome.PENDING
            return _replay_lost() if pending or (lease and lease.end_reason in UNDELIVERED) else lease_ended()

        error = await core.store.write(operation, quick=True)
        core.lane.set()
        raise error

    def _forget_later(self, key: tuple[str, str]) -> None:
        """Keep the answer for the claim window, then drop the only copy of the secret."""
        window = self._core.timings.claim_window.total_seconds()
        asyncio.get_running_loop().call_later(window, self._tasks.pop, key, None)

    async def _mint_surely(self, lease: Lease, step: Step, public_input: str) -> Delivered:
        """Whatever happens to a mint, its row leaves INTENT: nobody else looks at those of a living epoch."""
        try:
            return await self._mint(lease, step, public_input)
        except (BrokerError, StoreError):
            raise  # written, or being written
        except asyncio.CancelledError:
            if _ends_the_process():
                raise
            log.warning("a mint was cancelled from inside", provider=lease.provider, lease=lease.id)
        except Exception:
            log.exception("a mint failed unexpectedly", provider=lease.provider, lease=lease.id)
        return await self._commit.in_doubt(lease, "the mint failed unexpectedly")

    async def _mint(self, lease: Lease, step: Step, public_input: str) -> Delivered:
        core = self._core
        noted: dict[str, JsonValue] = {}  # durable in the row, which `lease` is older than

        async def note(refs: Mapping[str, JsonValue]) -> None:
            await self._note(lease, refs)
            noted.update(refs)

        order = MintOrder(
            ref=ref_of(lease),
            workflow=step.key.workflow,
            run=step.key.run,
            step=step.key.step,
            note=note,
            public_input=public_input,
        )
        if lease.epoch != core.epoch.id or not core.epoch.fresh():
            raise epoch_lost()  # stopped between intent and send: whoever has the row by now settles it
        try:
            minted = await self._send(lease, order)
        except MintRefused as refusal:
            if refusal.contact is Contact.FAILED:  # nothing was made, and the next one fares no better
                core.breakers[lease.provider].failed(lease.id)
            return await self._commit.void(lease, str(refusal))
        except (MintInDoubt, TimeoutError) as doubt:
            core.breakers[lease.provider].failed(lease.id)
            return await self._commit.in_doubt(lease, str(doubt) or "the mint took too long")
        try:
            return await self._commit.active(replace(lease, refs={**lease.refs, **noted}), step, minted)
        finally:
            await core.answered(lease.provider)

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

        await self._core.store.write(operation, quick=True)


def _as_it_stands(tx: Tx, request: Request) -> tuple[Lease | None, bool]:
    """The lease, and whether an operator has stopped its like since."""
    lease = tx.lease(request.lease_id)
    step = tx.step(lease.step_id) if lease else None
    if lease is None or step is None:
        return lease, False
    return lease, stopped(tx, step, scope=lease.scope, provider=lease.provider) is not None


def _ends_the_process() -> bool:
    """Cancelled by whoever owns the task, not by something that it waited for."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())


def _replay_lost() -> BrokerError:
    return BrokerError(
        Reason.REPLAY_LOST,
        "the credential can no longer be delivered; ask with a new request_id",
        retry_after=timedelta(0),
    )


async def _answer(task: asyncio.Task[Delivered]) -> Delivered:
    """Several may wait for one mint: each gets an error of its own, for it will carry a reference of its own."""
    try:
        return await asyncio.shield(task)
    except BrokerError as error:
        raise error.anew() from None
