"""The daemon's current scope map. A map that fails to load never replaces a good one (I7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from broker.clock import Clock
from broker.config import TierOverride
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import Revocability, ScopeKind, Tier
from broker.policy.live import records as written
from broker.policy.live.changes import describe
from broker.policy.live.manifests import Verifier
from broker.policy.live.records import SAID
from broker.policy.live.source import KEEPS_CHANGING, Candidate, Marks, Reading, Source
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from broker.policy.signing import Seen
from broker.store.base import KeptMap, Store, Tx

log = get_logger(__name__)

# Finds out what makes maps read otherwise than before. True: they do, so read again. None: one was refused.
Learn: TypeAlias = Callable[[ScopeMap | None], Awaitable[bool]]
Tell: TypeAlias = Callable[[Tx], None]  # writes what is refused, in the transaction of what is taken
SETTLE = 0.2  # seconds between two readings that must be equal
SETTLE_TRIES = 25  # readings; what never rests is refused
SETTLE_PATIENCE = 20  # of them; then one change is enough to be left out
RESTLESS = 5  # changes of one file, after which it is left out of the readings that follow


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
        federations: Collection[str] | None = None,
        verifier: Verifier | None = None,
        settle: float = SETTLE,
        metrics: Metrics | None = None,
        learn: Learn | None = None,
    ) -> None:
        """`learn`: asked about each other map before it is in force, with a time limit of its own."""
        self._source = Source(
            path=path,
            kinds=kinds,
            environment=environment,
            trust_domain=trust_domain,
            federations=federations,
            verifier=verifier,
        )
        self._settle = settle
        self._learn = learn
        self._metrics = metrics or Metrics()
        self._current: Policy | None = None
        self._kept: KeptMap | None = None  # what the database keeps
        self._before: Candidate | None = None  # the same at a start, when it is good today
        self._newest: Seen | None = None  # of all manifests that were ever in force
        self._store: Store | None = None
        self._clock: Clock | None = None
        self._lock = asyncio.Lock()
        self._loads: set[asyncio.Task[bool | None]] = set()
        self._marks: Marks | None = None  # by the latest load that was carried to its end
        self._restless: frozenset[str] = (
            frozenset()
        )  # left out of the latest reading: next time it is not waited for again
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
    def kinds(self) -> Mapping[str, ScopeKind]:
        """By the name of their block, as the map was read with them."""
        return self._source.kinds

    def limits(self, tier: Tier) -> TierOverride:
        """What today's map says of a tier's numbers for the guard."""
        return self.map.limits(tier)

    @property
    def signers(self) -> frozenset[str]:
        """Names of the keys that signed it; none when it need not be signed."""
        return frozenset(self._kept.signers if self._kept else ())

    @property
    def loaded_at(self) -> datetime | None:
        """When it came into force."""
        return self._kept.loaded_at if self._kept else None

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
        self._newest = Seen(serial=control.map_serial, digest=control.map_manifest) if control.map_serial else None
        async with self._lock:
            self._before = await self._kept_and_learnt()
            reading = await self._read_and_learnt()
            if isinstance(reading.result, Candidate):
                await self._take(reading, reading.result)
                return
            await self._refuse(reading, reading.result)
            if self._before is None or self._kept is None:
                raise reading.result
            await self._adopt(self._before, self._kept, came_from="database")
            log.error("the last good scope map, kept in the database, is in force", digest=self.map.digest)

    async def reload(self) -> bool:
        """Load again. False: the map is bad, the last good one stays, `last_problem` says why.

        Raises StoreError when it could not be journalled; then too the last good map stays.
        Unchanged files change nothing.
        """
        return bool(await self._surely(self._load(always=True)))

    async def look(self) -> bool:
        """As `reload`, but files that hold what they held are not even read again. True when something was done."""
        return await self._surely(self._load(always=False)) is not None

    def folders(self) -> frozenset[Path]:
        """Where something happens when the map changes. Blocks."""
        return self._source.folders({*(self._kept.contents if self._kept else ()), *(self._marks or ())})

    def generation_raised(self, generation: int) -> None:
        """Something else of this daemon (trust, deny list) raised the store's generation; the map is still ours."""
        current = self._current
        if current is not None and generation > current.generation:  # a map that is being loaded first raises it anyway
            self._current = Policy(map=current.map, generation=generation)
            self._metrics.policy_generation(generation)

    async def _surely(self, load: Coroutine[Any, Any, bool | None]) -> bool | None:
        """A caller that goes away between commit and swap must not leave the map of an older generation behind.

        With that nothing could be minted until the next load.
        """
        task = asyncio.create_task(load, name="scope map load")
        self._loads.add(task)
        task.add_done_callback(self._loaded)
        return await asyncio.shield(task)

    def _loaded(self, task: asyncio.Task[bool | None]) -> None:
        self._loads.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: the caller may have gone

    async def _load(self, *, always: bool) -> bool | None:
        """Was it good? None: nothing has changed."""
        async with self._lock:
            known = None if always else self._marks
            if known is not None and not await asyncio.to_thread(self._source.changed, known):
                return None
            reading = await self._read_and_learnt()
            if isinstance(reading.result, ScopeMapError):
                await self._refuse(reading, reading.result)
                return False
            await self._take(reading, reading.result)
            return True

    async def _read_and_learnt(self) -> Reading:
        """The files, by what is known once their own map has been asked about."""
        reading = await self._settled()
        found = reading.result.loaded.map if isinstance(reading.result, Candidate) else None
        if self._learn is None or (found is not None and not self._is_other(found)):
            return reading
        return await self._settled() if await self._learn(found) else reading

    async def _kept_and_learnt(self) -> Candidate | None:
        """What is learnt takes it out of force at a start no more than it does later.

        Who cannot keep a promise refuses the mint; a broker without a map would end nothing at all.
        """
        kept = await asyncio.to_thread(self._good_kept)
        if kept is not None and self._learn is not None and await self._learn(kept.loaded.map):
            return await asyncio.to_thread(self._good_kept) or kept
        return kept

    def _is_other(self, new: ScopeMap) -> bool:
        """Than the one in force. The same bytes are another map when what is known of their scopes has changed."""
        old = self._current.map if self._current is not None else None
        return old is None or old.digest != new.digest or _promises(old) != _promises(new)

    async def _settled(self) -> Reading:
        """What two readings in a row have found, without the files that never rest: of a team, that team's alone is refused."""
        _, clock = self._parts()
        changed = Counter(dict.fromkeys(self._restless, RESTLESS - 1))
        for turn in range(SETTLE_TRIES):
            enough = RESTLESS if turn < SETTLE_PATIENCE else 1
            restless = self._restless = frozenset(name for name, times in changed.items() if times >= enough)
            # In a thread: a map near the size limit takes seconds, and heartbeats must not wait.
            reading = await asyncio.to_thread(self._read, clock.now(), self._old_map, restless)
            await clock.sleep(self._settle)
            found = await asyncio.to_thread(self._source.changed, reading.marks)
            if found <= restless:
                return reading
            changed.update(found)
        return Reading(marks={self._source.path.name: ""}, result=self._source.refusal(KEEPS_CHANGING))

    def _read(self, now: datetime, old: ScopeMap | None, restless: frozenset[str]) -> Reading:
        # Without a kept map too, a team's bad file fails alone: that team then has nothing.
        kept = self._kept.contents if self._kept else {}
        return self._source.read(kept=kept, now=now, seen=self._newest, old=old, restless=restless)

    async def _take(self, reading: Reading, found: Candidate) -> None:
        """A good map: into force if it is another one; what is new about its teams is told."""
        teams = found.loaded.refused
        told = ("teams", *sorted((team, *map(str, problems)) for team, problems in teams.items())) if teams else ()
        news = partial(written.teams_refused, teams=teams, at=self._parts()[1].now())
        tell = news if teams and told != self._told else None
        other = self._is_other(found.loaded.map)
        signed_anew = (
            found.signed is not None and self._kept is not None and found.signed.envelope != self._kept.manifest
        )
        if other or signed_anew:
            await self._adopt(found, self._to_keep(found), also=tell)
        elif tell:
            await self._tell(tell)
        self._marks, self._told, self.last_problem = reading.marks, told, ""
        self.teams_refused = frozenset(teams)
        self._metrics.scope_map_refused(refused=False, teams=len(teams))
        if tell:
            self._metrics.scope_map_load_failure()
            problems = "\n".join(str(problem) for team in sorted(teams) for problem in teams[team][:SAID])
            log.error("files of teams refused; their last good ones stay", teams=sorted(teams), problem=problems)

    def _to_keep(self, found: Candidate) -> KeptMap:
        _, clock = self._parts()
        signed = found.signed
        return KeptMap(
            root=self._source.path.name,
            contents=found.loaded.contents,
            digest=found.loaded.map.digest,
            generation=0,  # known in the transaction
            loaded_at=clock.now(),
            serial=signed.seen.serial if signed else 0,
            manifest_digest=signed.seen.digest if signed else "",
            signers=tuple(sorted(signed.signers)) if signed else (),
            manifest=signed.envelope if signed else b"",
        )

    async def _adopt(
        self, found: Candidate, to_keep: KeptMap, *, came_from: str = "files", also: Tell | None = None
    ) -> None:
        """Into force, in one transaction with the generation, the copy that is kept and the journal."""
        store, clock = self._parts()
        new, signed = found.loaded.map, found.signed
        other = self._is_other(new)
        at = clock.now()
        plan = await asyncio.to_thread(describe, self._old_map, new, at)

        def operation(tx: Tx) -> KeptMap:
            generation = tx.raise_generation() if other else tx.control().policy_generation
            kept = replace(to_keep, generation=generation)
            tx.keep_map(kept)
            tx.append(written.loaded(new, kept, at=at, came_from=came_from, plan=plan))
            if also:
                also(tx)
            return kept

        self._kept = kept = await store.write(operation)
        self._newest = signed.seen if signed else self._newest
        if not other:
            return
        self._current = Policy(map=new, generation=kept.generation)  # only now: it is durable
        self._before = None
        self.adopted.set()
        self._metrics.policy_generation(kept.generation)
        log.info("scope map in force", digest=new.digest, generation=kept.generation, grants=len(new.grants))

    @property
    def _old_map(self) -> ScopeMap | None:
        """The map in force; at a start, the one that was."""
        if self._current is not None:
            return self._current.map
        return self._before.loaded.map if self._before else None

    def _good_kept(self) -> Candidate | None:
        """None when nothing is kept, or what is kept is good no more."""
        if self._kept is None:
            return None
        try:
            return self._source.of_kept(self._kept)
        except ScopeMapError as error:
            log.warning("the scope map that the database keeps is no good today", problem=str(error))
        except Exception:  # a mistake of ours with the older map must not stop a start with good files
            log.exception("the scope map that the database keeps could not be read")
        return None

    async def _refuse(self, reading: Reading, error: ScopeMapError) -> None:
        """Journalled and counted once; said again whenever somebody asks for a load."""
        _, clock = self._parts()
        self.last_problem = str(error)
        self._metrics.scope_map_refused(refused=True)  # also when it cannot be journalled
        log.error("scope map refused; the last good one stays", problem=self.last_problem)
        told = ("map", reading.marks, self.last_problem)
        if told != self._told:
            await self._tell(partial(written.refused, file=self._source.path, problems=error.problems, at=clock.now()))
            self._metrics.scope_map_load_failure()
        self._marks, self._told = reading.marks, told

    async def _tell(self, tell: Tell) -> None:
        store, _ = self._parts()
        await store.write(tell)

    def _parts(self) -> tuple[Store, Clock]:
        if self._store is None or self._clock is None:
            raise RuntimeError("load_initial comes first")
        return self._store, self._clock


def _promises(scope_map: ScopeMap) -> Mapping[str, Revocability]:
    return {name: scope.revocability for name, scope in scope_map.scopes.items()}
