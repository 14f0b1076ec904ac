"""The daemon without one of its mechanisms: whoever claims to find leaks must find these."""

from __future__ import annotations

from typing import Any

from broker.errors import BrokerError, Reason, StoreConflict
from broker.leases.committing import Commit
from broker.leases.epoch import EpochLost
from broker.leases.issuing import Issuing
from broker.leases.minting import Minter
from broker.model import Lease


class _Undone(Exception):
    """Rolls the intent's transaction back."""


async def _admit(self: Any, agent: Any, step: Any, *asked: Any) -> Any:
    """In the place of Issuing._admit: everything is checked, nothing is written."""
    made: list[Lease] = []

    def operation(tx: Any) -> Any:
        result = self._intend(tx, agent, step, *asked)
        if isinstance(result, Lease):
            made.append(result)
            raise _Undone
        return result

    try:
        return await self._core.store.write(operation)
    except _Undone:
        (lease,) = made
        self._minter.start(lease, step)
        return lease
    except BrokerError as error:  # without its idempotency row a replay meets the lease of the first try
        if error.reason is Reason.REQUEST_ID_REUSED:
            raise BrokerError(Reason.REPLAY_LOST, "the first answer is lost") from None
        raise


def _insert(tx: Any, lease: Lease) -> None:
    try:
        if tx.lease(lease.id) is None:
            tx.insert_lease(lease)
    except StoreConflict:
        raise EpochLost from None


def no_intent() -> None:
    """Mint first, and write the lease's row only with its first note or its commit to ACTIVE."""
    activate, note = Commit._activate, Minter._note

    async def note_late(self: Any, lease: Lease, refs: Any) -> None:
        await self._core.store.write(lambda tx: _insert(tx, lease))
        await note(self, lease, refs)

    def activate_late(self: Any, tx: Any, lease: Lease, *args: Any, **kwargs: Any) -> Any:
        _insert(tx, lease)
        return activate(self, tx, lease, *args, **kwargs)

    setattr(Issuing, "_admit", _admit)  # noqa: B010 - deliberate: this process is the mutant
    setattr(Minter, "_note", note_late)  # noqa: B010
    setattr(Commit, "_activate", activate_late)  # noqa: B010


MUTANTS = {"no-intent": no_intent}
