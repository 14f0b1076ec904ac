"""`stepcred-broker scopes verify`: is this map what enough people signed?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never

import typer

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
from broker.cli.options import FOUND, fail
from broker.clock import SystemClock
from broker.policy import signing
from broker.policy.language.files import Folder, why_not
from broker.policy.language.load import load_files
from broker.policy.problems import ScopeMapError
from broker.policy.signing import Manifest, ManifestError, SignedFiles

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

    from broker.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What a manifest is held against."""

    keys: Mapping[str, SSlibKey]
    threshold: int
    environment: str  # "": not asked
    trust_domain: str
    config: Config | None = None  # of the broker that would load it


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What was found; it holds when nothing is wrong."""

    manifest: Manifest | None
    signers: frozenset[str]
    problems: tuple[tuple[str, str], ...]  # fault, text


def verify(
    file: MapFile,
    *,
    keys: Keys = None,
    threshold: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many of the keys must have signed.  (default: all)")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys, threshold, environment and trust domain of this broker instead."),
    ] = None,
    environment: Annotated[str, typer.Option(help="The broker's.  (default: what the manifest says)")] = "",
    trust_domain: Annotated[str, typer.Option(help="The broker's.  (default: what the manifest says)")] = "",
    manifest: Annotated[Path | None, typer.Option(metavar="FILE", help="(default: MAP.dsse.json)")] = None,
    as_json: AsJson = False,
) -> None:
    """Look whether MAP is what enough people signed, and still may be loaded. Exit 1: looked, and it does not hold.

    Whether the broker has seen a higher serial, and whether MAP widens the map in force, only the broker knows.
    Exit 78: there is nothing to look at.
    """
    if config is not None:
        if keys or threshold or environment or trust_domain:
            fail(os.EX_USAGE, "--config has keys, threshold, environment and trust domain; give either it or them")
        asked = _asked_by(config, file)
    else:
        known = signing.load_keys(named_keys(keys))
        if not known or (threshold or 1) > len(known):
            fail(
                os.EX_USAGE, "give --keys NAME=FILE for each who may sign, at least as many as --threshold, or --config"
            )
        asked = _Asked(
            keys=known, threshold=threshold or len(known), environment=environment, trust_domain=trust_domain
        )
    if not file.is_file():
        fail(os.EX_CONFIG, f"{file}: no such file")
    path = manifest or (asked.config and asked.config.scopes.manifest) or beside(file)
    envelope = read_envelope(path)
    if envelope is None:
        fail(os.EX_CONFIG, f"{path}: there is no manifest; make one with scopes sign")
    _tell(asked, _look(asked, envelope, file), as_json=as_json)


def _look(asked: _Asked, envelope: bytes, file: Path) -> _Answer:
    """Everything that is wrong, not only what the broker would stumble over first."""
    try:
        manifest = signing.read_unverified(envelope).manifest
        names = signing.signers(envelope, asked.keys)
    except ManifestError as error:
        return _Answer(manifest=None, signers=frozenset(), problems=((error.fault.value, str(error)),))
    problems = []
    environment, trust_domain = asked.environment or manifest.environment, asked.trust_domain or manifest.trust_domain
    try:
        signing.verify(
            envelope,
            asked.keys,
            asked.threshold,
            environment=environment,
            trust_domain=trust_domain,
            root=file.name,
            now=SystemClock().now(),
        )
    except ManifestError as error:
        problems.append((error.fault.value, str(error)))
    files = SignedFiles(files=Folder(path=file.parent), manifest=manifest)
    for name in sorted(manifest.files):
        try:
            files.read(name)
        except OSError as error:
            problems.append(("FILE", f"{files.shown(name)}: {why_not(error)}"))
    if not problems:  # else they would be told twice
        from broker.wiring.adapters import scope_kinds

        try:
            load_files(
                files,
                file.name,
                scope_kinds(asked.config),
                environment=environment,
                trust_domain=trust_domain,
                federations=asked.config.federation if asked.config else None,
            )
        except ScopeMapError as error:
            problems += [("MAP", str(problem)) for problem in error.problems]
    return _Answer(manifest=manifest, signers=names, problems=tuple(problems))


def _tell(asked: _Asked, found: _Answer, *, as_json: bool) -> Never:
    if as_json:
        print_json(
            {
                "holds": not found.problems,
                "problems": [{"fault": fault, "message": text} for fault, text in found.problems],
                "signers": sorted(found.signers),
                "threshold": asked.threshold,
                "threshold_high": asked.config.scopes.threshold_high if asked.config else None,
                "manifest": as_values(found.manifest) if found.manifest else None,
            }
        )
    else:
        if found.manifest:
            print_table(found.manifest)
            needed = f"{signed_by(found.signers, asked.keys)}; {asked.threshold} must have"
            print_rows([("signed by", needed)])
            if asked.config:  # whether it widens, only the broker knows: it has the map in force
                typer.echo(f"for a map that widens high: {asked.config.scopes.threshold_high} must have signed")
        for _, text in found.problems:
            typer.echo(f"error: {text}", err=True)
        if not found.problems:
            typer.echo("it holds")
    raise typer.Exit(FOUND if found.problems else os.EX_OK)


def _asked_by(config: Path, file: Path) -> _Asked:
    from broker.config import load

    settings = load(config, os.environ)
    if not settings.scopes.keys:
        fail(os.EX_CONFIG, f"{config}: has no [scopes.keys]: this broker asks for no signatures")
    theirs = settings.scopes.file
    if file.name != theirs.name:  # its name is signed with it
        fail(os.EX_USAGE, f"{file}: this broker loads {theirs}, and takes no map of another name; give that one")
    if file.resolve() != theirs.resolve():
        typer.echo(f"warning: {file} is looked at; this broker loads {theirs}", err=True)
    return _Asked(
        keys=signing.load_keys(settings.scopes.keys),
        threshold=settings.scopes.threshold,
        environment=settings.environment,
        trust_domain=settings.trust_domain,
        config=settings,
    )
