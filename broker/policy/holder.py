"""The daemon's current scope map. A map that fails to load never replaces a good one (I7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from broker.clock import Clock
from broker.journal.records import Kind, Record
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import JsonValue, ScopeKind
from broker.policy.changes import describe
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap
from broker.policy.source import Candidate, Reading, Seen, Source, Verifier
from broker.store.base import KeptMap, Store, Tx

log = get_logger(__name__)

SETTLE = 0.2  # seconds between two readings that must be equal
SETTLE_TRIES = 25  # readings; what never rests is refused
_JOURNALLED = 20  # problems of a refused map; the first ones say enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A map with the generation under which it decides. Read both from one value: they change together."""

    map: ScopeMap
    generation: int


class Policies:
    """Loads the map from its files, and again on request or when they change. Used from one event loop.

    A file that is just being written can be a valid, shorter and wider map, its denies cut off: what is read is believed
    only when a second reading, `settle` seconds later, finds the same.
    """

    def __init__(
        self,
        path: Path,
        kinds: Mapping[str, ScopeKind],
        *,
        environment: str | None = None,
        trust_domain: str | None = None,
        verifier: Verifier | None = None,
        settle: float = SETTLE,
        metrics: Metrics | None = None,
        describe: Callable[[ScopeMap | None, ScopeMap], JsonValue] = describe,
    ) -> None:
        self._source = Source(
            path=path, kinds=kinds, environment=environment, trust_domain=trust_domain, verifier=verifier
        )
        self._settle = settle
        self._metrics = metrics or Metrics()
        self._describe = describe
        self._current: Policy | None = None
        self._kept: KeptMap | None = None  # what the database keeps
        self._highest_serial = 0
        self._store: Store | None = None
        self._clock: Clock | None = None
        self._lock = asyncio.Lock()
        self._seen: Seen | None = None  # by the latest load that was carried to its end
        self._told: tuple[object, ...] = ()  # what was journalled as refused: once is enough
        self.adopted = asyncio.Event()  # set with each other map; whoever acts on it clears it
        self.last_problem = ""  # of the latest load, every mistake on a line; "" when it was good
        self.teams_refused: frozenset[str] = frozenset()

    @property
    def current(self) -> Policy:
        """Map and generation. Raises RuntimeError before `load_initial`."""
        if self._current is None:
            raise RuntimeError("no scope map is loaded yet")
        return self._current

    @property
    def map(self) -> ScopeMap:
        """Today's map."""
        return self.current.map

    @property
    def generation(self) -> int:
        """To compare with the store's policy_generation in the intent's transaction."""
        return self.current.generation

    async def load_initial(self, store: Store, clock: Clock) -> None:
        """Load at start, in the epoch that is already begun: the files, or when they are bad what the database keeps.

        Always a new generation: by the same bytes another version of this program may decide otherwise.
        Raises ScopeMapError: there is no good map. Raises StoreError.
        """
        self._store, self._clock = store, clock
        self._kept, control = await store.read(lambda tx: (tx.kept_map(), tx.control()))
        self._highest_serial = control.map_serial
        async with self._lock:
            reading = await self._settled()
            if isinstance(reading.result, Candidate):
                await self._take(reading, reading.result)
                return
            await self._refuse(reading, reading.result)
            kept = await self._kept_candidate()
            if kept is None:
                raise reading.result
            await self._adopt(kept, came_from="database")
            log.error("the last good scope map, kept in the database, is in force", digest=self.map.digest)

    async def reload(self) -> bool:
        """Load again. False: the map is bad, the last good one stays, `last_problem` says why.

        Raises StoreError when it could not be journalled; then too the last good map stays.
        Unchanged files change nothing.
        """
        # Shielded: a caller that goes away between commit and swap must not leave the map of an older
        # generation behind, with which nothing could be minted until the next load.
        return bool(await asyncio.shield(asyncio.ensure_future(self._load(always=True))))

    async def look(self) -> bool:
        """As `reload`, but files that hold what they held are not even read again. True when something was done."""
        return await asyncio.shield(asyncio.ensure_future(self._load(always=False))) is not None

    def folders(self) -> frozenset[Path]:
        """Where something happens when the map changes. Blocks."""
        return self._source.folders(
            {**dict.fromkeys(self._kept.contents if self._kept else (), ""), **(self._seen or {})}
        )

    def generation_raised(self, generation: int) -> None:
        """Something else of this daemon (trust, deny list) raised the store's generation; the map is still ours."""
        if generation > self.current.generation:
            self._current = Policy(map=self.current.map, generation=generation)
            self._metrics.policy_generation(generation)

    async def _load(self, *, always: bool) -> bool | None:
        """Was it good? None: nothing has changed."""
        async with self._lock:
            if not always and self._seen is not None and await asyncio.to_thread(self._source.unchanged, self._seen):
                return None
            reading = await self._settled()
            if isinstance(reading.result, ScopeMapError):
                await self._refuse(reading, reading.result)
                return False
            await self._take(reading, reading.result)
            return True

    async def _settled(self) -> Reading:
        """What two readings in a row have found."""
        _, clock = self._parts()
        for _ in range(SETTLE_TRIES):
            # In a thread: a map near the size limit takes seconds, and heartbeats must not wait.
            reading = await asyncio.to_thread(self._read, clock.now())
            await clock.sleep(self._settle)
            if await asyncio.to_thread(self._source.unchanged, reading.seen):
                return reading
        never = self._source.refusal("keeps changing while it is read; write it beside and move it into its place")
        return Reading(seen={self._source.path.name: ""}, result=never)

    def _read(self, now: datetime) -> Reading:
        kept = self._kept.contents if self._kept else None
        return self._source.read(kept=kept, now=now, highest_serial=self._highest_serial)

    async def _take(self, reading: Reading, found: Candidate) -> None:
        """A good map: into force if it is another one; what is new about its teams is told."""
        teams = found.loaded.refused
        told = ("teams", *sorted((team, *map(str, problems)) for team, problems in teams.items())) if teams else ()
        records = self._team_records(teams) if told != self._told else []
        other = self._current is None or self._current.map.digest != found.loaded.map.digest
        signed_anew = (
            found.signed is not None and self._kept is not None and found.signed.manifest != self._kept.manifest
        )
        if other or signed_anew:
            await self._adopt(found, also=records)
        elif records:
            await self._append(records)
        self._seen, self._told, self.last_problem = reading.seen, told, ""
        self.teams_refused = frozenset(teams)
        self._metrics.scope_map_refused(refused=False, teams=len(teams))
        if records:
            self._metrics.scope_map_load_failure()
            log.error("files of teams refused; their last good ones stay", teams=sorted(teams))

    async def _adopt(self, found: Candidate, *, came_from: str = "files", also: list[Record] | None = None) -> None:
        store, clock = self._parts()
        new, signed, old = found.loaded.map, found.signed, self._current
        other = old is None or old.map.digest != new.digest
        plan = await self._plan(new)
        at = clock.now()

        def operation(tx: Tx) -> KeptMap:
            kept = KeptMap(
                root=self._source.path.name,
                contents=found.loaded.contents,
                digest=new.digest,
                generation=tx.raise_generation() if other else tx.control().policy_generation,
                loaded_at=at,
                serial=signed.serial if signed else 0,
                signers=signed.signers if signed else (),
                manifest=signed.manifest if signed else b"",
            )
            tx.keep_map(kept)
            tx.append(_loaded(new, kept, came_from=came_from, plan=plan))
            for record in also or ():
                tx.append(record)
            return kept

        self._kept = kept = await store.write(operation)
        self._highest_serial = max(self._highest_serial, kept.serial)
        if not other:
            return
        self._current = Policy(map=new, generation=kept.generation)  # only now: it is durable
        self.adopted.set()
        self._metrics.policy_generation(kept.generation)
        log.info("scope map in force", digest=new.digest, generation=kept.generation, grants=len(new.grants))

    async def _plan(self, new: ScopeMap) -> JsonValue:
        """What it changes: at a start, against the map that was in force before."""
        old = self._current.map if self._current else None
        if old is None and self._kept is not None and self._kept.digest != new.digest:
            before = await self._kept_candidate()
            old = before.loaded.map if before else None
        elif old is None and self._kept is not None:
            old = new
        return await asyncio.to_thread(self._describe, old, new)

    async def _kept_candidate(self) -> Candidate | None:
        """None when nothing is kept, or what is kept is good no more."""
        if self._kept is None:
            return None
        try:
            return await asyncio.to_thread(self._source.of_kept, self._kept)
        except ScopeMapError as error:
            log.warning("the scope map that the database keeps is no good today", problem=str(error))
            return None

    async def _refuse(self, reading: Reading, error: ScopeMapError) -> None:
        """Journalled and counted once; said again whenever somebody asks for a load."""
        _, clock = self._parts()
        self.last_problem = str(error)
        self._metrics.scope_map_refused(refused=True)  # also when it cannot be journalled
        log.error("scope map refused; the last good one stays", problem=self.last_problem)
        told = ("map", reading.seen, self.last_problem)
        if told != self._told:
            data = {"file": str(self._source.path), **_said(error.problems)}
            await self._append(
                [
                    Record(kind=Kind.POLICY_REFUSED, at=clock.now(), data=data),
                    Record(kind=Kind.ALERT, at=clock.now(), reason="SCOPE_MAP_REFUSED", data=data),
                ]
            )
            self._metrics.scope_map_load_failure()
        self._seen, self._told = reading.seen, told

    def _team_records(self, teams: Mapping[str, tuple[Problem, ...]]) -> list[Record]:
        _, clock = self._parts()
        return [
            Record(kind=kind, at=clock.now(), reason="TEAM_FILE_REFUSED", data={"team": team, **_said(problems)})
            for team, problems in sorted(teams.items())
            for kind in (Kind.POLICY_REFUSED, Kind.ALERT)
        ]

    async def _append(self, records: list[Record]) -> None:
        store, _ = self._parts()

        def operation(tx: Tx) -> None:
            for record in records:
                tx.append(record)

        await store.write(operation)

    def _parts(self) -> tuple[Store, Clock]:
        if self._store is None or self._clock is None:
            raise RuntimeError("load_initial comes first")
        return self._store, self._clock


def _said(problems: tuple[Problem, ...]) -> dict[str, JsonValue]:
    return {"problems": [str(problem) for problem in problems[:_JOURNALLED]], "count": len(problems)}


def _loaded(new: ScopeMap, kept: KeptMap, *, came_from: str, plan: JsonValue) -> Record:
    data = {
        "file": new.file,
        "digest": kept.digest,
        "generation": kept.generation,
        "grants": len(new.grants),
        "from": came_from,
        "plan": plan,
    }
    if kept.manifest:
        data |= {"serial": kept.serial, "signers": list(kept.signers)}
    return Record(kind=Kind.POLICY_LOADED, at=kept.loaded_at, data=data)
