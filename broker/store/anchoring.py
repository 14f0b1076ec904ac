"""Keeps the journal's head in a file elsewhere, and refuses a database that is older than it (DESIGN section 9)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.clock import Clock
from broker.errors import ConfigError, StoreError
from broker.journal import anchor
from broker.journal.anchor import Anchor
from broker.journal.chain import Head
from broker.log import get_logger
from broker.metrics import Metrics
from broker.store.base import Store, Tx

log = get_logger(__name__)

EVERY = 60.0  # seconds: what a restored database can have lost at most without being seen
LOOK = 5.0  # seconds between looks for a new epoch
HELP = "run stepcred-broker recover --since TIME before serving (docs/recovery.md)"


class Anchoring:
    """One database and its anchor file. Constant cost: one look at one record, one small file a minute."""

    def __init__(self, store: Store, path: Path, clock: Clock, metrics: Metrics | None = None) -> None:
        self._store = store
        self._path = path
        self._clock = clock
        self._metrics = metrics
        self._written: Head | None = None
        self.failing = False  # a database that is put back in time would not be noticed

    async def must_fit(self) -> None:
        """Before anything is written at a start. Raises ConfigError when the database has forgotten something."""
        try:
            held = await asyncio.to_thread(anchor.read, self._path)
        except ConfigError:
            self._store.forsake()
            raise
        problem = await self._store.read(lambda tx: misfit(tx, held))
        if problem:
            self._store.forsake()
            raise ConfigError([f"anchor_file {self._path}: {problem}; {HELP}"])

    async def write(self) -> None:
        """The head as it is committed now. Raises OSError, StoreError."""
        store = self._store
        control, head = await store.read(lambda tx: (tx.control(), tx.journal_head()))
        if head is None or head == self._written:
            return
        await asyncio.to_thread(anchor.write, self._path, Anchor(installation=control.installation, head=head))
        self._written = head
        if not control.anchored:  # only now: the other way round, a crash between would refuse an honest start
            await store.write(lambda tx: tx.set_anchored())

    async def write_now(self) -> None:
        """The same; raises ConfigError when the file cannot be written."""
        try:
            await self.write()
        except OSError as error:
            raise ConfigError([f"anchor_file {self._path}: cannot be written ({error.strerror})"]) from None

    def lost(self) -> Head | None:
        """The head that the database once had; None when the file is gone or spoilt."""
        try:
            held = anchor.read(self._path)
        except ConfigError:
            return None
        return held.head if held else None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write now, every minute and at each new epoch, until the block ends. Raises ConfigError when it cannot be written now."""
        await self.write_now()
        task = asyncio.create_task(self._for_ever(), name="anchor")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        """The last head of a clean stop."""
        if self._written is not None:
            await self._try()

    async def _for_ever(self) -> None:
        while True:
            since = self._clock.monotonic()
            while self._clock.monotonic() - since < EVERY and not await self._new_chain():
                await self._clock.sleep(LOOK)
            await self._try()

    async def _new_chain(self) -> bool:
        """A stalled process has begun a new epoch."""
        try:
            head = await self._store.read(lambda tx: tx.journal_head())
        except StoreError:
            return False
        return head is not None and self._written is not None and head.chain != self._written.chain

    async def _try(self) -> None:
        try:
            await self.write()
            self.failing = False  # no sooner, and no later: whoever looks meanwhile is told how the last one went
        except (OSError, StoreError):
            log.exception("the anchor could not be written; a restored database would not be noticed")
            self.failing = True
        if self._metrics:
            self._metrics.anchor_failing(failing=self.failing)


def misfit(tx: Tx, held: Anchor | None) -> str:
    """What shows that the database has forgotten something; "" when nothing does."""
    if held is None:
        return "is missing, though this database was anchored: restore the file" if tx.control().anchored else ""
    at = held.head
    found = tx.journal(after=(at.chain, at.seq - 1), limit=1)
    if not found or (found[0].chain, found[0].seq) != (at.chain, at.seq):
        return f"the database is older: it lacks the journal record {at.chain}/{at.seq}"
    if found[0].hash != at.hash:
        return f"the database is another one: its journal record {at.chain}/{at.seq} differs"
    return ""
