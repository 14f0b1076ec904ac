"""From samples to figures: medians, percentiles, ratios with their range over the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil
from statistics import median
from typing import TypeAlias

from tests.bench.load import Sample


class Better(Enum):
    """Which way a ratio should go."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median and its range over the rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(median=median(values), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One side's samples, one per round, and the part of its operation that is looked at."""

    side: str
    part: str
    samples: Sequence[Sample]

    def rates(self) -> list[float]:
        """Operations per second, by round."""
        return [sample.ops / sample.seconds for sample in self.samples]

    def medians(self) -> list[float]:
        """Median latency in ms, by round."""
        return [median(sample.parts_ms[self.part]) for sample in self.samples]

    def tails(self) -> list[float]:
        """99th percentile of the latency in ms, by round."""
        return [percentile(sample.parts_ms[self.part], 0.99) for sample in self.samples]

    def summary(self) -> Summary:
        """Over all rounds; percentiles over all calls of all rounds."""
        latencies = [took for sample in self.samples for took in sample.parts_ms[self.part]]
        ops = sum(sample.ops for sample in self.samples)
        cpu = {name: sum(sample.cpu_seconds[name] for sample in self.samples) for name in self.samples[0].cpu_seconds}
        return Summary(
            side=self.side,
            part=self.part,
            calls=len(latencies),
            per_second=Spread.of(self.rates()),
            p50_ms=percentile(latencies, 0.5),
            p99_ms=percentile(latencies, 0.99),
            cpu_us={name: round(used / ops * 1e6) for name, used in cpu.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One side over all rounds. CPU is microseconds per operation in each process, whatever it did them for."""

    side: str
    part: str
    calls: int
    per_second: Spread  # whole operations
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One key of bench.json: `ours` over `theirs`, taken round by round."""

    key: str
    what: str
    better: Better
    concurrency: int
    ratio: Spread
    rounds: tuple[float, ...]
    ours: Summary
    theirs: Summary


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One key of bench.json: the parts of one operation, without another side."""

    key: str
    what: str
    concurrency: int
    parts: tuple[Summary, ...]


@dataclass(frozen=True, kw_only=True)
class Value:
    """One key of bench.json: a plain figure, with what it was made of."""

    key: str
    what: str
    unit: str
    value: Spread
    detail: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a curve."""

    side: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()  # the range over the rounds, where there is one
    high: tuple[float, ...] = ()

    @staticmethod
    def of(side: str, points: Mapping[float, Sequence[float]]) -> Line:
        """x → one value for each round."""
        spreads = [Spread.of(values) for values in points.values()]
        return Line(
            side=side,
            x=tuple(points),
            y=tuple(one.median for one in spreads),
            low=tuple(one.low for one in spreads),
            high=tuple(one.high for one in spreads),
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One key of bench.json: what is drawn, panel by panel. The panels' names are what is measured, with its unit."""

    key: str
    what: str
    x: str
    panels: Mapping[str, tuple[Line, ...]]


Figure: TypeAlias = Ratio | Parts | Value | Curve


def percentile(values: Iterable[float], share: float) -> float:
    """By nearest rank: the smallest value that at least `share` of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, ceil(share * len(ranked)) - 1)]


def throughput(key: str, what: str, concurrency: int, *, ours: Measured, theirs: Measured) -> Ratio:
    """Operations per second."""
    return _ratio(key, what, Better.MORE, concurrency, (ours, theirs), (ours.rates(), theirs.rates()))


def latency(key: str, what: str, concurrency: int, *, ours: Measured, theirs: Measured) -> Ratio:
    """Median latency."""
    return _ratio(key, what, Better.LESS, concurrency, (ours, theirs), (ours.medians(), theirs.medians()))


def tail(key: str, what: str, concurrency: int, *, ours: Measured, theirs: Measured) -> Ratio:
    """99th percentile of the latency."""
    return _ratio(key, what, Better.LESS, concurrency, (ours, theirs), (ours.tails(), theirs.tails()))


def _ratio(  # noqa: PLR0917 - one constructor for two shapes
    key: str,
    what: str,
    better: Better,
    concurrency: int,
    sides: tuple[Measured, Measured],
    values: tuple[list[float], list[float]],
) -> Ratio:
    rounds = tuple(our / their for our, their in zip(*values, strict=True))
    return Ratio(
        key=key,
        what=what,
        better=better,
        concurrency=concurrency,
        ratio=Spread.of(rounds),
        rounds=rounds,
        ours=sides[0].summary(),
        theirs=sides[1].summary(),
    )
