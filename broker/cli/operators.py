"""`stepcred-broker operators`: the operators file and its second factors, offline."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from broker import process
from broker.cli.maps import AsJson, load_map, print_json, say
from broker.cli.options import FOUND, count, fail
from broker.config import Config, load
from broker.errors import ConfigError, unreadable
from broker.operators.file import NAME, NOT_A_NAME, OperatorsFile, read_operators
from broker.operators.gaps import gaps, gaps_under
from broker.operators.model import Operator
from broker.operators.sealing import MAX_KEY_FILE, SealingKey, generate_key, parse_key
from broker.operators.second_factor import NewFactor, new_factor
from broker.permissions import public_problem, secret_problem
from broker.policy.language.files import MAX_BYTES
from broker.policy.problems import ScopeMapError, did_you_mean, show
from broker.process import read_file
from broker.secret import Secret

app = typer.Typer(no_args_is_help=True, help="Who operators are, and their second factors; offline.")

_File = Annotated[Path, typer.Argument(metavar="FILE", help="The operators file.")]
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="STEPCRED_BROKER_CONFIG",
        metavar="FILE",
        help="The daemon's settings: its trust domain, [scopes.keys] and sealing key.",
    ),
]
_Key = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The sealing key.  (default: that of --config)")
]


@app.command("check")
def check(
    file: _File,
    *,
    config: _Config = None,
    key: _Key = None,
    scopes: Annotated[
        Path | None, typer.Option(metavar="MAP", help="Say also what nobody could approve under this scope map.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for warnings, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say every mistake of FILE, and what is probably not meant. Exit 1: the daemon would not take it."""
    process.harden()
    settings = load(config, os.environ) if config else None
    sealing = _sealing(settings, key)
    mistakes: list[str] = []
    warnings: list[str] = []
    try:
        found = _read(file, settings, sealing)
    except ScopeMapError as error:
        mistakes = [str(problem) for problem in error.problems]
    else:
        if settings and (problem := public_problem(file)):  # with a config this is where the daemon reads it
            mistakes = [f"{file}: {problem}"]
        warnings = [*gaps(found, keys=settings.scopes.keys if settings else ())]
        warnings += gaps_under(found, load_map(scopes)) if scopes else ()
        if sealing is None and any(one.second_factor for one in found.operators.values()):
            warnings.append("second factors were not opened: give --key or --config")
    if as_json:
        print_json({"file": str(file), "mistakes": mistakes, "warnings": warnings})
    else:
        say([*(("red", f"error: {one}") for one in mistakes), *(("yellow", f"warning: {one}") for one in warnings)])
        typer.echo(f"{file}: {count(len(mistakes), 'mistake')}, {count(len(warnings), 'warning')}")
    raise typer.Exit(FOUND if mistakes or (strict and warnings) else os.EX_OK)


@app.command("key")
def make_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not exist; written with mode 600.")],
) -> None:
    """Make the key that second factors are sealed with. Never shown, never overwritten."""
    process.harden()
    try:
        generate_key(file)
    except OSError as error:
        fail(os.EX_CANTCREAT, f"{file}: {error.strerror}")
    typer.echo(
        f"{file} is for operators.second_factor_key_file; keep it apart from the operators file and its backups:"
    )
    typer.echo("with both, anybody can make every operator's codes; without it, every second factor is sealed anew")


@app.command("seal")
def seal(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The operator.")],
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="The operators file: the next revision is taken from it."),
    ] = None,
    revision: Annotated[int, typer.Option(min=1, help="Without --file: higher than any this operator has used.")] = 1,
    config: _Config = None,
    key: _Key = None,
    issuer: Annotated[str, typer.Option(help="What the app shows beside the name.")] = "",
    show_secret: Annotated[
        bool, typer.Option("--show", help="Print the secret although standard output is no terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a second factor for NAME: a secret for an authenticator app, and the same sealed for the operators file.

    Nothing is changed. The secret is shown once, and only at a terminal; the operator scans it, someone else reviews the
    change of the file.
    """
    process.harden()
    if not show_secret and not sys.stdout.isatty():
        fail(os.EX_USAGE, "the secret would go to a file or a pipe; run this at a terminal, or give --show")
    settings = load(config, os.environ) if config else None
    sealing = _sealing(settings, key)
    if sealing is None:
        fail(os.EX_USAGE, "no key to seal with: give --key or --config with operators.second_factor_key_file")
    if not NAME.fullmatch(name):
        fail(os.EX_USAGE, f"NAME: {NOT_A_NAME}")
    number = _next(name, file) if file else revision
    made = new_factor(
        sealing, name, number, issuer=issuer or f"stepcred {settings.environment if settings else ''}".strip()
    )
    if as_json:
        print_json(
            {"operator": name, "uri": made.uri.reveal(), "second_factor": {"revision": number, "sealed": made.sealed}}
        )
    else:
        _show(name, made)


def _next(name: str, file: Path) -> int:
    try:
        known = _read(file, None, None).operators
    except ScopeMapError as error:
        fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))
    one: Operator | None = known.get(name)
    if one is None:
        fail(os.EX_CONFIG, f"{file}: no operator is named {show(name)}{did_you_mean(name, known)}")
    return one.second_factor.revision + 1 if one.second_factor else 1


def _read(file: Path, settings: Config | None, sealing: SealingKey | None) -> OperatorsFile:
    try:
        raw = read_file(file, MAX_BYTES)
    except OSError as error:
        fail(os.EX_CONFIG, f"{file}: {unreadable(error)}")
    return read_operators(
        raw,
        str(file),
        trust_domain=settings.trust_domain if settings else None,
        keys=(settings.scopes.keys or None) if settings else None,
        sealing=sealing,
        opens=sealing is not None,
    )


def _sealing(settings: Config | None, key: Path | None) -> SealingKey | None:
    """Raises ConfigError."""
    path = key or (settings.operators.second_factor_key_file if settings and settings.operators else None)
    if path is None:
        return None
    try:
        problems = [problem] if (problem := secret_problem(path)) else []
        raw = read_file(path, MAX_KEY_FILE)
    except OSError as error:
        problems, raw = [unreadable(error)], b""
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    try:
        return parse_key(raw)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def _show(name: str, made: NewFactor) -> None:
    _show_code(made.uri)
    typer.echo(f"for the authenticator app of {name}; it is shown this once:\n\n  {made.uri.reveal()}\n")
    typer.echo("for the operators file, below that operator's name:\n")
    typer.echo(f"    second_factor: {{revision: {made.revision}, sealed: {json.dumps(made.sealed)}}}")


def _show_code(uri: Secret) -> None:
    """To be scanned, where the library is there (`pip install stepcred[admin]`)."""
    try:
        import segno
    except ImportError:
        return
    segno.make(uri.reveal(), error="m", micro=False).terminal(out=sys.stdout, compact=True)
