"""`stepcred-broker dev-ca`: throw-away certificates for writing workflows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated, Never

import typer

from broker.errors import ConfigError
from broker.identity import dev_ca
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id

app = typer.Typer(
    no_args_is_help=True,
    help="Throw-away certificates for development. The keys lie unprotected in a directory: never use them elsewhere.",
)

_Directory = Annotated[Path, typer.Option("--dir", help="The CA's directory, made with mode 0700.", file_okay=False)]


@app.command("init")
def init(
    directory: _Directory,
    trust_domain: Annotated[str, typer.Option(help="As in spiffe://TRUST-DOMAIN/…, for example dev.acme.internal.")],
    environment: Annotated[
        str, typer.Option(envvar="STEPCRED_BROKER_ENVIRONMENT", help="Must begin with 'dev'.")
    ] = "dev",
) -> None:
    """Make a root for agents and the server, and another for operators."""
    with _refusals():
        root = dev_ca.init(directory, trust_domain, environment)
    where = quote(str(directory))
    typer.echo(f"root of agents and server: {root}\nroot of operators:         {directory / 'operator-ca.pem'}")
    typer.echo("\nnext, for the daemon and for a step:")
    typer.echo(f"  stepcred-broker dev-ca issue --dir {where} --server localhost --server 127.0.0.1")
    example = f"spiffe://{trust_domain}/workflow/nightly-etl/step/load"
    typer.echo(f"  stepcred-broker dev-ca issue --dir {where} --id {example} --out {quote(str(directory / 'load'))}")


@app.command("issue")
def issue(
    directory: _Directory,
    spiffe_id: Annotated[
        str, typer.Option("--id", metavar="SPIFFE-ID", help="For a step: spiffe://TRUST-DOMAIN/PATH. Lives 24 hours.")
    ] = "",
    server: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="For the daemon: a host name or address; repeat it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PREFIX", help="Writes PREFIX.pem and PREFIX-key.pem; for the daemon DIR/server unless given."
        ),
    ] = None,
    *,
    operator: Annotated[bool, typer.Option("--operator", help="With --id: under the operators' root.")] = False,
) -> None:
    """Issue one certificate: for a step (--id), for an operator (--id --operator), or for the daemon (--server)."""
    if bool(spiffe_id) == bool(server) or (operator and server):
        _fail(os.EX_USAGE, "give either --id SPIFFE-ID (with --operator or without) or --server NAME")
    with _refusals():
        if server:
            issued = dev_ca.issue_server(directory, server, out)
            typer.echo("# for the daemon, for 30 days; in its config:\n[tls]")
            for name, path in (("cert_file", issued.cert), ("key_file", issued.key), ("client_ca_file", issued.ca)):
                typer.echo(f"{name} = {json.dumps(str(path.absolute()))}")
            return
        if out is None:
            _fail(os.EX_USAGE, "--id needs --out PREFIX, for example --out certs/load")
        _check_id(spiffe_id)
        make = dev_ca.issue_operator if operator else dev_ca.issue_agent
        issued = make(directory, spiffe_id, out)
    root = directory / "ca.pem"  # who presents it must verify the server, whose root this is
    typer.echo(f"# {spiffe_id}, for 24 hours; paste this, or eval it:")
    whose = "STEPCRED_ADMIN" if operator else "STEPCRED"
    for name, path in (("CERT", issued.cert), ("KEY", issued.key), ("CA", root)):
        typer.echo(f"export {whose}_{name}={quote(str(path.absolute()))}")


def _check_id(spiffe_id: str) -> None:
    try:
        parse_spiffe_id(spiffe_id)
    except SpiffeIdError as error:
        _fail(os.EX_USAGE, f"--id {spiffe_id!r}: {error}")


@contextmanager
def _refusals() -> Iterator[None]:
    """Expected errors become one line each and a sysexits code."""
    try:
        yield
    except ConfigError as error:
        _fail(os.EX_CONFIG, *error.problems)
    except OSError as error:
        _fail(os.EX_CANTCREAT, f"{error.filename}: {error.strerror}")


def _fail(code: int, *problems: str) -> Never:
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(code)
