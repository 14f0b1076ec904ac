"""What the options name: addresses, files and what goes into them."""

from __future__ import annotations

import grp
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from stepcred._outlets import Unusable, read_template

FILE_MODES = {"0600": 0o600, "0400": 0o400, "0640": 0o640, "0440": 0o440}
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,249}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """An IP address and a port; port 0 takes any that is free."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOf:
    """One credential's part or format, in a file. `what` is "" for what is usual for the credential."""

    path: Path
    scope: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A text with `${scope:what}` in it, and where the filled one goes."""

    path: Path
    text: str


def address(text: str) -> Address:
    """Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 (a port)
        raise ValueError(f"{text!r} is no ADDRESS:PORT")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} is no ADDRESS:PORT; the address must be an IP address") from None
    return Address(host=host, port=int(port))


def loopback(text: str) -> Address:
    """Raises ValueError: SDKs send the token in plain text, which must not leave this machine."""
    found = address(text)
    if not ipaddress.ip_address(found.host).is_loopback:
        raise ValueError(f"{text!r} is not on loopback: credentials are served to 127.0.0.1 or [::1] only")
    return found


def scope(text: str) -> str:
    """Raises ValueError."""
    if not _SCOPE.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a scope")
    return text


def file_of(text: str) -> FileOf:
    """PATH=SCOPE[:WHAT]. Raises ValueError."""
    path, named, rest = text.partition("=")
    name, colon, what = rest.partition(":")
    if not (path and named) or bool(colon) != bool(what):
        raise ValueError(f"{text!r} is no PATH=SCOPE:WHAT")
    return FileOf(path=Path(path), scope=scope(name), what=what)


def token_file(text: str) -> FileOf:
    """PATH=SCOPE. Raises ValueError."""
    path, named, name = text.partition("=")
    if not (path and named and name):
        raise ValueError(f"{text!r} is no PATH=SCOPE")
    return FileOf(path=Path(path), scope=scope(name), what="token")


def template(text: str) -> Template:
    """SRC=DEST; SRC is read. Raises ValueError."""
    source, named, path = text.partition("=")
    if not (source and named and path):
        raise ValueError(f"{text!r} is no SRC=DEST")
    try:
        return Template(path=Path(path), text=read_template(source))
    except Unusable as problem:
        raise ValueError(str(problem)) from None


def mode(text: str) -> int:
    """Raises ValueError: never for the world, never executable."""
    if text not in FILE_MODES:
        raise ValueError(f"{text!r} is not one of {', '.join(FILE_MODES)}")
    return FILE_MODES[text]


def group(text: str) -> int:
    """A number, or a name that is known here. Raises ValueError."""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"no group {text!r} here; a number does too") from None
