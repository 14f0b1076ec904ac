"""The pages under docs/ as something to run: their fenced blocks, and the commands in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.bao import BaoServer

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"<<'(\w+)'")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [body for found, body in _BLOCK.findall(text) if found == language]


def commands(text: str) -> list[str]:
    """The shell blocks' commands, in order: a continued line or a here-document belongs to its command."""
    return [command for block in blocks(text, "sh") for command in _split(block.splitlines())]


def _split(lines: list[str]) -> Iterator[str]:
    rest = iter(lines)
    for first in rest:
        command = [first]
        while command[-1].endswith("\\"):
            command.append(next(rest))
        if here := _HERE.search(first):
            while command[-1] != here[1]:
                command.append(next(rest))
        if first.strip():
            yield "\n".join(command)


def bash(script: str, folder: Path, env: Mapping[str, str] = os.environ) -> str:
    """Run it as a reader would paste it, and return what it printed; a command that fails fails the test."""
    search = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**env, "PATH": search},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr


def follow_vault(bao: BaoServer, folder: Path, *, without: str = "", database: str = "") -> None:
    """Paste every command of docs/vault.md but one. Without a `database`, those that need one are left out."""
    chosen = [command for command in commands(page("vault.md")) if command != without]
    if without:
        chosen = [command for command in chosen if not command.startswith("bao read ")]
    if not database:
        chosen = [command for command in chosen if "bao write database/" not in command]
    script = "\n".join(chosen).replace("db.acme.internal:5432/orders", database)
    bash(script, folder, {**os.environ, "BAO_ADDR": bao.address, "BAO_TOKEN": bao.root_token, "HOME": str(folder)})
