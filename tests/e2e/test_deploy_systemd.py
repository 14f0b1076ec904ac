"""deploy/systemd: the units are sound and tight, and what they hand in is what the programs ask for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from stepcred.cli._app import app
from tests.support.pages import BIN, ROOT

UNITS = ROOT / "deploy" / "systemd"
BROKER, STEP = UNITS / "stepcred-broker.service", UNITS / "stepcred-step@.service"
EXAMPLE = ROOT / "deploy" / "examples" / "broker.toml"


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and line[0] != "#":
            found.setdefault(line.partition("=")[0], []).append(line.partition("=")[2])
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("original", [BROKER, STEP], ids=lambda unit: unit.stem)
def test_the_unit_is_sound_and_tight(original: Path, tmp_path: Path) -> None:
    unit = tmp_path / original.name
    unit.write_text(original.read_text().replace("/opt/stepcred/bin", str(BIN)))
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert unit.name not in found.stderr  # the machine's own units may have warnings
    # An exposure of 2.0 out of 10 at most; the threshold is in tenths.
    tight = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    assert subprocess.run(tight, capture_output=True, timeout=60, check=False).returncode == 0


def test_the_broker_has_longer_than_a_drain_and_a_step_longer_than_its_end() -> None:
    assert settings(BROKER)["Type"] == ["notify"]
    assert int(settings(BROKER)["TimeoutStopSec"][0]) > 20 + 5  # timings.drain_grace, and 5 s to exit
    assert int(settings(STEP)["TimeoutStopSec"][0]) > 30  # as long as EndStep may wait for evidence
    assert settings(STEP)["KillMode"] == ["mixed"]  # or systemd ends the program over stepcred's head


def test_the_example_asks_for_credentials_that_the_unit_hands_in() -> None:
    handed_in = settings(BROKER)["LoadCredential"]
    assert all(
        re.fullmatch(r"stepcred\.[a-z-]+", name) for name in handed_in
    )  # by name alone: from /etc/credstore, if it is there
    asked = re.findall(r'^[^#\n]*"credential:([^"]+)"', EXAMPLE.read_text(), re.MULTILINE)
    assert asked
    assert set(asked) <= set(handed_in)


def test_the_step_is_started_with_arguments_that_exec_takes() -> None:
    unit = settings(STEP)
    program, command, *args = unit["ExecStart"][0].split()
    assert program == "/opt/stepcred/bin/stepcred"
    scopes = re.search(r"STEP_SCOPES=(.+)", STEP.read_text())
    assert scopes is not None
    whole = (
        " ".join(args).replace("$STEP_SCOPES", scopes[1]).replace("${INVOCATION_ID}", "0" * 32).replace("%i", "load")
    )
    parsed = typer.main.get_command(app).commands[command].make_context(command, whole.split()).params  # type: ignore[attr-defined]
    assert parsed["scope"] == ["orders-db", "app-secret"]
    assert parsed["run"] == "0" * 32  # systemd's name of one start: fits the pattern of names
    handed_in = {name.partition(":")[0] for name in unit["LoadCredential"]}
    assert set(re.findall(r"%d/(\S+)", unit["Environment"][0])) == handed_in
