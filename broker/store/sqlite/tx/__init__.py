"""The store's Tx, one module per area."""

from broker.store.sqlite.tx.approvals import ApprovalsArea
from broker.store.sqlite.tx.control import ControlArea
from broker.store.sqlite.tx.guard import GuardArea
from broker.store.sqlite.tx.halts import HaltsArea
from broker.store.sqlite.tx.leases import LeasesArea
from broker.store.sqlite.tx.notices import NoticesArea
from broker.store.sqlite.tx.requests import RequestsArea
from broker.store.sqlite.tx.steps import StepsArea
from broker.store.sqlite.tx.watched import WatchedArea


class SqliteTx(
    ControlArea, StepsArea, LeasesArea, RequestsArea, GuardArea, ApprovalsArea, HaltsArea, NoticesArea, WatchedArea
):
    """`broker.store.base.Tx` on one connection; control brings the journal, which an epoch begins."""

    def start(self) -> None:
        """Begin a writing transaction. What was known stays so unless somebody else has written."""
        self.grouped = True
        self._db.begin("IMMEDIATE")
        (row,) = self._db.all("PRAGMA data_version")
        if self.known.begin(row["data_version"]):
            self.head = self.journal_head()

    def lose(self) -> None:
        """Undo all of it. After a failed COMMIT, too, memory is not trusted. Raises StoreError."""
        self.known.forget_all()
        self._db.rollback()


__all__ = ["SqliteTx"]
