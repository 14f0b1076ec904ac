"""One operation counted, and which of its numbers are the same each time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.counts.figures import Figure, Kind, Operation
from tests.counts.meter import Meter
from tests.counts.parts import CountedWorld

PAGE = 4096 + 24  # bytes of a page in the write-ahead log
FEW = 8
TOGETHER = ("commits", "hops", "statements", "select", "control", "repeated")  # depend on how many come together


class Counting:
    """Counts operations in one world."""

    def __init__(self, world: CountedWorld) -> None:
        self.world = world
        self.meter = world.meter
        self.found: dict[str, Operation] = {}

    @asynccontextmanager
    async def operation(self, name: str, *, many: int = 1) -> AsyncIterator[None]:
        """Between two moments at which nothing goes on. `many`: how many of it at once."""
        await self.meter.settled()
        log, journal = self.world.log_size(), self.world.journal_size()
        self.meter.reset()
        self.meter.slow_disk = many > 1
        yield
        await self.meter.settled()
        self.meter.slow_disk = False
        records, size = self.world.journal_size()
        disk = {"records": records - journal[0], "bytes": size - journal[1]}
        if many == 1:
            disk["pages"] = (self.world.log_size() - log) // PAGE
        self.found[name] = _operation(self.meter, disk, many)


def _operation(meter: Meter, disk: dict[str, int], many: int) -> Operation:
    ran = meter.statements
    kinds = [one.kind for one in ran]
    store = {
        "commits": sum(one.name == "COMMIT" for one in ran),
        "writes": meter.writes,
        "reads": meter.reads,
        "statements": len(ran),
        **{kind: kinds.count(kind) for kind in ("select", "insert", "update", "delete", "control")},
        "repeated": sum(meter.repeated().values()),
    }
    sections = {
        "store": store,
        "disk": disk,
        "loop": {"tasks": meter.tasks, "hops": meter.hops},
        "provider": {name: meter.provider.count(name) for name in dict.fromkeys(meter.provider)},
        "statements": {one.name: 0 for one in ran} | _counted([one.name for one in ran]),
    }
    if meter.profiling:
        sections["python"] = {"calls": sum(meter.calls().values()), "objects": meter.objects()}
    return {
        section: {name: _figure(section, name, number, many) for name, number in held.items()}
        for section, held in sections.items()
    }


def _counted(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _figure(section: str, name: str, number: int, many: int) -> Figure:
    """What each of many does is exact; what they do together depends on how they fall together."""
    if section == "python":
        return Figure(number, Kind.ABOUT)
    if name == "hops" and number > FEW:  # of connections and of loops that tick: now one more, now one fewer
        return Figure(number + number // 4, Kind.AT_MOST, number)
    if name == "pages":  # a page more where one was full: names are random
        return at_most(number)
    if many > 1 and (number % many or name in TOGETHER):
        return at_most(number)
    return Figure(number)


def at_most(number: int) -> Figure:
    """With a little room."""
    return Figure(number + max(6, number // 2), Kind.AT_MOST, number)
