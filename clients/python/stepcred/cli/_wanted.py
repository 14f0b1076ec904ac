"""What `exec` was asked to give its child, read from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepcred._credentials import Credential
from stepcred._outlets import Unusable, fill, read_template, render, scopes_of, usual

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """`--env NAME=SCOPE:WHAT`."""

    name: str
    scope: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """`--file TARGET=SCOPE[:WHAT]` or `--template SRC=TARGET`. A target is a path, or a variable that gets one."""

    path: str  # "" when a variable names a file of ours
    variable: str
    scopes: Sequence[str]
    what: str = ""  # "": what is usual for the credential
    template: str | None = None

    def content(self, credentials: Mapping[str, Credential]) -> bytes:
        if self.template is not None:
            return fill(self.template, credentials)
        credential = credentials[self.scopes[0]]
        return render(credential, self.what or usual(credential))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Everything that was asked for. `conventional`: scopes whose usual variables are set."""

    conventional: Sequence[str] = ()
    variables: Sequence[Variable] = ()
    files: Sequence[File] = ()
    allow_disk: bool = False

    @property
    def scopes(self) -> list[str]:
        named = [*self.conventional, *(one.scope for one in self.variables)]
        return list(dict.fromkeys([*named, *(scope for file in self.files for scope in file.scopes)]))

    @property
    def renewable(self) -> list[str]:
        """In files alone: what is in a variable would die with the older credential."""
        fixed = {*self.conventional, *(one.scope for one in self.variables)}
        return [scope for scope in self.scopes if scope not in fixed]

    @property
    def chosen(self) -> list[str]:
        """Names of variables."""
        return [*(one.name for one in self.variables), *(file.variable for file in self.files if file.variable)]


def read(
    scopes: Iterable[str], env: Iterable[str], files: Iterable[str], templates: Iterable[str], *, allow_disk: bool
) -> Wanted:
    """From the command line. Raises Unusable, which names the option."""
    wanted = Wanted(
        conventional=list(dict.fromkeys(scopes)),
        variables=[_variable(text) for text in env],
        files=[*map(_file, files), *map(_template, templates)],
        allow_disk=allow_disk,
    )
    if not wanted.scopes:
        raise Unusable("name a scope, with --scope, --env, --file or --template")
    targets = [*wanted.chosen, *(str(Path(file.path).absolute()) for file in wanted.files if file.path)]
    if twice := next((target for target in targets if targets.count(target) > 1), None):
        raise Unusable(f"{twice} is asked for twice")
    return wanted


def _variable(text: str) -> Variable:
    name, rest = _parted(text, "--env", "NAME=SCOPE:WHAT")
    scope, colon, what = rest.rpartition(":")
    if not _VARIABLE.fullmatch(name) or not colon or not scope or not what:
        raise Unusable(f"--env {text}: write NAME=SCOPE:WHAT, as in API_KEY=settings:data.api_key")
    return Variable(name=name, scope=scope, what=what)


def _file(text: str) -> File:
    target, rest = _parted(text, "--file", "TARGET=SCOPE:WHAT")
    scope, colon, what = rest.rpartition(":")
    if colon and (not scope or not what):
        raise Unusable(f"--file {text}: write TARGET=SCOPE or TARGET=SCOPE:WHAT")
    path, variable = _target(target, f"--file {text}")
    return File(path=path, variable=variable, scopes=[scope if colon else rest], what=what if colon else "")


def _template(text: str) -> File:
    source, target = _parted(text, "--template", "SRC=TARGET")
    path, variable = _target(target, f"--template {text}")
    try:
        template = read_template(source)
    except Unusable as problem:
        raise Unusable(f"--template: {problem}") from None
    scopes = scopes_of(template)
    if not scopes:
        raise Unusable(f"--template: {source} has no ${{scope:what}}; give the child the file itself")
    return File(path=path, variable=variable, scopes=scopes, template=template)


def _parted(text: str, option: str, form: str) -> tuple[str, str]:
    first, equals, rest = text.partition("=")
    if not first or not equals or not rest:
        raise Unusable(f"{option} {text}: write {form}")
    return first, rest


def _target(target: str, where: str) -> tuple[str, str]:
    if "/" in target:
        return target, ""
    if not _VARIABLE.fullmatch(target):
        raise Unusable(f"{where}: {target} is neither a path (with a /) nor the name of a variable")
    return "", target
