"""The hash-chained journal: the hash is computed inside the transaction of the change it describes."""

from __future__ import annotations

from broker.errors import StoreError
from broker.journal.chain import EMPTY, Entry, Head, link
from broker.journal.records import Kind, Record
from broker.store.sqlite import sql
from broker.store.sqlite.database import Database
from broker.store.sqlite.rows import ENTRY, HEAD, SqlValue
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("journal")
_SPARED = (
    Kind.DENIED,
    Kind.OPERATOR_DENIED,
    Kind.DENIALS_COUNTED,
)  # a storm of refusals must not eat the room for revocations


class JournalArea(Area):
    """`head` is the writer's memory of the chain's end: set at BEGIN, put back when an operation is undone."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.head: Head | None = None

    def append(self, record: Record) -> Head:
        if record.kind in _SPARED:
            self.must_have_room()
        if self.head is None:
            raise StoreError("the journal has no chain yet: no epoch was started")
        return self._link(self.head.chain, self.head.seq + 1, record)

    def journal_head(self) -> Head | None:
        row = self._db.one(_SQL["journal_head"])
        return HEAD.of(row) if row else None

    def journal(self, *, after: tuple[int, int] | None = None, limit: int = 1000) -> list[Entry]:
        chain, seq = after or (-1, -1)
        return [ENTRY.of(row) for row in self._db.all(_SQL["journal"], {"chain": chain, "seq": seq, "limit": limit})]

    def last_of_journal(self, limit: int) -> list[Entry]:
        return [ENTRY.of(row) for row in self._db.all(_SQL["last_of_journal"], {"limit": limit})][::-1]

    def denial(self, reference_id: str) -> Entry | None:
        row = self._db.one(_SQL["denial"], {"reference_id": reference_id})
        return ENTRY.of(row) if row else None

    def journal_of_run(self, run: str, *, limit: int) -> list[Entry]:
        return [ENTRY.of(row) for row in self._db.all(_SQL["journal_of_run"], {"run": run, "limit": limit})]

    def journal_of_step(self, step_id: str, *, limit: int) -> list[Entry]:
        return [ENTRY.of(row) for row in self._db.all(_SQL["journal_of_step"], {"step_id": step_id, "limit": limit})]

    def journal_of_reference(self, reference_id: str, *, limit: int) -> list[Entry]:
        asked: dict[str, SqlValue] = {"reference_id": reference_id, "limit": limit}
        return [ENTRY.of(row) for row in self._db.all(_SQL["journal_of_reference"], asked)]

    def _begin_chain(self, chain: int, genesis: Record) -> None:
        self._link(chain, 0, genesis)

    def _link(self, chain: int, seq: int, record: Record) -> Head:
        prev = self.head.hash if self.head else EMPTY
        entry = Entry(chain=chain, seq=seq, body=(body := record.body()), prev=prev, hash=link(prev, chain, seq, body))
        self._db.run(_SQL["append"], ENTRY.row(entry))
        self.head = Head(chain=chain, seq=seq, hash=entry.hash)
        return self.head
