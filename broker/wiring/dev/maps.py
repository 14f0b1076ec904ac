"""Which scope map, and whether a dev broker may serve it at all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.config.sources import settings_in
from broker.errors import ConfigError, unreadable
from broker.model import JsonValue, ScopeKind
from broker.policy.language.document import read_document
from broker.policy.language.load import load
from broker.policy.problems import Problem, ScopeMapError, show
from broker.policy.scope_map import ScopeMap
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.dev.scope import DevScope
from broker.providers.vault.kind import VaultScope

# An allow-list: whoever calls production "live" must not be served by a slip.
ENVIRONMENTS = ("dev", "development", "test", "testing", "local", "sandbox", "ci")
PREFIXES = ("dev-", "test-", "local-")
_SERVED = re.compile(f"{'|'.join(ENVIRONMENTS)}|(?:{'|'.join(PREFIXES)}).+", re.ASCII)
_SUFFIXES = (".yaml", ".yml")
_REAL = ("vault", "aws")  # sections of a daemon's config


def kinds() -> Mapping[str, ScopeKind]:
    """The real ones, which check their blocks as ever, and the dev broker's own."""
    found: tuple[ScopeKind, ...] = (VaultScope(), AwsScope(), DevScope())
    return {kind.name: kind for kind in found}


def is_served(environment: str) -> bool:
    """May a map of this environment be served with stand-ins?"""
    return _SERVED.fullmatch(environment) is not None


def real_settings(given: Path, environ: Mapping[str, str]) -> list[str]:
    """What says that this is the place of a real daemon; each with what to do."""
    problems = []
    if names := settings_in(environ):
        problems.append(
            f"{', '.join(names)}: settings of a real daemon; the dev broker reads none of them. Run it without: env "
            + " ".join(f"-u {name}" for name in names)
            + " stepcred-broker dev …"
        )
    folder = given if given.is_dir() else given.parent
    problems += [
        f"{path}: settings of a real daemon ([{'], ['.join(sections)}]); keep maps for the dev broker in a folder of their own"
        for path in sorted(folder.glob("*.toml"))
        if (sections := _real_sections(path))
    ]
    return problems


def _real_sections(path: Path) -> list[str]:
    try:
        held = tomllib.loads(path.read_text())
    except (OSError, ValueError):  # no TOML is nobody's config
        return []
    return [name for name in _REAL if isinstance(held.get(name), dict) and "trust_domain" in held]


def load_dev_map(path: Path) -> ScopeMap:
    """Every file good, and of an environment that is served. Raises ScopeMapError, ConfigError."""
    found = load(path, kinds())
    if not is_served(found.environment):
        raise ScopeMapError([_not_served(path, found.environment)])
    return found


def _not_served(path: Path, environment: str) -> Problem:
    served = f"{', '.join(ENVIRONMENTS)}, {'…, '.join(PREFIXES)}…"
    message = (
        f"this is a map for environment {show(environment)}, and the dev broker hands out stand-ins: it serves {served} only. "
        "Give it a map of such an environment (one that extends this one, docs/dev.md), or run stepcred-broker serve"
    )
    try:
        document = read_document(path.read_bytes(), str(path))
    except (OSError, ScopeMapError):
        return Problem(file=str(path), line=1, column=1, message=message)
    return document.problem(("environment",), message)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    path: Path
    says: Mapping[str, JsonValue]

    @property
    def environment(self) -> str:
        return str(self.says.get("environment", ""))

    def names(self) -> set[Path]:
        """The files that this one refers to."""
        teams = self.says.get("teams")
        paths = [one.get("path") for one in teams.values() if isinstance(one, dict)] if isinstance(teams, dict) else []
        return {self.path.parent / path for path in [self.says.get("extends"), *paths] if isinstance(path, str)}


def find_map(given: Path) -> Path:
    """The root file: `given` itself, or the one of that folder. Raises ConfigError when it is not one."""
    if not given.is_dir():
        if not given.exists():
            raise ConfigError([f"--scopes {given}: {unreadable(FileNotFoundError())}"])
        return given
    paths = sorted(path for path in given.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if not paths:
        raise ConfigError(
            [f"--scopes {given}: holds no scope map; put a .yaml there (docs/dev.md has one to begin with)"]
        )
    if len(paths) == 1:
        return paths[0]
    files = [_File(path=path, says=_said(path)) for path in paths]
    named = {path.resolve() for one in files for path in one.names()}
    roots = [one for one in files if one.environment and one.path.resolve() not in named]
    served = [one for one in roots if is_served(one.environment)]
    if len(served) == 1:
        return served[0].path
    if len(roots) == 1:  # it is refused with its own reason
        return roots[0].path
    told = (
        ", ".join(f"{one.path.name} ({show(one.environment)[1:-1]})" for one in served or roots)
        or "none that can be read"
    )
    raise ConfigError(
        [f"--scopes {given}: holds several scope maps: {told}; name the one to serve: --scopes {given}/FILE"]
    )


def _said(path: Path) -> Mapping[str, JsonValue]:
    try:
        data = read_document(path.read_bytes(), str(path)).data
    except (OSError, ScopeMapError):
        return {}
    return data if isinstance(data, dict) else {}
