"""What must be reached, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.figures import Figure, Ratio, Value

MEDIAN = "median"  # of the figure itself, over the rounds


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One of the two."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


def at_least(value: float) -> Bound:
    return Bound(at_least=value)


def at_most(value: float) -> Bound:
    return Bound(at_most=value)


# Key → what is looked at (MEDIAN, or a name of the figure's detail) → bound.
TARGETS: Mapping[str, Mapping[str, Bound]] = {
    "cycle_vs_direct.throughput": {MEDIAN: at_least(1.2)},
    "cycle_vs_direct.p50": {MEDIAN: at_most(0.9)},
    "issue_vs_echo": {MEDIAN: at_least(0.5)},
    "issue_stub_vs_echo": {MEDIAN: at_least(0.4)},
    "issue_vs_direct.create": {MEDIAN: at_least(0.65)},
    "issue_vs_direct.login_create": {MEDIAN: at_least(1.3)},
    "growth.leases": {MEDIAN: at_most(1.15)},
    "growth.grants": {MEDIAN: at_most(2), "many_us": at_most(20)},
    "drain": {MEDIAN: at_least(0.8)},
    "drain.issue_p99": {MEDIAN: at_most(2)},
    "time_to_dead": {MEDIAN: at_most(1.5)},
    "sts_vs_boto3": {MEDIAN: at_most(1.3)},
    "rss_mb_100k": {MEDIAN: at_most(200)},
    "sidecar.reads": {MEDIAN: at_least(2000), "p99_ms": at_most(10)},
    "import_ms": {MEDIAN: at_most(60)},
    "neighbours.p99": {MEDIAN: at_most(2)},
}


def target_of(figure: Figure) -> Mapping[str, Bound]:
    """Empty when nothing must be reached."""
    return TARGETS.get(figure.key, {})


def reached(figure: Figure) -> bool | None:
    """By the medians of this run; None when nothing must be reached."""
    found = target_of(figure)
    return all(bound.holds(looked_at(figure, name)) for name, bound in found.items()) if found else None


def looked_at(figure: Figure, name: str) -> float:
    """Raises KeyError when the figure has no such detail."""
    match figure:
        case Ratio() if name == MEDIAN:
            return figure.ratio.median
        case Value() if name == MEDIAN:
            return figure.value.median
        case Value():
            return figure.detail[name]
    raise KeyError(name)


def in_words(figure: Figure) -> str:
    """For the table: what must be, and whether it is."""
    bounds = (f"{bound}" + ("" if name == MEDIAN else f" ({name})") for name, bound in target_of(figure).items())
    held = reached(figure)
    return "" if held is None else f"{', '.join(bounds)}: {'reached' if held else 'NOT REACHED'}"
