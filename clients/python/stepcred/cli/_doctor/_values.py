"""The STEPCRED_* variables themselves, before any file is opened. A value is shown only when it can be no secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from stepcred import _settings
from stepcred._errors import SettingsError
from stepcred.cli import _handle
from stepcred.cli._doctor import _workload_api
from stepcred.cli._doctor._finding import Case, Finding, ok, plain, problem, warning

_MAX_PORT = 65535
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,249}", re.ASCII)  # as the broker reads them
_STEP_NAMES = ("WORKFLOW", "RUN", "STEP")
_FILES = {"CERT": "this agent's certificate", "KEY": "its private key", "CA": "the CA certificates of the broker"}
_KNOWN = ["STEPCRED_ADDR", *(f"STEPCRED_{name}" for name in (*_FILES, *_STEP_NAMES)), _settings.HANDLE]
_OTHERS = ("STEPCRED_BROKER_", "STEPCRED_ADMIN_", "STEPCRED_SPIFFE_")  # the daemon's, operators', the Workload API's
_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_GROUP_AND_OTHERS = 0o077


def look(case: Case) -> Iterator[Finding]:
    """Missing, relative, dirty or misspelt settings; fills `addr` and `paths`."""
    found = [*_address(case)]
    if case.environ.get(_workload_api.SOCKET) and not any(case.environ.get(f"STEPCRED_{name}") for name in _FILES):
        yield from _workload_api.look(case)
    else:
        for name in _FILES:
            found += _path(case, name)
    found += [*_step(case), *_step_handle(case), *_handle_file(case), *_misspelt(case)]
    if case.addr and len(case.paths) == len(_FILES) and not found:
        yield ok(f"broker {case.addr}; certificate {case.paths['cert']}")
    yield from found


def _address(case: Case) -> Iterator[Finding]:
    raw = case.environ.get("STEPCRED_ADDR", "")
    if not raw:
        yield problem("STEPCRED_ADDR is not set: where the broker is", "export STEPCRED_ADDR=broker.example.org:8443")
        return
    value = clean(raw)
    bare = re.sub(r"^[a-z]+:/{2,3}", "", value).rstrip("/")
    host, colon, port = bare.rpartition(":")
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", bare):
        what = "has no port" if not colon or ":" in host else "is not host:port"
        yield problem(f"STEPCRED_ADDR {what}: {plain(value)}", f"export STEPCRED_ADDR={_with_port(bare)}")
        return
    if not 0 < int(port) <= _MAX_PORT:
        yield problem(f"STEPCRED_ADDR: {port} is no port", f"export STEPCRED_ADDR={host}:8443")
        return
    case.addr = bare
    if raw != value:
        yield problem(f"STEPCRED_ADDR {_dirt(raw)}", f"export STEPCRED_ADDR={quote(bare)}")
    elif value != bare:
        yield problem("STEPCRED_ADDR is a URL; only host:port is read", f"export STEPCRED_ADDR={quote(bare)}")


def _with_port(text: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:]*", text):
        return f"'[{text}]:8443'"  # an IPv6 address needs its brackets
    return f"{text}:8443" if re.fullmatch(r"[A-Za-z0-9._-]+", text) else "broker.example.org:8443"


def _path(case: Case, name: str) -> Iterator[Finding]:
    variable = f"STEPCRED_{name}"
    raw = case.environ.get(variable, "")
    if not raw:
        yield problem(
            f"{variable} is not set: the file with {_FILES[name]}, PEM", f"export {variable}=/path/to/file.pem"
        )
        return
    if "-----BEGIN" in raw:  # never shown
        yield problem(
            f"{variable} holds PEM text itself; it is the path of a file",
            f"(umask 077; printenv {variable} > {name.lower()}.pem); export {variable}=$PWD/{name.lower()}.pem",
        )
        return
    value = clean(raw)
    case.paths[name.lower()] = value
    if raw != value and not _exists(raw):
        yield problem(f"{variable} {_dirt(raw)}", f"export {variable}={quote(value)}")
    elif value.startswith("~"):
        yield problem(f"{variable} begins with ~, which only a shell expands", f"export {variable}=$HOME{value[1:]}")
    elif not Path(value).is_absolute():
        yield warning(
            f"{variable} is relative: a step that starts in another folder will not find it",
            f"export {variable}={quote(str(Path(value).absolute()))}",
        )


def _step(case: Case) -> Iterator[Finding]:
    """Names are not needed for asking who we are; one that no broker accepts is told now."""
    for name in _STEP_NAMES:
        value = case.environ.get(f"STEPCRED_{name}", "")
        if value and not _NAME.fullmatch(value):
            why = _dirt(value) if clean(value) != value else "has characters that the broker refuses"
            yield problem(
                f"STEPCRED_{name} {why}", "1 to 250 of A-Z a-z 0-9 . _ : + @ = -, the first a letter or digit"
            )


def _step_handle(case: Case) -> Iterator[Finding]:
    value = case.environ.get(_settings.HANDLE, "")
    if value and value.split() != [value]:
        yield problem(
            f"{_settings.HANDLE} {_dirt(value)}",
            f'export {_settings.HANDLE}="$(printenv {_settings.HANDLE} | tr -d "[:space:]")"',
        )


def _handle_file(case: Case) -> Iterator[Finding]:
    path = case.handle_file
    if path is None:
        return
    try:
        _handle.read(path)
        mode = path.stat().st_mode
    except SettingsError as error:
        yield problem(error.problems[0], "give the file that stepcred launch --handle-file has written")
        return
    if mode & _GROUP_AND_OTHERS:
        yield problem(f"--handle-file {path} can be read by others", f"chmod 600 {quote(str(path))}")


def _misspelt(case: Case) -> Iterator[Finding]:
    for name in sorted(case.environ):
        if name.startswith("STEPCRED_") and name not in _KNOWN and not name.startswith(_OTHERS):
            likely = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.8)
            if likely and not case.environ.get(likely[0]):
                yield warning(f"{name} means nothing to stepcred", f"did you mean {likely[0]}?")


def clean(raw: str) -> str:
    """Without what editors, `echo` and quoted .env files put around a value."""
    value = raw.strip().strip(_BOM).strip()
    for mark in "\"'":
        if len(value) > 1 and value[0] == value[-1] == mark:
            value = value[1:-1].strip()
    return value


def _dirt(raw: str) -> str:
    if _BOM in raw:
        return "begins with a byte order mark"
    if raw.rstrip("\r\n") != raw:
        return "ends in a line end" + (" of Windows (CR LF)" if "\r" in raw else "")
    if "\r" in raw or "\n" in raw:
        return "has a line end inside"
    return "has blanks around it" if raw.strip() != raw else "has quotes in its value"


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
