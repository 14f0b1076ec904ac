"""docs/scope-tools.md: every command runs on the company's map."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.pages import ROOT, bash, commands, page


def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    folder = tmp_path / "acme"
    shutil.copytree(ROOT / "docs" / "examples" / "acme", folder)
    told = {command: bash(command, folder) for command in commands(page("scope-tools.md"))}
    assert len(told) >= 14
    said = {next(word for word in command.split()[2:]): text for command, text in told.items()}
    assert "nobody gains or loses anything" in said["plan"]
    assert "ALLOWED by nightly-load" in said["explain"]
    assert "it holds" in said["verify"]
    assert json.loads((folder / "lint.sarif").read_text())["version"] == "2.1.0"
    for name in ("scope-map", "scope-team"):
        made = json.loads((folder / f"{name}.schema.json").read_text())
        assert made == json.loads((ROOT / "docs" / "schema" / f"{name}.schema.json").read_text())
