"""The daemon's current scope map. A map that fails to load never replaces a good one (I7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.clock import Clock
from broker.journal.records import Kind, Record
from broker.model import ScopeKind
from broker.policy.files import Folder
from broker.policy.load import load_files
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from broker.store.base import Store, Tx

_JOURNALLED = 20  # problems of a refused map; the first ones say enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A map with the generation under which it decides. Read both from one value: they change together."""

    map: ScopeMap
    generation: int


class Policies:
    """Loads the map from its file, and again on request. Used from one event loop."""

    def __init__(
        self,
        path: Path,
        kinds: Mapping[str, ScopeKind],
        *,
        environment: str | None = None,
        trust_domain: str | None = None,
    ) -> None:
        self._path = path
        self._kinds = kinds
        self._environment = environment
        self._trust_domain = trust_domain
        self._current: Policy | None = None
        self._store: Store | None = None
        self._clock: Clock | None = None
        self._lock = asyncio.Lock()
        self._error: ScopeMapError | None = None
        self.last_problem = ""  # of the latest load, every mistake on a line; "" when it was good

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
        """Load at start, in the epoch that is already begun.

        Raises ScopeMapError: there is no good map yet to go on with. Raises StoreError.
        """
        self._store, self._clock = store, clock
        if not await self._load() and self._error is not None:
            raise self._error

    async def reload(self) -> bool:
        """Load again. False: the map is bad, the last good one stays, `last_problem` says why.

        Raises StoreError when it could not be journalled; then too the last good map stays.
        An unchanged file changes nothing.
        """
        # Shielded: a caller that goes away between commit and swap must not leave the map of an older
        # generation behind, with which nothing could be minted until the next load.
        return await asyncio.shield(asyncio.ensure_future(self._load()))

    def generation_raised(self, generation: int) -> None:
        """Something else of this daemon (trust, deny list) raised the store's generation; the map is still ours."""
        if generation > self.current.generation:
            self._current = Policy(map=self.current.map, generation=generation)

    async def _load(self) -> bool:
        async with self._lock:
            try:
                # In a thread: a map near the size limit takes seconds, and heartbeats must not wait.
                found = await asyncio.to_thread(self._read)
            except ScopeMapError as error:
                self._error = error
                self.last_problem = str(error)
                await self._journal_refusal(error)
                return False
            if self._current is None or self._current.map.digest != found.digest:
                await self._adopt(found)
            self.last_problem = ""
            return True

    def _read(self) -> ScopeMap:
        folder = Folder(path=self._path.parent, guarded=True)
        return load_files(
            folder, self._path.name, self._kinds, environment=self._environment, trust_domain=self._trust_domain
        ).map

    async def _adopt(self, found: ScopeMap) -> None:
        store, clock = self._parts()

        def operation(tx: Tx) -> int:
            generation = tx.raise_generation()
            tx.append(
                Record(
                    kind=Kind.POLICY_LOADED,
                    at=clock.now(),
                    data={
                        "file": found.file,
                        "digest": found.digest,
                        "generation": generation,
                        "grants": len(found.grants),
                    },
                )
            )
            return generation

        generation = await store.write(operation)
        self._current = Policy(map=found, generation=generation)  # only now: it is durable

    async def _journal_refusal(self, error: ScopeMapError) -> None:
        store, clock = self._parts()
        problems = [str(problem) for problem in error.problems[:_JOURNALLED]]
        data = {"file": str(self._path), "problems": problems, "count": len(error.problems)}
        await store.write(lambda tx: tx.append(Record(kind=Kind.POLICY_REFUSED, at=clock.now(), data=data)))

    def _parts(self) -> tuple[Store, Clock]:
        if self._store is None or self._clock is None:
            raise RuntimeError("load_initial comes first")
        return self._store, self._clock
