"""After a restore: find what is alive and forgotten, kill it, and begin a new chain (DESIGN section 9).

Frozen from its first write on: the guard's charges are as old as the database, and only people know what else was lost.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from broker.clock import Clock, Moment
from broker.journal.chain import Head
from broker.journal.records import Kind, Record
from broker.leases.core import ref_of
from broker.log import get_logger
from broker.model import Lease, LeaseState
from broker.providers.base import (
    DeclaredScope,
    Provider,
    ProviderError,
    Rechecks,
    Recovers,
    SettlesDoubt,
    Standing,
    Stray,
    Sweep,
    Swept,
)
from broker.secret import Secret
from broker.store.base import Store, Tx
from broker.store.halts import EVERYTHING, Freeze

log = get_logger(__name__)

# Epochs name chains and AWS deny lists: a new one must be none of those that the database has forgotten.
LOST_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the operator asks for."""

    since: datetime
    operator: Secret | None
    mint_timeout: float  # seconds
    wait: bool = True  # until nothing that was on its way can land any more
    tell: Callable[[Stray], None] = lambda _: None  # each that was killed, at once
    unfreeze: bool = False  # when everything is proven


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What came of it."""

    epoch: int
    killed: tuple[Stray, ...] = ()
    cut_off: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    frozen: bool = True
    unanswered: tuple[str, ...] = ()  # providers that could not be asked: nothing was decided


class NotAllowed(Exception):
    """The sweep cannot be made; nothing was changed. `problems` say what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


async def recover(
    store: Store,
    providers: Mapping[str, Provider],
    scopes: Mapping[str, Sequence[DeclaredScope]],
    asked: Request,
    *,
    lost: Head | None,
    clock: Clock,
    replica: str,
) -> Report:
    """Sweep, wait until nothing late can land, sweep again.

    `scopes`: by provider, as the map declares them. `lost`: the head that the database once had, if it is known.
    Raises NotAllowed and ProviderError before anything is changed, and StoreError. With `unanswered` in the report
    nothing was decided, and the database stays frozen and refused.
    """
    last = await store.read(_last_record)
    if last is not None and last < asked.since:  # whatever was issued after it is forgotten, whatever was said
        asked = replace(asked, since=last)
    await _must_be_allowed(store, providers, scopes, asked)
    epoch = await store.write(lambda tx: _begin(tx, asked, lost, now=clock.moment(), replica=replica))
    landed_at = clock.monotonic() + asked.mint_timeout + _landing(providers)

    async def tell(stray: Stray) -> None:
        """On record at once: the run may be cut short."""
        await store.write(lambda tx: _killed(tx, asked, stray, at=clock.now()))
        asked.tell(stray)

    swept, unanswered = await _sweep(store, providers, scopes, asked, tell)
    if asked.wait and not unanswered:
        log.info("waiting until nothing late can land", seconds=round(landed_at - clock.monotonic()))
        await clock.sleep(max(0.0, landed_at - clock.monotonic()))
        again, unanswered = await _sweep(store, providers, scopes, asked, tell)
        swept = Swept(killed=swept.killed + again.killed, cut_off=again.cut_off, unproven=again.unproven)
    elif not asked.wait:
        late = "a mint that was on its way may land yet: run recover once more, without --no-wait"
        swept = replace(swept, unproven=(*swept.unproven, late))
    frozen = not asked.unfreeze or bool(swept.unproven or unanswered)
    await store.write(lambda tx: _finish(tx, asked, swept, unanswered, at=clock.now(), frozen=frozen))
    return Report(
        epoch=epoch,
        killed=swept.killed,
        cut_off=swept.cut_off,
        unproven=swept.unproven,
        frozen=frozen,
        unanswered=unanswered,
    )


def unfreeze(tx: Tx, at: datetime) -> bool:
    """Let the broker mint again. False when it was not frozen."""
    if not tx.control().frozen:
        return False
    tx.remove_freeze(EVERYTHING)
    tx.append(Record(kind=Kind.UNFROZEN, at=at, data={"by": "recover"}))
    return True


def _last_record(tx: Tx) -> datetime | None:
    """When the database was last told something."""
    head = tx.journal_head()
    if head is None:
        return None
    (entry,) = tx.journal(after=(head.chain, head.seq - 1), limit=1)
    told = json.loads(entry.body)
    return datetime.fromisoformat(told["data"]["since"] if told["kind"] in ("RECOVERING", "RECOVERED") else told["at"])


def _begin(tx: Tx, asked: Request, lost: Head | None, *, now: Moment, replica: str) -> int:
    """A chain and epoch of its own; the next daemon adopts what the database knows."""
    current = tx.epoch()
    above = max(current.id if current else 0, lost.chain if lost else 0) + LOST_EPOCHS
    epoch = tx.start_epoch(replica=replica, boot_id=now.boot_id, expires_boot=0.0, at=now.wall, at_least=above)
    tx.add_freeze(Freeze(id=EVERYTHING, by="recover", reason="the database was put back or lost", at=now.wall))
    data = {"since": asked.since.isoformat(), "lost": f"{lost.chain}/{lost.seq}" if lost else ""}
    tx.append(Record(kind=Kind.RECOVERING, at=now.wall, data=data))
    return epoch


