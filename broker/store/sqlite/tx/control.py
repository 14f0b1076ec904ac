"""The database as a whole: installation, mint keys, policy generation, epochs."""

from __future__ import annotations

from datetime import datetime

from broker.errors import StoreConflict
from broker.journal.records import Kind, Record
from broker.store.base import Control, Epoch, KeptMap
from broker.store.sqlite import sql
from broker.store.sqlite.known import Kind as Row
from broker.store.sqlite.rows import EPOCH, KEPT_MAP, SqlValue
from broker.store.sqlite.tx.journal import JournalArea

_SQL = sql.queries("control")


class ControlArea(JournalArea):
    """Over the journal, because an epoch begins a chain."""

    def control(self) -> Control:
        return self.known.get(Row.CONTROL, "", self._control)

    def _control(self) -> Control:
        (row,) = self._db.all(_SQL["control"])
        keys = self._db.all(_SQL["key_fingerprints"])
        return Control(
            installation=row["installation"],
            key_fingerprints={key["kid"]: key["fingerprint"] for key in keys},
            policy_generation=row["policy_generation"],
            frozen=bool(row["frozen"]),
            anchored=bool(row["anchored"]),
            map_serial=row["map_serial"],
            map_manifest=row["map_manifest"],
        )

    def add_key_fingerprint(self, kid: str, fingerprint: str) -> None:
        self.known.forget(Row.CONTROL)
        if not self._db.run(_SQL["add_key_fingerprint"], {"kid": kid, "fingerprint": fingerprint}):
            raise StoreConflict("the key id is known by another fingerprint")

    def forget_key_fingerprint(self, kid: str) -> None:
        self.known.forget(Row.CONTROL)
        self._db.run(_SQL["forget_key_fingerprint"], {"kid": kid})

    def raise_generation(self) -> int:
        self.known.forget(Row.CONTROL)
        (row,) = self._db.all(_SQL["raise_generation"])
        return int(row["policy_generation"])

    def set_anchored(self) -> None:
        self.known.forget(Row.CONTROL)
        self._db.run(_SQL["set_anchored"])

    def keep_map(self, kept: KeptMap) -> None:
        self.known.forget(Row.CONTROL)
        self._db.run(_SQL["keep_map"], KEPT_MAP.row(kept))
        self._db.run(_SQL["raise_map_serial"], {"serial": kept.serial, "digest": kept.manifest_digest})
        self._db.run(_SQL["forget_files"])
        for name, content in kept.contents.items():
            self._db.run(_SQL["keep_file"], {"name": name, "content": content})

    def kept_map(self) -> KeptMap | None:
        row = self._db.one(_SQL["kept_map"])
        if row is None:
            return None
        files = {file["name"]: file["content"] for file in self._db.all(_SQL["kept_files"])}
        return KeptMap(contents=files, **KEPT_MAP.values(row))

    def start_epoch(self, *, replica: str, boot_id: str, expires_boot: float, at: datetime, at_least: int = 1) -> int:
        params: dict[str, SqlValue] = {
            "replica": replica,
            "boot_id": boot_id,
            "expires_boot": expires_boot,
            "at_least": at_least,
        }
        self.known.forget(Row.EPOCH)
        (row,) = self._db.all(_SQL["start_epoch"], params)
        epoch = int(row["id"])
        data = {"epoch": epoch, "replica": replica, "boot_id": boot_id}
        self._begin_chain(epoch, Record(kind=Kind.GENESIS, at=at, data=data))
        return epoch

    def epoch(self) -> Epoch | None:
        return self.known.get(Row.EPOCH, "", self._epoch)

    def _epoch(self) -> Epoch | None:
        row = self._db.one(_SQL["epoch"])
        return EPOCH.of(row) if row else None

    def renew_epoch(self, epoch: int, expires_boot: float) -> bool:
        self.known.forget(Row.EPOCH)
        return bool(self._db.run(_SQL["renew_epoch"], {"epoch": epoch, "expires_boot": expires_boot}))
