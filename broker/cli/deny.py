"""`stepcred-broker deny`: who is not let in. The running daemon takes every change within a second."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from broker.cli.maps import AsJson, print_json
from broker.cli.options import FOUND, fail
from broker.config import load
from broker.errors import ConfigError, unreadable
from broker.identity.bundle import MALFORMED
from broker.identity.deny_list import Entry, entry_of, parse_deny_list
from broker.identity.deny_text import add_entry, remove_entries
from broker.identity.leaf import certificate_of
from broker.model import Certificate
from broker.process import alone_with, replace_file

app = typer.Typer(
    no_args_is_help=True,
    help="Who is not let in, agents and operators alike: by SPIFFE ID, public key or serial number. The daemon takes "
    "a change within a second, and ends what the denied have open.",
)

_Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="STEPCRED_BROKER_CONFIG", metavar="FILE", help="Its tls.deny_file is meant."),
]
_File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="The deny list itself, instead of --config.")
]
_Agent = Annotated[
    str, typer.Option(metavar="SPIFFE-ID", help="This agent, or with /* at the end everything below it.")
]
_Key = Annotated[str, typer.Option(metavar="sha256:HEX", help="Every certificate over this public key (SPKI).")]
_Serial = Annotated[str, typer.Option(metavar="HEX", help="The certificate with this number.")]
_Issuer = Annotated[str, typer.Option(metavar="NAME", help="With --serial: of this issuer only (RFC 4514).")]
_Cert = Annotated[
    Path | None, typer.Option(metavar="PEM", help="Read key, or with --serial-only serial and issuer, from this file.")
]
_SerialOnly = Annotated[
    bool, typer.Option("--serial-only", help="With --cert: this certificate alone, not others over its key.")
]
_Why = Annotated[str, typer.Option(metavar="TEXT", help="For whoever reads the list later.")]


@app.command("add")
def add(  # noqa: PLR0917 - typer's options
    config: _Config = None,
    file: _File = None,
    agent: _Agent = "",
    key: _Key = "",
    serial: _Serial = "",
    issuer: _Issuer = "",
    cert: _Cert = None,
    *,
    serial_only: _SerialOnly = False,
    why: _Why = "",
) -> None:
    """Deny one more. Makes the file when it is not there."""
    path = _path(config, file)
    entry = _entry(agent, key, serial, issuer, cert, serial_only=serial_only, why=why)
    with _writing(path):
        text = _text(path) if path.exists() else ""
        replace_file(path, add_entry(text, entry, f"deny list {path}"))
    typer.echo(f"denied: {_said(entry)}")


@app.command("remove")
def remove(  # noqa: PLR0917 - typer's options
    config: _Config = None,
    file: _File = None,
    agent: _Agent = "",
    key: _Key = "",
    serial: _Serial = "",
    issuer: _Issuer = "",
    cert: _Cert = None,
    *,
    serial_only: _SerialOnly = False,
) -> None:
    """Deny it no more. Exit code 1 when it is not on the list as given: another entry may still deny it."""
    path = _path(config, file)
    entry = _entry(agent, key, serial, issuer, cert, serial_only=serial_only, why="")
    with _writing(path):
        text, removed = remove_entries(_text(path), entry, f"deny list {path}")
        if not removed:
            fail(FOUND, f"{path}: no entry says exactly {_said(entry)}; `deny list` shows what there is")
        replace_file(path, text)
    typer.echo(f"denied no more: {_said(entry)}")


@app.command("list")
def show(
    config: _Config = None,
    file: _File = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Print every entry."""
    path = _path(config, file)
    entries = parse_deny_list(_text(path).encode(), f"deny list {path}").entries
    if as_json:
        print_json({"denied": [one.to_json() for one in entries]})
        return
    for one in entries:
        typer.echo(_said(one) + (f"  # {one.why}" if one.why else ""))
    if not entries:
        typer.echo("nobody is denied", err=True)


def _path(config: Path | None, file: Path | None) -> Path:
    if file is not None:
        return file
    if config is None:
        fail(os.EX_USAGE, "give --file FILE, or --config FILE (STEPCRED_BROKER_CONFIG) with tls.deny_file set")
    try:
        path = load(config, os.environ).tls.deny_file
    except ConfigError:
        # Who denies is in a hurry: the list may not be there yet, and other mistakes in the config can wait.
        if (path := _named_in(config)) is None:
            raise
    if path is None:
        fail(os.EX_CONFIG, f"{config}: tls.deny_file is not set: the daemon reads no deny list")
    return path


def _named_in(config: Path) -> Path | None:
    """The deny list that a config names in which something else is wrong."""
    try:
        tls = tomllib.loads(config.read_text()).get("tls")
    except (OSError, ValueError):
        return None
    named = os.environ.get("STEPCRED_BROKER_TLS__DENY_FILE") or (
        tls.get("deny_file") if isinstance(tls, dict) else None
    )
    return config.absolute().parent / named if isinstance(named, str) else None


def _entry(agent: str, key: str, serial: str, issuer: str, cert: Path | None, *, serial_only: bool, why: str) -> Entry:
    if sum(map(bool, (agent, key, serial, cert))) != 1 or (issuer and not serial) or (serial_only and not cert):
        fail(os.EX_USAGE, "name one of --agent, --key, --serial (with --issuer or without) and --cert")
    if cert is not None:
        found = _of(cert)
        if serial_only:
            return Entry(serial=found.serial_number, issuer=found.issuer, why=why)
        return Entry(key=found.spki_sha256, why=why)
    given = {"agent": agent, "key": key, "serial": serial, "issuer": issuer, "why": why}
    try:
        return entry_of({name: value for name, value in given.items() if value})
    except ValueError as error:
        fail(os.EX_USAGE, str(error))


def _of(path: Path) -> Certificate:
    """The first certificate in the file: the leaf, where a chain is in it. A CA's is none that comes in."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())[0]
        if _is_ca(found):
            fail(
                os.EX_DATAERR,
                f"--cert {path}: is a CA's, and only who comes in can be denied; revoke it, or take its root out",
            )
        return certificate_of(found)
    except OSError as error:
        fail(os.EX_NOINPUT, f"--cert {path}: {unreadable(error)}")
    except MALFORMED:
        fail(os.EX_DATAERR, f"--cert {path}: holds no PEM certificate")


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"deny list {path}: {unreadable(error)}"]) from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Alone: two people who deny at the same moment must both be heard."""
    try:
        with alone_with(path):
            yield
    except OSError as error:
        fail(os.EX_CANTCREAT, f"{path}: {error.strerror}")


def _said(entry: Entry) -> str:
    return " ".join(f"{name}={value}" for name, value in entry.to_json().items() if name != "why")
