"""What is drawn: made of samples, the same bytes each time, and read back from bench.json."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from tests.bench import curves, plots
from tests.bench.crowded import _drain_curve, _risen
from tests.bench.figures import Curve, Line
from tests.bench.load import Sample
from tests.bench.report import write_json


def sample(took_ms: float, *, ops: int) -> Sample:
    return Sample(ops=ops, seconds=1.0, parts_ms={"issue": [took_ms] * ops, "end": [took_ms] * ops}, cpu_seconds={})


def made() -> Curve:
    lines = (Line.of("ours / theirs", {1.0: [1, 2, 3], 64.0: [4, 6, 5]}), Line(side="b", x=(1, 64), y=(1, 9)))
    return Curve(key="curve.some_thing", what="Something", x="calls", panels={"ratio": lines, "ms": lines[:1]})


def test_a_line_has_the_median_and_the_range_of_its_rounds() -> None:
    line = Line.of("a", {1.0: [3, 1, 2], 2.0: [5, 5, 8]})
    assert (line.x, line.y, line.low, line.high) == ((1, 2), (2, 5), (1, 5), (3, 8))


def test_ratios_are_taken_round_by_round_against_the_right_floor() -> None:
    rounds = {side: [sample(1.0, ops=ops) for ops in (10, 20)] for side in curves.SIDES}
    rounds["echo"] = [sample(1.0, ops=ops) for ops in (20, 80)]
    ratio, rates, _ = curves.load({4: rounds}).panels.values()
    by_name = {line.side: line for line in ratio}
    assert (by_name["broker alone / bare echo"].low, by_name["broker alone / bare echo"].high) == ((0.25,), (0.5,))
    assert by_name["broker, OpenBao / OpenBao's token create"].y == (1,)
    assert {line.side for line in rates} == set(curves.WORDS.values())


def test_a_distribution_rises_from_the_first_share_to_the_last() -> None:
    (lines,) = curves.time_to_dead({"step": [sample(5, ops=3)], "kill": [sample(2, ops=3)]}).panels.values()
    assert [line.x[0] for line in lines] == [5, 2]
    assert all(list(line.y) == sorted(line.y) for line in lines)


def test_a_drain_ends_with_its_last_proof_however_many_there_are() -> None:
    line = _risen("broker", [number / 10 for number in range(1001)])
    assert (line.x[0], line.y[0], line.x[-1], line.y[-1]) == (0, 1, 100, 1001)
    assert len(line.x) < 300


def test_issues_are_told_by_the_second_and_those_before_the_drain_too() -> None:
    ours = {"timeline": [0.5, 1.0], "issues": [[-0.5, 4.0], [0.1, 6.0], [0.9, 8.0]]}
    panels = _drain_curve(ours, {"timeline": [0.2]}, 2).panels
    usual, slow = panels["issue meanwhile, in ms"]
    assert (usual.x, usual.y, slow.y) == ((-0.5, 0.5), (4, 6), (4, 8))


def test_the_same_figures_give_the_same_bytes_without_a_date(tmp_path: Path) -> None:
    assert plots.draw([made()], tmp_path / "a") == plots.draw([made()], tmp_path / "b") == 1
    first, second = (tmp_path / name / "some-thing.svg" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    assert "dc:date" not in text
    assert "ours / theirs" in "".join(ET.fromstring(text).itertext())


def test_curves_are_read_back_from_the_json(tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", {"cores": 2}, [made()])
    assert plots.read(tmp_path / "bench.json") == [made()]
