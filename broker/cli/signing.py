"""`stepcred-broker scopes sign|keygen`: maps that several people have to agree to."""

from __future__ import annotations

import getpass
import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Never

import typer

from broker import process
from broker.cli.manifests import (
    Keys,
    as_values,
    beside,
    named_keys,
    print_rows,
    print_table,
    read_envelope,
    signed_by,
)
from broker.cli.maps import AsJson, MapFile, print_json
from broker.cli.options import count, fail
from broker.clock import SystemClock
from broker.errors import ConfigError, unreadable
from broker.policy import signing
from broker.policy.durations import parse_duration, parse_instant
from broker.policy.language.files import Folder
from broker.policy.language.load import load_files
from broker.policy.signing import Manifest, ManifestError
from broker.secret import Secret

_MAX_PASSPHRASE = 4096  # bytes


def sign(
    file: MapFile,
    key: Annotated[Path, typer.Option(metavar="FILE", help="Your private key, PEM; chmod 600.")],
    *,
    serial: Annotated[
        str, typer.Option(metavar="N|next", help="Of a new manifest: higher than any that the broker has seen.")
    ] = "",
    expires: Annotated[
        str, typer.Option(metavar="SPAN|INSTANT", help="Of a new manifest: 30d, or 2027-01-01T12:00Z.")
    ] = "",
    keys: Keys = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of an encrypted key; chmod 600.  (default: asked for)")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="The manifest.  (default: MAP.dsse.json)")] = None,
    as_json: AsJson = False,
) -> None:
    """Sign MAP and its files for the broker.

    With --serial and --expires a new manifest is made. Without them your signature is added to the manifest that is
    there, if it says what MAP says today. With --keys the signers are told by name. Exit 78: it cannot be signed.
    """
    process.harden()  # before the key is read
    now = SystemClock().now()
    path = output or beside(file)
    known = signing.load_keys(named_keys(keys))
    today = _today(file)
    held = _held(path)
    if serial or expires:
        manifest = _new(today, held, serial=serial, expires=expires, now=now)
    else:
        manifest = _again(today, held or _none(path), now)
    again = held is not None and held.manifest == manifest
    if not as_json:  # before the passphrase is asked for: this is what it is given for
        print_table(manifest)
    signer = signing.load_signer(key, lambda: _passphrase(key, passphrase_file))
    if known and signer.public_key.keyid not in {one.keyid for one in known.values()}:
        fail(
            os.EX_CONFIG, f"{key} belongs to none of the keys given with --keys; its signature would count for nothing"
        )
    try:
        envelope = signing.add_signature(held.envelope, signer) if held and again else signing.sign(manifest, signer)
        process.replace_file(path, envelope.decode(), mode=0o644)
    except ManifestError as error:
        fail(os.EX_CONFIG, str(error))
    except OSError as error:
        fail(os.EX_CANTCREAT, f"{path}: {error.strerror}")
    names, total = signing.signers(envelope, known), len(signing.read_unverified(envelope).keyids)
    if as_json:
        told = {"file": str(path), "signatures": total, "signers": sorted(names), "keys": sorted(known)}
        print_json(told | {"manifest": as_values(manifest)})
    else:
        print_rows(
            [("signed by", signed_by(names, known) if known else count(total, "key")), ("written to", str(path))]
        )


