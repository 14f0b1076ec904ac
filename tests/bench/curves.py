"""What is drawn and is no figure of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.figures import Curve, Line, Measured, percentile
from tests.bench.load import Sample

FLOORS = {"null": "echo", "stub": "echo", "vault": "create"}  # a side, and what it is held against
WORDS = {
    "echo": "bare echo",
    "null": "broker alone",
    "stub": "broker, instant Vault",
    "create": "OpenBao's token create",
    "vault": "broker, OpenBao",
}
SIDES = tuple(WORDS)
SHARES = tuple(number / 100 for number in range(1, 100))


def load(found: Mapping[int, Mapping[str, Sequence[Sample]]]) -> Curve:
    """Issues per second and p50. `found`: of SIDES, by the calls in flight."""

    def of(side: str, at_once: int) -> Measured:
        return Measured(side=side, part="issue", samples=found[at_once][side])

    def ratio(side: str, floor: str) -> Line:
        points = {
            float(at_once): [a / b for a, b in zip(of(side, at_once).rates(), of(floor, at_once).rates(), strict=True)]
            for at_once in found
        }
        return Line.of(f"{WORDS[side]} / {WORDS[floor]}", points)

    rates = tuple(Line.of(WORDS[side], {float(one): of(side, one).rates() for one in found}) for side in SIDES)
    medians = tuple(Line.of(WORDS[side], {float(one): of(side, one).medians() for one in found}) for side in SIDES)
    return Curve(
        key="curve.load",
        what="Issues by the calls in flight",
        x="calls in flight",
        panels={
            "issues per second, over those of the floor": tuple(ratio(*pair) for pair in FLOORS.items()),
            "issues per second": rates,
            "p50 in ms": medians,
        },
    )


def time_to_dead(found: Mapping[str, Sequence[Sample]]) -> Curve:
    """How long until proof, as a distribution over all rounds."""

    def line(side: str, name: str) -> Line:
        took = [one for sample in found[side] for one in sample.parts_ms["end"]]
        return Line(side=name, x=tuple(percentile(took, share) for share in SHARES), y=SHARES)

    return Curve(
        key="curve.time_to_dead",
        what="From the wish to end it until the proof that it is dead (one at a time)",
        x="ms",
        panels={"share of all ends": (line("step", "EndStep, with proof"), line("kill", "direct revoke and look-up"))},
    )
