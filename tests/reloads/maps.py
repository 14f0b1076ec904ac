"""Good maps that say by their names which one they are, and broken ones that would give too much."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

from broker.policy.language.load import digest_of

FILE = "scopes.yaml"
SCOPES = ("a", "b", "c", "secret")  # the last one is granted, and denied at the end of each file
GIVEN = (("a", "b"), ("b", "c"), ())  # by turns; any other combination is a mixture of two maps
BETWEEN_HALVES = 0.03  # seconds: longer than events are gathered, shorter than a map must rest

TEXT = """\
version: 1
environment: {environment}
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/load", owners: [group:data]}}
  report: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/report", owners: [group:data]}}
scopes:
  a: {{vault: {{role: reloads}}, ttl: 10m, tier: low}}
  b: {{vault: {{role: reloads}}, ttl: 10m, tier: high}}
  c: {{vault: {{role: reloads}}, ttl: 10m, tier: low}}
  secret: {{vault: {{role: reloads}}, ttl: 10m, tier: low}}
grants:
  {name}: {{workloads: [load], workflows: [nightly], scopes: [{given}], max_step: 2h, concurrent: supersede}}
  {name}-report: {{workloads: [report], workflows: [nightly], scopes: [{report}], max_step: 2h}}
never:
  reports-stay-low: {{agents: "spiffe://dev.local/workflow/*/step/report", tier: high}}
denies:
  no-secret: {{scopes: [secret]}}
"""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A good map."""

    number: int

    @property
    def given(self) -> tuple[str, ...]:
        return GIVEN[self.number % len(GIVEN)]

    @property
    def text(self) -> str:
        return _text(f"v{self.number}", given=(*self.given, "secret"))

    @property
    def digest(self) -> str:
        return _digest(self.text)

    @property
    def half(self) -> str:
        """As a slow writer leaves it for a moment: a valid, wider map."""
        return self.text[: self.text.index("denies:")]


def _text(name: str, *, given: tuple[str, ...], environment: str = "dev", report: str = "a") -> str:
    return TEXT.format(name=name, given=", ".join(given), environment=environment, report=report)


def _digest(text: str) -> str:
    return digest_of({FILE: text.encode()})


def half_digest(version: Version) -> str:
    return _digest(version.half)


def broken(number: int, how: str) -> tuple[str | None, int]:
    """(text, mode); None: no file at all. Each would give everything if it were believed."""
    name = f"broken{number}"
    good = _text(name, given=SCOPES)
    wide = good[: good.index("denies:")]
    made = {
        "syntax": wide + "denies: [\n",
        "unknown key": wide + f"typo{number}: 1\n",
        "truncated": good[: good.index("]}")],
        "environment": _text(name, given=SCOPES, environment="staging"),
        "never": _text(name, given=SCOPES, report="b"),
        "everybody's": wide,
        "empty": "",
        "missing": None,
    }
    return made[how], 0o666 if how == "everybody's" else 0o644


BROKEN = ("syntax", "unknown key", "truncated", "environment", "never", "everybody's", "empty", "missing")


def put(path: Path, text: str | None, mode: int = 0o644) -> None:
    """At once, with its mode."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    beside = path.with_name(".beside")
    beside.write_text(text)
    beside.chmod(mode)
    beside.replace(path)


def put_in_halves(path: Path, version: Version) -> float:
    """Bit by bit, as a slow editor does. Returns for how long the half stood there, in seconds."""
    path.unlink(missing_ok=True)  # the one before may be everybody's to write
    began = time.monotonic()
    with path.open("w") as file:
        file.write(version.half)
        file.flush()
        time.sleep(BETWEEN_HALVES)
        file.write(version.text[len(version.half) :])
    return time.monotonic() - began


def choose(number: int, chance: random.Random) -> str:
    """ "": a good one. A third is broken."""
    return chance.choice(BROKEN) if number % 3 == 2 else ""
