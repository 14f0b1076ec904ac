"""`stepcred-broker scopes lint`: for people, for programs, and for code review."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.annotations import github_commands
from broker.cli.maps import AsJson, MapFile, existing, instant, kinds, print_json, say
from broker.cli.options import FOUND, count, fail
from broker.cli.sarif import sarif
from broker.model import JsonValue
from broker.policy.language.files import Files, Folder
from broker.policy.lint import RULES, Finding, Level, is_rule
from broker.policy.lint import lint as look
from broker.policy.problems import did_you_mean, show

_STYLES = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: "cyan"}


class Format(Enum):
    """How findings are told."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"  # 2.1.0, for code review
    GITHUB = "github"  # workflow commands: annotations in a pull request


@dataclass(frozen=True, kw_only=True, slots=True)
class _Relative:
    """Files under names that show nothing of the machine, in positions and messages alike."""

    files: Files
    base: Path

    def read(self, name: str) -> bytes:
        return self.files.read(name)

    def shown(self, name: str) -> str:
        return Path(os.path.relpath(self.files.shown(name), self.base)).as_posix()


def lint(
    file: MapFile,
    *,
    output: Annotated[Format, typer.Option("--format", help="Of what is printed.")] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for warnings, too.")] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Say nothing of this rule; may be repeated. Not of errors.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Name files relative to it.  (default with sarif, github: this folder)"),
    ] = None,
    at: Annotated[str, typer.Option(help="What is over by then is said to be.  (default: now)")] = "",
    as_json: AsJson = False,
) -> None:
    """Say everything that keeps a map from loading, and what is probably not meant. Exit 1: it does not load."""
    shape = _shape(output, as_json=as_json)
    ignored = _rules(ignore or [])
    files: Files = Folder(path=existing(file).parent)
    if base is not None or shape in (Format.SARIF, Format.GITHUB):
        files = _Relative(files=files, base=base or Path())
    every = look(files, file.name, kinds(), instant(at))
    found = [one for one in every if one.rule.level is Level.ERROR or one.rule.id not in ignored]
    match shape:
        case Format.JSON:
            print_json(_json(file, found))
        case Format.SARIF:
            print_json(sarif(found))
        case Format.GITHUB:
            for line in github_commands(found):
                typer.echo(line)
        case Format.TEXT:
            _tell(file, found)
    failing = {Level.ERROR, Level.WARNING} if strict else {Level.ERROR}
    raise typer.Exit(FOUND if any(one.rule.level in failing for one in found) else os.EX_OK)


def _shape(output: Format, *, as_json: bool) -> Format:
    if as_json and output not in (Format.TEXT, Format.JSON):
        fail(os.EX_USAGE, f"either --json or --format {output.value}")
    return Format.JSON if as_json else output


def _rules(names: Sequence[str]) -> frozenset[str]:
    """A misspelt one would ignore nothing, for ever."""
    for name in names:
        if not is_rule(name, kinds()):
            known = [rule.id for rule in RULES]
            fail(os.EX_USAGE, f"--ignore: no rule is named {show(name)}{did_you_mean(name, known)}")
    return frozenset(names)


def _tell(file: Path, found: Sequence[Finding]) -> None:
    helped = set()
    lines = []
    for one in found:
        level = one.rule.level
        place = f"{one.file}:{one.line}:{one.column}"
        lines.append((_STYLES[level], f"{place}: {level.value}: {one.message} [{one.rule.id}]"))
        if one.rule.id not in helped:  # once is enough
            helped.add(one.rule.id)
            lines.append(("dim", f"    {one.rule.help}"))
    counts = [(level, sum(one.rule.level is level for one in found)) for level in Level]
    told = ", ".join(count(number, level.value) for level, number in counts if number)
    style = next((_STYLES[level] for level, number in counts if number), "green")
    loads = "does not load" if counts[0][1] else "loads"
    say([*lines, (style, f"{file}: {loads}, {told or 'nothing found'}")])


def _json(file: Path, found: Sequence[Finding]) -> dict[str, JsonValue]:
    counts = {f"{level.value}s": sum(one.rule.level is level for one in found) for level in Level}
    findings = [
        {
            "rule": one.rule.id,
            "level": one.rule.level.value,
            "file": one.file,
            "line": one.line,
            "column": one.column,
            "message": one.message,
            "help": one.rule.help,
        }
        for one in found
    ]
    return {"file": str(file), "loads": not counts["errors"], **counts, "findings": findings}
