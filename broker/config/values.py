"""The kinds of values a setting can have. Each says in its error what is wrong and what to write instead.

Errors never repeat the value: it may be a secret that went into the wrong place.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo

from broker import process
from broker.errors import unreadable
from broker.permissions import private_folder_problem, public_problem, secret_problem

MAX_PORT = 65535
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds
_DURATION = re.compile(r"(?:\d{1,7}(?:ms|s|m|h|d)){1,5}", re.ASCII)
_PART = re.compile(r"(\d+)(ms|s|m|h|d)", re.ASCII)
_LOOPBACK_NAMES = ("localhost",)
CREDENTIAL = "credential:"  # before the name of a systemd credential
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)

E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where to listen. Port 0 = any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Reachable from this machine only."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and localhost; other names are not resolved, they can change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES


def parse_address(value: object) -> Address:
    """Read `host:port` or `[ipv6]:port`."""
    if isinstance(value, Address):
        return value
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError('must be "host:port", for example "127.0.0.1:8443" (0.0.0.0 for every interface)')
    if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise ValueError(f"the port must be a number from 0 to {MAX_PORT}")
    return Address(host=host.strip("[]"), port=int(port))


def parse_duration(value: object) -> timedelta:
    """Read `10s`, `15m`, `1h30m`, `250ms`, `90d`; a bare number has no unit and is refused."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError('must be a duration with a unit (ms, s, m, h, d), for example "10s" or "1h30m"')
    span = timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(value)))
    if not span:
        raise ValueError("must be longer than zero")
    return span


def parse_patience(value: object) -> timedelta:
    """A duration, or `0s`: not at all."""
    return timedelta(0) if value == "0s" else parse_duration(value)


def parse_url(value: object) -> str:
    """Read `https://host:port`; plain http only to this machine."""
    parts = urlsplit(value if isinstance(value, str) else "")
    if parts.scheme not in ("http", "https") or not parts.hostname or not isinstance(value, str):
        raise ValueError('must be a URL, for example "https://vault.example.org:8200"')
    if parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must be scheme, host and port alone: no user, password, path, query or fragment")
    _ = parts.port  # raises ValueError when it is no port
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must be https: credentials would cross the network in clear text")
    return value.rstrip("/")


def parse_endpoint(value: object) -> str:
    """Read `https://host:port/path`; plain http only to this machine."""
    parts = urlsplit(value if isinstance(value, str) else "")
    if parts.scheme not in ("http", "https") or not parts.hostname or not isinstance(value, str):
        raise ValueError('must be a URL, for example "https://alerts.example.org/hooks/stepcred"')
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, password, query or fragment; a secret goes into token_file")
    _ = parts.port  # raises ValueError when it is no port
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must be https: what is sent would cross the network in clear text")
    return value.rstrip("/")


def parse_socket(value: object) -> str:
    """Read `unix:///path`."""
    if not isinstance(value, str) or not re.fullmatch(r"unix:///[^/\0].*", value):
        raise ValueError('must be a socket of this machine, for example "unix:///run/spire/agent.sock"')
    return value


def parse_list(value: object) -> object:
    """A list; as text, in a variable, with commas between."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def parse_command(value: object) -> object:
    """A program and its arguments in one text, split as a shell would; there is no shell."""
    if not isinstance(value, str):
        raise ValueError("must be one text, as a shell would take it")  # noqa: TRY004 - pydantic's way to say it
    try:
        argv = tuple(shlex.split(value))
    except ValueError:
        raise ValueError("has a quotation mark that is not closed") from None
    program = Path(argv[0] if argv else "")
    if not program.is_absolute():
        raise ValueError("must begin with the path of a program, /usr/...: no PATH is searched")
    if not program.is_file() or not os.access(program, os.X_OK):
        raise ValueError("begins with a path at which there is no program that this user may run")
    _unless(public_problem, program)  # whoever writes it runs what they like as the broker
    return argv


def choice(kind: type[E]) -> BeforeValidator:
    """Read a member of an enumeration by its value."""

    def parse(value: object) -> E:
        for member in kind:
            if value in (member, member.value):
                return member
        raise ValueError("must be one of " + ", ".join(str(member.value) for member in kind))

    return BeforeValidator(parse)


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ValueError("must be the path of a file")
    base = info.context["base"] if info.context else Path.cwd()
    return Path(os.path.normpath(Path(base) / value))


def _must_be_readable(path: Path) -> None:
    """An existing regular file. Raises ValueError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is not a regular file")
        path.open("rb").close()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} {unreadable(error)}") from None


def _public_file(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    _must_be_readable(path)
    return _unless(public_problem, path)  # whoever writes a trust bundle or a scope map decides who gets what


def _secret_file(value: object, info: ValidationInfo) -> Path:
    path = _credential(value) or _path(value, info)
    _must_be_readable(path)
    return _unless(secret_problem, path)


def _unless(look: Callable[[Path], str | None], path: Path) -> Path:
    """The path, when its permissions are fit. Raises ValueError."""
    try:
        problem = look(path)
    except OSError as error:
        problem = unreadable(error)
    if problem is not None:
        raise ValueError(f"{path} {problem}")
    return path


def _loose_secret(value: object, info: ValidationInfo) -> Path:
    return _credential(value) or _path(value, info)


def _key_file(value: object, info: ValidationInfo) -> Path:
    path = _credential(value)
    if path is None:
        return _state_file(value, info)
    _must_be_readable(path)
    return path


def _credential(value: object) -> Path | None:
    """Where systemd has put `credential:NAME`; None when it is a path. Raises ValueError."""
    if not isinstance(value, str) or not value.startswith(CREDENTIAL):
        return None
    name, folder = value.removeprefix(CREDENTIAL), process.credentials_directory()
    if not _CREDENTIAL_NAME.fullmatch(name):
        raise ValueError('must be "credential:NAME", a name of letters, digits, ".", "_" and "-"')
    if folder is None:
        raise ValueError("is a systemd credential, and there is no CREDENTIALS_DIRECTORY; see LoadCredential=")
    return folder / name


def _state_file(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist; make it with mode 700")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {path.parent} cannot be written to")
    if not path.exists():
        return _unless(private_folder_problem, path)
    _must_be_readable(path)
    return _unless(secret_problem, path)


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Patience = Annotated[timedelta, BeforeValidator(parse_patience)]  # may be zero
Command = Annotated[tuple[str, ...], BeforeValidator(parse_command)]
Listener = Annotated[Address, BeforeValidator(parse_address)]
Url = Annotated[str, BeforeValidator(parse_url)]
Endpoint = Annotated[str, BeforeValidator(parse_endpoint)]
Socket = Annotated[str, BeforeValidator(parse_socket)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9._-]{0,254}\z")]
Switch = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Rate = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]  # per second
PublicFile = Annotated[Path, BeforeValidator(_public_file)]
PublicFiles = Annotated[tuple[PublicFile, ...], BeforeValidator(parse_list)]
LooseFile = Annotated[Path, BeforeValidator(_path)]  # looked at by whoever reads it, at each reading
SecretFile = Annotated[Path, BeforeValidator(_secret_file)]  # or credential:NAME, from systemd
LooseSecret = Annotated[Path, BeforeValidator(_loose_secret)]  # the same, looked at by whoever reads it
StateFile = Annotated[Path, BeforeValidator(_state_file)]  # made by the broker; may not exist yet
KeyFile = Annotated[Path, BeforeValidator(_key_file)]  # the same, or credential:NAME
