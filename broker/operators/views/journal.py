"""The journal: one run's story, and what is added to it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from broker.clock import Clock
from broker.errors import BrokerError, Reason
from broker.journal.chain import Entry
from broker.journal.records import Kind
from broker.store.base import Store, Tx

MOST = 2000  # records of a run's story, and of what was before a tail
POLL = 0.5  # seconds between looks for new records
_AT_ONCE = 500  # records read together
_SEARCHED = 2000  # of the newest, for those of some kinds
_ENTRIES, _BYTES = 200, 512 * 1024  # of one message


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """In the journal's order."""

    entries: Sequence[Entry]
    more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """What is asked for."""

    after: tuple[int, int] | None  # chain and seq; None: from now on
    back: int = 0  # so many before that, when from now on
    follow: bool = False
    kinds: frozenset[str] = frozenset()  # none: all


def timeline(tx: Tx, run: str, workflow: str = "") -> Timeline:
    """All that names this run or a step of it, and with a workflow only what is that workflow's."""
    found = tx.journal_of_run(run, limit=MOST + 1)
    kept, more = found[:MOST], len(found) > MOST
    if workflow:
        bodies = [json.loads(entry.body) for entry in kept]
        steps = {body["step_id"] for body in bodies if body.get("workflow") == workflow and "step_id" in body}
        theirs = (body.get("workflow") == workflow or body.get("step_id") in steps for body in bodies)
        kept = [entry for entry, fits in zip(kept, theirs, strict=True) if fits]
    return Timeline(entries=kept, more=more)


def tail_of(after: tuple[int, int], *, back: int, follow: bool, kinds: Collection[str]) -> Tail:
    """`after`: (0, 0) is unset. Raises INVALID_ARGUMENT."""
    known = {kind.value for kind in Kind}
    if not known.issuperset(kinds):
        raise BrokerError(Reason.INVALID_ARGUMENT, f"kinds of records are {', '.join(sorted(known))}")
    return Tail(after=after if any(after) else None, back=min(back, MOST), follow=follow, kinds=frozenset(kinds))


async def tail(
    store: Store, clock: Clock, asked: Tail, stopping: Callable[[], bool]
) -> AsyncGenerator[list[Entry], None]:
    """Parcels of records, as long as somebody reads them; a broker that stops ends them."""
    found, after = await store.read(lambda tx: _beginning(tx, asked))
    while True:
        for parcel in parcels([entry for entry in found if _is_asked_for(entry, asked)]):
            yield parcel
        if not found:
            if not asked.follow or stopping():
                return
            await clock.sleep(POLL)
        page = await store.read(lambda tx, after=after: tx.journal(after=after, limit=_AT_ONCE))  # type: ignore[misc]
        found, after = page, _end(page) or after


def _beginning(tx: Tx, asked: Tail) -> tuple[list[Entry], tuple[int, int]]:
    """What is told first, and where it ends; in one view, so that nothing is told twice or left out."""
    if asked.after is not None:
        found = tx.journal(after=asked.after, limit=_AT_ONCE)
        return found, _end(found) or asked.after
    head = tx.journal_head()
    if not asked.back or head is None:
        return [], (head.chain, head.seq) if head else (0, 0)
    found = tx.last_of_journal(_SEARCHED if asked.kinds else asked.back)
    return [entry for entry in found if _is_asked_for(entry, asked)][-asked.back :], (head.chain, head.seq)


def _end(entries: Sequence[Entry]) -> tuple[int, int] | None:
    return (entries[-1].chain, entries[-1].seq) if entries else None


def _is_asked_for(entry: Entry, asked: Tail) -> bool:
    return not asked.kinds or json.loads(entry.body).get("kind") in asked.kinds


def parcels(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """So many, and so long, as fit into one message."""
    parcel: list[Entry] = []
    size = 0
    for entry in entries:
        if parcel and (len(parcel) == _ENTRIES or size + len(entry.body) > _BYTES):
            yield parcel
            parcel, size = [], 0
        parcel.append(entry)
        size += len(entry.body)
    if parcel:
        yield parcel
