"""`make bench` in small: it does everything once. Never a word about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.reach import TARGETS
from tests.support.ceph import find_ceph

RATIOS = {
    "issue_vs_echo",
    "issue_vs_echo.p50",
    "issue_stub_vs_echo",
    "issue_stub_vs_echo.p50",
    "growth.leases",
    "drain",
    "drain.issue_p99",
    "issue_vs_direct.create",
    "issue_vs_direct.create.p50",
    "issue_vs_direct.login_create",
    "cycle_vs_direct.throughput",
    "cycle_vs_direct.p50",
    "neighbours.p50",
    "neighbours.p99",
    "time_to_dead",
    "time_to_dead.busy",
    "sts_vs_boto3",
    "sts_vs_boto3.throughput",
}
PARTS = {"step", "step.busy"}
VALUES = {"growth.grants", "import_ms", "rss_mb", "rss_mb.null", "rss_mb_100k", "sidecar.reads"}
CURVES = {"curve.load", "curve.leases", "curve.grants", "curve.drain", "curve.time_to_dead"}
if find_ceph():
    RATIOS |= {"sts_vs_boto3.ceph"}
    DENIED = {"step.aws"}
    VALUES |= {"aws_puts"}
else:
    DENIED = set()


@pytest.mark.timeout(180)
def test_a_quick_bench_measures_every_key_writes_them_as_json_and_draws(tmp_path: Path) -> None:
    target, plots = tmp_path / "bench.json", tmp_path / "plots"
    argv = [sys.executable, "-m", "tests.bench", "--quick", "--json", str(target), "--plots", str(plots)]

    done = subprocess.run(argv, capture_output=True, text=True, timeout=170, check=False)

    assert done.returncode == 0, done.stderr
    figures = json.loads(target.read_text())
    assert figures.keys() == {"about"} | RATIOS | PARTS | DENIED | VALUES | CURVES
    missing = set() if find_ceph() else {"sts_vs_boto3"}
    assert {key for key, found in figures.items() if "reached" in found} == TARGETS.keys() - missing
    assert len(list(plots.glob("*.svg"))) == len(CURVES)
    for key in RATIOS:
        found = figures[key]
        assert found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]
        assert found["ours"]["calls"] > 0
        assert found["theirs"]["p50_ms"] <= found["theirs"]["p99_ms"]
    for key in PARTS:
        assert [part["part"] for part in figures[key]["parts"]] == ["begin", "issue", "end", "dead"]
    for key in DENIED:
        assert [part["part"] for part in figures[key]["parts"]] == ["begin", "issue", "end"]
    for key in VALUES:
        assert figures[key]["value"]["median"] > 0
    assert all(key in done.stdout for key in RATIOS | PARTS | DENIED | VALUES)
