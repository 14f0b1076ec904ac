"""A broker process's fenced right to write.

A process that was stopped for longer than its epoch lives must not go on as if nothing had happened: a
successor may have taken its rows. It finds its epoch expired on CLOCK_BOOTTIME, takes a new one, and treats
what it had in flight as a predecessor's.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.clock import Clock
from broker.config import Timings
from broker.errors import BrokerError, Reason
from broker.guard.timing import keep_time
from broker.journal.records import Kind, Record
from broker.leases import approving, moves
from broker.log import get_logger
from broker.model import EndReason, LeaseState
from broker.store.base import Store, Tx

log = get_logger(__name__)

ASK_AGAIN = timedelta(seconds=1)  # a new epoch is taken within one renewal, when the database can be written


class EpochLost(Exception):
    """The row is not ours any more, or ours has run out; nothing may be written under it."""


class EpochKeeper:
    """Takes, renews and checks the epoch."""

    def __init__(self, store: Store, clock: Clock, timings: Timings, *, replica: str) -> None:
        self._store = store
        self._clock = clock
        self._timings = timings
        self._replica = replica
        self._expires_boot = 0.0
        self.id = 0
        self.started_boot = 0.0  # liveness of steps is counted from here at the earliest
        self._process_began = clock.now(), clock.boottime()

    def fresh(self) -> bool:
        """True while this process may answer and write. Costs no I/O."""
        return self._clock.boottime() < self._expires_boot

    def fence(self, tx: Tx) -> None:
        """First line of every writing operation. Raises EpochLost."""
        row = tx.epoch()
        if row is None or row.id != self.id or not self.fresh():
            raise EpochLost

    def surely(self) -> datetime:
        """A time that has certainly passed: the wall clock's, and this process's start plus what has elapsed since.

        Where passing time is evidence that a credential is dead, a clock set forward must not be (DESIGN section 5).
        """
        began, boot = self._process_began
        return min(self._clock.now(), began + timedelta(seconds=self._clock.boottime() - boot))

    async def take(self) -> int:
        """Start a new epoch and adopt what older ones left, in one transaction. Returns its id."""
        at = self._clock.now()
        expires = self._clock.boottime() + self._timings.epoch_life.total_seconds()

        def operation(tx: Tx) -> int:
            boot_id = self._clock.moment().boot_id
            epoch = tx.start_epoch(replica=self._replica, boot_id=boot_id, expires_boot=expires, at=at)
            doubtful, unclaimed = _adopt(tx, self._clock)
            tx.append(
                Record(
                    kind=Kind.EPOCH_STARTED,
                    at=at,
                    data={"epoch": epoch, "replica": self._replica, "in_doubt": doubtful, "unclaimed": unclaimed},
                )
            )
            return epoch

        self.id = await self._store.write(operation)
        self._expires_boot = expires
        self.started_boot = self._clock.boottime()
        log.info("epoch started", epoch=self.id)
        return self.id

    async def renew(self) -> bool:
        """Extend the epoch; when it has run out, take a new one. True when it is a new one."""
        expires = self._clock.boottime() + self._timings.epoch_life.total_seconds()

        def operation(tx: Tx) -> bool:
            renewed = tx.renew_epoch(self.id, expires)
            if renewed:
                keep_time(tx, self._clock.moment())
            return renewed

        renewed = self.fresh() and await self._store.write(operation)
        # It may have run out while the disk took its time. What was refused in that gap left its rows to the next
        # epoch: going on with this one would leave them to nobody.
        if not renewed or not self.fresh():
            log.warning("epoch lost", epoch=self.id)
            await self.take()
            return True
        self._expires_boot = expires
        return False

    def must_be_fresh(self) -> None:
        """The last look before a reply. Raises BrokerError EPOCH_LOST."""
        if not self.fresh():
            raise epoch_lost()


def epoch_lost() -> BrokerError:
    """This process may not answer just now."""
    return BrokerError(Reason.EPOCH_LOST, "the broker lost its right to write; ask again", retry_after=ASK_AGAIN)


def _adopt(tx: Tx, clock: Clock) -> tuple[int, int]:
    """Older epochs' INTENT rows → IN_DOUBT, their unclaimed credentials → REVOKING; unfinished work is due now."""
    at = clock.now()
    tx.steps_go_on_in(clock.moment())
    tx.leases_go_on_in(clock.moment())
    approving.go_on(tx, clock.moment())
    keep_time(tx, clock.moment())
    tx.make_due(at)
    doubtful = tx.leases_in(LeaseState.INTENT)
    for lease in doubtful:
        moves.in_doubt(tx, lease, at=at, problem="the broker stopped while minting")
    unclaimed = [*filter(None, map(tx.lease, tx.unclaimed()))]  # not all that live: 100,000 rows took 300 MB (measured)
    for lease in unclaimed:
        moves.withdraw(tx, lease, at=at, reason=EndReason.EPOCH_LOST)
    return len(doubtful), len(unclaimed)
