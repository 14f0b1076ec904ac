"""The daemon without one of its mechanisms: whoever claims to find leaks must find these."""

from __future__ import annotations

from typing import Any

from broker.errors import BrokerError, Reason, StoreConflict
from broker.leases.committing import Commit
from broker.leases.epoch import EpochLost
from broker.leases.issuing import Intended, Issuing
from broker.leases.minting import Minter
from broker.model import Lease


class _Undone(Exception):
    """Rolls the intent's transaction back."""

    def __init__(self, intended: Intended) -> None:
        self.intended = intended


def _insert(tx: Any, lease: Lease) -> None:
    try:
        if tx.lease(lease.id) is None:
            tx.insert_lease(lease)
    except StoreConflict:
        raise EpochLost from None


def no_intent() -> None:
    """Mint first, and write the lease's row only with its first note or its commit to ACTIVE."""
    admit, admitted, activate, note = Issuing._admit, Issuing._admitted, Commit._activate, Minter._note

    def checked(self: Any, *asked: Any) -> Any:
        result = admit(self, *asked)
        if isinstance(result, Intended):
            raise _Undone(result)
        return result

    async def unwritten(self: Any, *asked: Any) -> Any:
        try:
            return await admitted(self, *asked)
        except _Undone as undone:
            return undone.intended
        except BrokerError as error:  # without its idempotency row a replay meets the lease of the first try
            if error.reason is Reason.REQUEST_ID_REUSED:
                raise BrokerError(Reason.REPLAY_LOST, "the first answer is lost") from None
            raise

    async def note_late(self: Any, lease: Lease, refs: Any) -> None:
        await self._core.store.write(lambda tx: _insert(tx, lease))
        await note(self, lease, refs)

    def activate_late(self: Any, tx: Any, lease: Lease, *args: Any, **kwargs: Any) -> Any:
        _insert(tx, lease)
        return activate(self, tx, lease, *args, **kwargs)

    setattr(Issuing, "_admit", checked)  # noqa: B010 - deliberate: this process is the mutant
    setattr(Issuing, "_admitted", unwritten)  # noqa: B010
    setattr(Minter, "_note", note_late)  # noqa: B010
    setattr(Commit, "_activate", activate_late)  # noqa: B010


MUTANTS = {"no-intent": no_intent}
