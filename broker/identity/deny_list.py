"""Who is not let in, whatever their certificate says: a TOML file that people and tools append to.

[[denied]]
agent = "spiffe://prod.acme.internal/workflow/nightly/step/load"   # or …/workflow/nightly/* for all below
why = "its key was in a build log"

[[denied]]
key = "sha256:…"               # of the public key (SPKI): also of every certificate renewed over it

[[denied]]
serial = "7b22c0de"            # hex
issuer = "CN=agents"           # RFC 4514; every issuer's when left out
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from broker.errors import ConfigError
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.model import Certificate

MAX_BYTES = 4 << 20  # in-house bound: some 30,000 entries
BELOW = "/*"  # at the end of an agent: everything below it
_KEY = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)  # RFC 5280, section 4.1.2.2: at most 20 octets
_WHAT = ("agent", "key", "serial")
_KNOWN = {*_WHAT, "issuer", "why"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of it. Exactly one of agent, key and serial is set."""

    agent: str = ""
    key: str = ""  # SHA-256 of the SPKI, hex
    serial: str = ""  # hex, lower case, no leading zeros
    issuer: str = ""
    why: str = ""

    def to_json(self) -> dict[str, str]:
        """As the file says it."""
        key = self.key and f"sha256:{self.key}"
        fields = {"agent": self.agent, "key": key, "serial": self.serial, "issuer": self.issuer, "why": self.why}
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class DenyList:
    """All of it, so that a question costs the same however long it is."""

    entries: tuple[Entry, ...] = ()
    agents: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()  # without the final "/*"
    keys: frozenset[str] = frozenset()
    serials: frozenset[tuple[str, str]] = frozenset()  # (serial, issuer or "")

    def names(self, spiffe_id: str, certificate: Certificate) -> bool:
        """Is this one on it?"""
        return (
            spiffe_id in self.agents
            or certificate.spki_sha256 in self.keys
            or (certificate.serial_number, "") in self.serials
            or (certificate.serial_number, certificate.issuer) in self.serials
            or any(spiffe_id[:end] in self.below for end in _slashes(spiffe_id))
        )


def _slashes(text: str) -> list[int]:
    return [at for at, character in enumerate(text) if character == "/"]


def parse_deny_list(content: bytes, label: str) -> DenyList:
    """Raises ConfigError with every mistake: an entry that says nothing would deny nobody."""
    try:
        tree = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise ConfigError([f"{label}: is not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{label}: is not TOML: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{label}: is nested too deeply"]) from None
    listed = tree.pop("denied", [])
    problems = [f"{label}: {key!r:.80} is not known here; write [[denied]]" for key in tree]
    if not isinstance(listed, list):
        raise ConfigError([*problems, f"{label}: denied is a list; write [[denied]]"])
    entries: list[Entry] = []
    for number, item in enumerate(listed, 1):
        try:
            entries.append(entry_of(item))
        except ValueError as error:
            problems.append(f"{label}: entry {number}: {error}")
    if problems:
        raise ConfigError(problems)
    return deny_list_of(entries)


def deny_list_of(entries: list[Entry]) -> DenyList:
    """With its indexes."""
    agents = {entry.agent for entry in entries if entry.agent}
    return DenyList(
        entries=tuple(entries),
        agents=frozenset(agent for agent in agents if not agent.endswith(BELOW)),
        below=frozenset(agent.removesuffix(BELOW) for agent in agents if agent.endswith(BELOW)),
        keys=frozenset(entry.key for entry in entries if entry.key),
        serials=frozenset((entry.serial, entry.issuer) for entry in entries if entry.serial),
    )


def entry_of(item: Any) -> Entry:
    """As a table says it. Raises ValueError for what does not name exactly one thing."""
    if not isinstance(item, Mapping):
        raise ValueError("is not a table")  # noqa: TRY004 - one kind of error for whatever is wrong with an entry
    if unknown := sorted(set(item) - _KNOWN):
        raise ValueError(f"{unknown[0]!r:.80} is not known; use agent, key or serial, issuer, why")
    if any(not isinstance(value, str) or not value for value in item.values()):
        raise ValueError("every value is a text in quotes, and not empty")
    given = [name for name in _WHAT if name in item]
    if len(given) != 1:
        raise ValueError("name exactly one of agent, key and serial")
    if "issuer" in item and given != ["serial"]:
        raise ValueError("issuer goes with serial only")
    return Entry(
        agent=_agent(item.get("agent", "")),
        key=_key(item.get("key", "")),
        serial=_serial(item.get("serial", "")),
        issuer=_issuer(item.get("issuer", "")),
        why=item.get("why", ""),
    )


def _agent(text: str) -> str:
    try:
        if text:
            parse_spiffe_id(text.removesuffix(BELOW))
    except SpiffeIdError as error:
        raise ValueError(f"agent: {error}") from None
    return text


def _key(text: str) -> str:
    if text and not _KEY.fullmatch(text):
        raise ValueError('key: write "sha256:" and 64 lower-case hexadecimal digits')
    return text.removeprefix("sha256:")


def _issuer(text: str) -> str:
    """One that is written otherwise would be nobody's, and the entry would deny nobody."""
    try:
        return x509.Name.from_rfc4514_string(text).rfc4514_string() if text else ""
    except ValueError:
        raise ValueError(
            'issuer: write it as RFC 4514 says ("CN=agents,O=acme"); '
            "`openssl x509 -noout -issuer -nameopt RFC2253` prints it so"
        ) from None


def _serial(text: str) -> str:
    """As openssl and browsers print it, too: with colons, in capitals, with leading zeros."""
    bare = text.replace(":", "").lower().removeprefix("0x").lstrip("0")
    if text and not _SERIAL.fullmatch(bare):
        raise ValueError("serial: write it in hexadecimal, as `openssl x509 -serial` prints it")
    return bare
