"""The shell's completion of SCOPE: what the broker says, and silence when it says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepcred.cli import _completing
from tests.fakes.broker_server import DENIED, FakeBroker


@pytest.mark.usefixtures("environ")
def test_the_shell_is_given_names_within_reach() -> None:
    words = {"_STEPCRED_COMPLETE": "complete_bash", "COMP_WORDS": "stepcred can orders-", "COMP_CWORD": "2"}
    argv = [str(Path(sys.executable).with_name("stepcred"))]  # its name counts
    told = subprocess.run(argv, env=os.environ | words, capture_output=True, text=True, check=False, timeout=60)
    assert (sorted(told.stdout.split()), told.stderr) == (["orders-db", "orders-read"], "")


@pytest.mark.usefixtures("environ")
def test_a_refusal_is_silence(fake: FakeBroker, capfd: pytest.CaptureFixture[str]) -> None:
    fake.script("WhoAmI", DENIED)
    assert _completing.scopes("") == []
    assert capfd.readouterr() == ("", "")


def test_without_settings_there_is_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in os.environ if name.startswith(("STEPCRED_", "SPIFFE_"))]:
        monkeypatch.delenv(name)
    assert _completing.scopes("") == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("environ")
def test_a_broker_that_is_slow_is_not_waited_for(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_completing, "PATIENCE", 0.2)
    fake.delay["WhoAmI"] = 1.0
    assert _completing.scopes("") == []