def keygen(
    output: Annotated[Path, typer.Option(metavar="PREFIX", help="Writes PREFIX.key.pem and PREFIX.pem.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make a key pair to sign maps with, for development: the private key is not encrypted. Never overwrites."""
    process.harden()
    try:
        private, public = signing.generate(output)
    except OSError as error:
        fail(os.EX_CANTCREAT, f"{error.filename}: {error.strerror}")
    if as_json:
        print_json({"private": str(private), "public": str(public)})
        return
    typer.echo(f"{private} signs: keep it to yourself\n{public} is for the broker's config:\n\n[scopes.keys]")
    typer.echo(f"{json.dumps(output.name)} = {json.dumps(str(public.absolute()))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Today:
    """A map as it lies there."""

    environment: str
    trust_domain: str
    root: str
    files: Mapping[str, str]  # name → digest


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """The manifest that is there, believed by nobody."""

    path: Path
    envelope: bytes
    manifest: Manifest


def _today(file: Path) -> _Today:
    """Only what loads is signed. Raises ScopeMapError."""
    from broker.wiring.adapters import scope_kinds

    loaded = load_files(Folder(path=file.parent), file.name, scope_kinds())
    return _Today(
        environment=loaded.map.environment,
        trust_domain=loaded.map.trust_domain,
        root=file.name,
        files=signing.digests(loaded.contents),
    )


def _new(today: _Today, held: _Held | None, *, serial: str, expires: str, now: datetime) -> Manifest:
    if not (serial and expires):
        fail(os.EX_USAGE, "a new manifest needs --serial and --expires; one more signature needs neither")
    try:
        made = Manifest(
            environment=today.environment,
            trust_domain=today.trust_domain,
            serial=_serial(serial, held),
            expires=_end(expires, now),
            root=today.root,
            files=today.files,
        )
    except ValueError as error:
        fail(os.EX_USAGE, str(error))
    if held and made.serial <= held.manifest.serial and made != held.manifest:
        fail(os.EX_USAGE, f"--serial: {held.path} has serial {held.manifest.serial}; the next one must be higher")
    return made


def _none(path: Path) -> Never:
    fail(os.EX_USAGE, f"{path}: there is no manifest yet; make one with --serial 1 --expires 30d")


def _again(today: _Today, held: _Held, now: datetime) -> Manifest:
    manifest, anew = held.manifest, "make a new one with --serial next --expires 30d"
    changed = dict(sorted(today.files.items() ^ manifest.files.items()))
    differs = [
        name for name in ("environment", "trust_domain", "root") if getattr(today, name) != getattr(manifest, name)
    ]
    if changed or differs:
        fail(os.EX_CONFIG, f"{held.path}: not of the map as it is today ({', '.join([*differs, *changed])}); {anew}")
    if now >= manifest.expires:
        fail(os.EX_CONFIG, f"{held.path}: has expired; {anew}")
    return manifest


def _serial(text: str, held: _Held | None) -> int:
    if text == "next":
        return held.manifest.serial + 1 if held else 1
    if not re.fullmatch(r"[0-9]{1,16}", text, re.ASCII):
        raise ValueError("--serial: expected a number from 1, or next")
    return int(text)


def _end(text: str, now: datetime) -> datetime:
    try:
        end = now + parse_duration(text)
    except (ValueError, OverflowError):
        try:
            end = parse_instant(text)
        except ValueError:
            raise ValueError("--expires: expected a span such as 30d, or a time such as 2027-01-01T12:00Z") from None
    if end <= now:
        raise ValueError("--expires: is over already")
    return end.replace(microsecond=0)


def _held(path: Path) -> _Held | None:
    envelope = read_envelope(path)
    if envelope is None:
        return None
    try:
        return _Held(path=path, envelope=envelope, manifest=signing.read_unverified(envelope).manifest)
    except ManifestError as error:
        fail(os.EX_CONFIG, f"{path}: {error}; move it away to make a new one")


def _passphrase(key: Path, file: Path | None) -> Secret:
    """From a file or a terminal; arguments and environment are seen by others. Raises ConfigError."""
    if file is None:
        if not sys.stdin.isatty():
            raise ConfigError(["is encrypted; give --passphrase-file, or run this at a terminal"])
        return Secret(getpass.getpass(f"passphrase of {key}: ", stream=sys.stderr))
    try:
        with file.open("rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(
                    [f"needs --passphrase-file {file} not to be readable by others; run chmod 600 {file}"]
                )
            return Secret(opened.read(_MAX_PASSPHRASE).decode().removesuffix("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"needs --passphrase-file {file}, which {unreadable(error)}"]) from None
