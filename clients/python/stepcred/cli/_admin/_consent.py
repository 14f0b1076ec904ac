"""What a person has to type before something is done: a word that is not typed by accident, and a code."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from stepcred._errors import SettingsError
from stepcred.cli import _exec

CODE_FILE = "STEPCRED_ADMIN_CODE_FILE"
_CODE = re.compile(r"[0-9]{6}", re.ASCII)
_LONGEST = 64  # characters of an answer


def typed(word: str, what: str, *, yes: bool) -> bool:
    """Has somebody typed this word? Raises BadParameter when nobody can."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here; give it, or --dry-run", param_hint="--yes")
    print(f"{what}\nTo go on, type {word}: ", end="", file=sys.stderr, flush=True)  # noqa: T201
    if sys.stdin.readline(_LONGEST).strip() == word:
        return True
    _exec.say("nothing was done")
    return False


def code(environ: Mapping[str, str] = os.environ) -> str:
    """Six digits of the second factor: from a terminal, or from a file or a pipe, never from an argument, which `ps` shows.

    Raises SettingsError for a file that cannot be read, and BadParameter for what are no six digits.
    """
    told = _told(environ)
    if _CODE.fullmatch(told) is None:
        raise typer.BadParameter("a code is six digits", param_hint=f"the code ({CODE_FILE}, or standard input)")
    return told


def _told(environ: Mapping[str, str]) -> str:
    named = environ.get(CODE_FILE, "")
    if named:
        try:
            with Path(named).open(encoding="ascii", errors="replace") as file:
                return file.readline(_LONGEST).rstrip("\n")
        except OSError as error:
            raise SettingsError([f"{CODE_FILE}: cannot read {named}: {error.strerror}"]) from None
    if sys.stdin.isatty():
        return getpass.getpass("Code of your second factor: ")
    return sys.stdin.readline(_LONGEST).rstrip("\n")
