"""Who operators are now: the file's last good reading, looked at again while the daemon runs (I7).

A start with a bad file serves agents, and nobody has a role: waiting for a person who mends a file must not end the
nightly load, and a person whose role cannot be told has none. Whoever watches `problem` alarms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from broker.clock import Clock
from broker.errors import ConfigError, StoreError
from broker.identity.source import FileSource
from broker.journal.records import Kind, Record
from broker.leases.epoch import EpochLost
from broker.log import get_logger
from broker.model import JsonValue
from broker.operators.file import NOBODY, OperatorsFile, read_operators
from broker.operators.model import Operator
from broker.operators.sealing import parse_key
from broker.policy.language.files import MAX_BYTES
from broker.policy.problems import ScopeMapError
from broker.store.base import Store, Tx

log = get_logger(__name__)

LOOK_EVERY = 1.0  # seconds; a change has to be seen twice
SETTLE_LOOKS = 4  # before the first call is served
_SAID = 20  # mistakes in a journal record; the first ones say enough


def operators_source(
    path: Path, key_file: Path | None, *, trust_domain: str, keys: Collection[str]
) -> FileSource[OperatorsFile]:
    """The file and the sealing key, read together. Nobody is an operator until something good was read."""

    def parse(contents: Sequence[bytes], _old: OperatorsFile | None) -> OperatorsFile:
        try:
            sealing = parse_key(contents[1]) if key_file is not None else None
            return read_operators(contents[0], str(path), trust_domain=trust_domain, keys=keys or None, sealing=sealing)
        except ScopeMapError as error:
            raise ConfigError([str(problem) for problem in error.problems]) from None
        except ConfigError as error:
            raise ConfigError(
                [f"operators.second_factor_key_file {key_file}: {one}" for one in error.problems]
            ) from None

    files = [path] if key_file is None else [path, key_file]
    secrets = [] if key_file is None else [key_file]
    return FileSource("operators file", files, parse, max_bytes=MAX_BYTES, secrets=secrets, otherwise=NOBODY)


class Registry:
    """Asked at each call. Whatever happens to its file, the last good one stays."""

    def __init__(
        self, source: FileSource[OperatorsFile] | None, store: Store, clock: Clock, enter: Callable[[Tx], None]
    ) -> None:
        """Without a source nobody is an operator. `enter`: the fence of whoever may write."""
        self._source = source
        self._store = store
        self._clock = clock
        self._enter = enter
        self._thread = ThreadPoolExecutor(1, "operators-file")  # a file system that hangs must hold up nothing else
        self._looking = asyncio.Lock()
        self._unwritten: list[Callable[[Tx], None]] = []

    @property
    def current(self) -> OperatorsFile:
        """The last good one. Two questions about one call are asked of one value."""
        return self._source.value if self._source else NOBODY

    def of(self, spiffe_id: str) -> Operator | None:
        """Whose certificate this is, today."""
        return self.current.of(spiffe_id)

    def owner_of_key(self, name: str) -> Operator | None:
        """Who signs scope maps with it, today."""
        return self.current.owner_of_key(name)

    @property
    def problem(self) -> str:
        """Why what is in the file now is not in force; "" when it is."""
        return "\n".join(self._source.problems) if self._source else ""

    async def start(self) -> None:
        """Before anybody is served, in the epoch that is already begun. Raises StoreError: it could not be journalled."""
        first = self.current
        await self.reload()
        if self.current is first and first is not NOBODY:
            self._unwritten.append(partial(self._loaded, first))
            await self._write()

    async def reload(self) -> None:
        """Look until the file was seen twice; what goes on changing waits for nobody. Raises as `look`."""
        for _ in range(SETTLE_LOOKS):
            await self.look(closely=True)
            if self._source is None or not self._source.unsettled:
                return
            await self._clock.sleep(LOOK_EVERY)

    async def look(self, *, closely: bool = False) -> None:
        """Take what is new and good into force, then journal it. Raises StoreError: that is due still, and done at the next look.

        `closely`: also where nothing tells of a change.
        """
        source = self._source
        if source is None:
            return
        async with self._looking:
            work = partial(_look, source, closely=closely)
            problems = await asyncio.get_running_loop().run_in_executor(self._thread, work)
            if problems is None:
                self._unwritten.append(partial(self._loaded, source.value))
                log.info("operators file in force", digest=source.value.digest, operators=len(source.value.operators))
            elif problems:
                self._unwritten.append(partial(self._refused, problems))
                log.error("operators file refused; the last good one stays", problems=problems)
            await self._write()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look again and again, until the block ends."""
        task = asyncio.create_task(self._watch(), name="operators file watch") if self._source else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _watch(self) -> None:
        failing = False  # said once, not at every look
        while True:
            await self._clock.sleep(LOOK_EVERY)
            try:
                await self.look()
                failing = False
            except Exception as error:  # a dead watch would leave a role in force that was taken away
                if not failing:
                    log.exception("the operators file could not be looked at, or journalled", problem=str(error))
                failing = True

    async def _write(self) -> None:
        """What has come into force, in its order; kept until it is written."""
        while self._unwritten:
            record = self._unwritten[0]

            def operation(tx: Tx, record: Callable[[Tx], None] = record) -> None:
                self._enter(tx)
                record(tx)

            try:
                await self._store.write(operation)
            except EpochLost:  # a broker without it writes nothing, and tries again
                raise StoreError("the broker has lost its right to write") from None
            del self._unwritten[0]

    def _loaded(self, value: OperatorsFile, tx: Tx) -> None:
        at = self._clock.now()
        data: dict[str, JsonValue] = {
            "digest": value.digest,
            "operators": {name: sorted(role.value for role in one.roles) for name, one in value.operators.items()},
        }
        tx.append(Record(kind=Kind.OPERATORS_LOADED, at=at, data=data))

    def _refused(self, problems: Sequence[str], tx: Tx) -> None:
        at = self._clock.now()
        data: dict[str, JsonValue] = {"problems": list(problems[:_SAID]), "count": len(problems)}
        tx.append(Record(kind=Kind.OPERATORS_REFUSED, at=at, data=data))


def _look(source: FileSource[OperatorsFile], *, closely: bool) -> Sequence[str] | None:
    """Problems that are to be told; none when nothing is new. None: what is new is in force. Blocks."""
    try:
        found = source.look(closely=closely)
    except ConfigError as error:
        return error.problems if source.refuse(error.problems) else ()
    if found is None:
        return ()
    source.adopt(found)
    return None
