"""What must be reached: bounds, and what they are held against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.figures import Better, Figure, Measured, Ratio, Spread, Value, throughput
from tests.bench.load import Sample
from tests.bench.reach import TARGETS, Bound, at_least, at_most, in_words, reached
from tests.bench.report import write_json


def sample(*, ops: int = 10, seconds: float = 1.0) -> Sample:
    return Sample(ops=ops, seconds=seconds, parts_ms={"issue": [1.0] * ops}, cpu_seconds={"broker": 0.1})


def ratio(key: str, *, ours: int, theirs: int) -> Ratio:
    sides = {
        name: Measured(side=name, part="issue", samples=[sample(ops=ops)])
        for name, ops in {"ours": ours, "theirs": theirs}.items()
    }
    return throughput(key, "what", 1, **sides)


def value(key: str, median: float, **detail: float) -> Value:
    return Value(key=key, what="what", unit="", value=Spread.of([median]), detail=detail)


@pytest.mark.parametrize(
    ("bound", "inside", "outside"), [(at_least(1.2), (1.2, 3.0), (1.19, 0)), (at_most(0.9), (0.9, 0), (0.91, 5))]
)
def test_a_bound_holds_on_its_own_value_and_on_the_good_side_of_it(
    bound: Bound, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert all(map(bound.holds, inside))
    assert not any(map(bound.holds, outside))


def test_a_ratio_is_judged_by_its_median() -> None:
    assert reached(ratio("issue_vs_echo", ours=50, theirs=100)) is True
    assert reached(ratio("issue_vs_echo", ours=49, theirs=100)) is False


def test_a_key_with_two_values_needs_both() -> None:
    assert reached(value("sidecar.reads", 2000, p99_ms=10)) is True
    assert reached(value("sidecar.reads", 1999, p99_ms=10)) is False
    assert reached(value("sidecar.reads", 2000, p99_ms=10.1)) is False


def test_a_detail_that_is_missing_is_a_mistake_and_not_a_success() -> None:
    with pytest.raises(KeyError):
        reached(value("sidecar.reads", 9999))


def test_what_need_not_be_reached_says_nothing() -> None:
    assert (reached(value("rss_mb", 1)), in_words(value("rss_mb", 1))) == (None, "")


def test_the_table_says_it_in_words() -> None:
    assert in_words(ratio("issue_vs_echo", ours=1, theirs=1)) == "at least 0.5: reached"
    assert in_words(value("growth.grants", 1.0, many_us=21)) == "at most 2, at most 20 (many_us): NOT REACHED"


def test_the_json_holds_bounds_and_answer(tmp_path: Path) -> None:
    figures: list[Figure] = [ratio("drain", ours=1, theirs=2), value("rss_mb", 100)]
    write_json(tmp_path / "bench.json", {}, figures)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["drain"]["target"], found["drain"]["reached"]) == ({"median": {"at_least": 0.8}}, False)
    assert "reached" not in found["rss_mb"]


def test_a_bound_and_its_figure_look_the_same_way() -> None:
    less = {"growth.leases", "drain.issue_p99", "time_to_dead", "sts_vs_boto3", "cycle_vs_direct.p50", "neighbours.p99"}
    assert all(bound.at_most is not None for key in less for bound in TARGETS[key].values())
    assert ratio("drain", ours=1, theirs=2).better is Better.MORE
