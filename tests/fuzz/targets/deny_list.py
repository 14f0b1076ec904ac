"""The deny list: read, and then it names everyone whom it lists; or refused with every mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import ConfigError
from broker.identity.deny_list import BELOW, DenyList, parse_deny_list
from broker.model import Certificate
from tests.fuzz import mutate
from tests.fuzz.target import Check, Target

LOAD = "spiffe://test.local/workflow/nightly/step/load"
ENTRIES = (
    f'agent = "{LOAD}"\nwhy = "its key was in a build log"',
    'agent = "spiffe://test.local/workflow/*"',
    f'key = "sha256:{"ab" * 32}"',
    'serial = "00:7B:22:C0:DE"',
    'serial = "0x1"\nissuer = "CN=agents"',
    'agent = "spiffe://test.local/*"',
    "serial = 12",
)


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        try:
            found = parse_deny_list(data, "denied.toml")
        except ConfigError as error:
            assert error.problems
            assert all(problem.isprintable() for problem in error.problems), "control characters on a terminal"
        else:
            _names_all(found)

    yield check


def _names_all(found: DenyList) -> None:
    nobody = Certificate()
    for entry in found.entries:
        assert [entry.agent, entry.key, entry.serial].count("") == 2, "an entry that says nothing, or two things"
        if entry.agent:
            assert found.names(
                entry.agent.removesuffix(BELOW) + ("/x/y" if entry.agent.endswith(BELOW) else ""), nobody
            )
        if entry.key:
            assert found.names("spiffe://a/b", Certificate(spki_sha256=entry.key))
        if entry.serial:
            number = int(entry.serial, 16)  # as certificates say it
            assert found.names("spiffe://a/b", Certificate(serial_number=f"{number:x}", issuer=entry.issuer or "CN=x"))
    assert not found.names("spiffe://nobody.test/a", nobody) or "spiffe://nobody.test" in str(found.entries)


def seeds() -> Iterator[bytes]:
    listed = [f"[[denied]]\n{entry}\n" for entry in ENTRIES]
    yield from (one.encode() for one in listed)
    yield "".join(listed[:5]).encode()
    yield b'denied = [{agent = "spiffe://a/b"}, 1]\n'
    yield b"a = " + b"[" * 3000


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(
        b"[[denied]]",
        b"agent = ",
        b"key = ",
        b"serial = ",
        b"issuer = ",
        b"why = ",
        b"/*",
        b"sha256:",
        b"0x",
        b"\\u001b",
    ),
    mutate=mutate.lines,
    max_bytes=4096,
)
