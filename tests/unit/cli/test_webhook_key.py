from __future__ import annotations

import os
import stat
from base64 import b64decode
from pathlib import Path

from typer.testing import CliRunner

from broker.cli.root import build
from broker.config.webhook_key import load_webhook_key

ARGUMENTS = ["webhook-key"]


def test_it_makes_a_key_once_and_prints_its_public_one(tmp_path: Path) -> None:
    path = tmp_path / "webhook.key"
    runner, command = CliRunner(), build(ARGUMENTS)
    first = runner.invoke(command, [*ARGUMENTS, str(path)])
    content = path.read_bytes()
    again = runner.invoke(command, [*ARGUMENTS, str(path)])
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout == again.stdout
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = b64decode(first.stdout.strip().removeprefix("whpk_"))
    assert public == load_webhook_key(path).public_key().public_bytes_raw()


def test_it_says_where_it_cannot_write(tmp_path: Path) -> None:
    done = CliRunner().invoke(build(ARGUMENTS), [*ARGUMENTS, str(tmp_path / "none" / "webhook.key")])
    assert done.exit_code == os.EX_CANTCREAT
    assert "No such file or directory" in done.stderr