def _killed(tx: Tx, asked: Request, stray: Stray, *, at: datetime) -> None:
    killed = {"kind": stray.kind, "id": stray.id}
    data = {"since": asked.since.isoformat(), "killed": [killed]}
    tx.append(Record(kind=Kind.RECOVERING, at=at, lease_id=stray.lease_id, data=data))


def _finish(tx: Tx, asked: Request, swept: Swept, unanswered: tuple[str, ...], *, at: datetime, frozen: bool) -> None:
    """What was killed is on record also when not everybody could be asked."""
    data = {
        "since": asked.since.isoformat(),
        "killed": [{"kind": one.kind, "id": one.id, "lease_id": one.lease_id} for one in swept.killed],
        "cut_off": list(swept.cut_off),
        "unproven": list(swept.unproven),
        "unanswered": list(unanswered),
    }
    tx.append(Record(kind=Kind.RECOVERING if unanswered else Kind.RECOVERED, at=at, data=data))
    if not frozen:
        unfreeze(tx, at)


def _landing(providers: Mapping[str, Provider]) -> float:
    """Seconds after the last possible send."""
    return max((one.landing_seconds for one in providers.values() if isinstance(one, SettlesDoubt)), default=0.0)


async def _must_be_allowed(
    store: Store, providers: Mapping[str, Provider], scopes: Mapping[str, Sequence[DeclaredScope]], asked: Request
) -> None:
    live = await store.read(_live)
    problems: list[str] = []
    for name, provider in providers.items():
        if isinstance(provider, Recovers):
            problems += await provider.may_recover(_known(name, live, scopes.get(name, ()), asked))
    if problems:
        raise NotAllowed(problems)


def _live(tx: Tx) -> list[Lease]:
    return tx.leases_in(*(state for state in LeaseState if not state.terminal))


async def _sweep(
    store: Store,
    providers: Mapping[str, Provider],
    scopes: Mapping[str, Sequence[DeclaredScope]],
    asked: Request,
    tell: Callable[[Stray], Awaitable[None]],
) -> tuple[Swept, tuple[str, ...]]:
    """What came of it, and who could not be asked: what was killed elsewhere counts all the same."""
    live = await store.read(_live)
    total, unanswered = Swept(), []
    for name, provider in providers.items():
        if not isinstance(provider, Recovers):
            swept = Swept(unproven=(f"{name}: cannot say what is alive",))
        else:
            try:
                known = _known(name, live, scopes.get(name, ()), asked)
                swept = await provider.recover(replace(known, tell=tell))
            except ProviderError as error:
                unanswered.append(str(error))
                continue
        total = Swept(
            killed=total.killed + swept.killed,
            cut_off=total.cut_off + swept.cut_off,
            unproven=total.unproven + swept.unproven,
        )
    missing = sorted({lease.provider for lease in live} - providers.keys())
    gone = tuple(f"{name}: not configured, but the database holds leases of it" for name in missing)
    return replace(total, unproven=total.unproven + gone), tuple(unanswered)


def _known(name: str, live: Sequence[Lease], scopes: Sequence[DeclaredScope], asked: Request) -> Sweep:
    mine = [lease for lease in live if lease.provider == name]
    return Sweep(
        since=asked.since,
        scopes=tuple(scopes),
        leases=frozenset(lease.id for lease in mine),
        children=frozenset(str(child) for lease in mine for child in lease.refs.get("children", [])),
        operator=asked.operator,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rechecked:
    """Ended leases looked at again, as (lease, why)."""

    dead: int = 0
    alive: tuple[tuple[Lease, str], ...] = ()
    unknown: tuple[tuple[Lease, str], ...] = ()


async def recheck(leases: Sequence[Lease], providers: Mapping[str, Provider], operator: Secret | None) -> Rechecked:
    """Ask the providers again about what was reported dead."""
    dead = 0
    alive: list[tuple[Lease, str]] = []
    unknown: list[tuple[Lease, str]] = []
    for lease in leases:
        provider = providers.get(lease.provider)
        try:
            if not isinstance(provider, Rechecks):
                unknown.append((lease, f"{lease.provider}: cannot be asked again"))
                continue
            found = await provider.recheck(ref_of(lease), operator)
        except ProviderError as error:
            unknown.append((lease, str(error)))
            continue
        if found.standing is Standing.DEAD:
            dead += 1
        else:
            (alive if found.standing is Standing.ALIVE else unknown).append((lease, found.why))
    return Rechecked(dead=dead, alive=tuple(alive), unknown=tuple(unknown))
