"""What some questions have in common, in words: which workflows, proof, networks, attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.policy.analysis.cells import Cell
from broker.policy.analysis.conditions import is_any
from broker.policy.analysis.networks import UNKNOWN
from broker.policy.decision import AccessRequest
from broker.policy.rules import Grant
from broker.policy.windows import When, read_address

_SHOWN = 10  # names in one line


@dataclass(kw_only=True, slots=True)
class Seen:
    """Collects them; `prefix`: of the texts that no map mentions, and that stand for any other."""

    prefix: str
    witness: AccessRequest
    workflows: set[str] = field(default_factory=set)
    proven: set[bool] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)
    attempts: dict[int, int | None] = field(default_factory=dict)  # first → last

    def add(self, cell: Cell) -> None:
        """One more."""
        asked = cell.request
        self.workflows.add(asked.workflow)
        self.proven.add(asked.proven)
        self.digests.add(asked.definition_digest)
        self.addresses.add(asked.address)
        known = self.attempts.get(asked.attempt, 0)
        last = cell.last_attempt
        self.attempts[asked.attempt] = None if known is None or last is None else max(known, last)

    @property
    def named(self) -> tuple[str, ...] | None:
        """The workflows; None = any."""
        if any(name.startswith(self.prefix) for name in self.workflows):
            return None
        return tuple(sorted(self.workflows))

    def conditions(self, grant: Grant) -> list[str]:
        """In words, as of this grant."""
        found = []
        if self.proven == {True}:
            found.append("only when a launcher proves it")
        if "" not in self.digests:
            named = {one for one in self.digests if not is_any(one)}
            found.append(f"for definition {listed(named)}" if named == self.digests else "when the definition is said")
        if grant.when.networks is not None:
            seen = [read_address(one) for one in self.addresses]
            found.append(f"from {listed({str(n) for n in grant.when.networks if any(a and a in n for a in seen)})}")
        elif UNKNOWN not in self.addresses:
            found.append(f"from some addresses, such as {min(self.addresses)}")
        found += time_words(grant.when)
        found += self._attempts()
        return found

    def _attempts(self) -> list[str]:
        first = min(self.attempts)
        last = None if None in self.attempts.values() else max(one or 0 for one in self.attempts.values())
        if first > 1:
            return [f"for attempts from {first}" + (f" to {last}" if last else "")]
        return [f"for attempts up to {last}"] if last else []


def time_words(when: When) -> list[str]:
    """When it holds; nothing for always."""
    daily = [str(when.daily)] if when.daily is not None else []
    return daily + ([f"until {when.until:%Y-%m-%dT%H:%MZ}"] if when.until is not None else [])


def listed(names: set[str]) -> str:
    """The first ones, in order."""
    shown = sorted(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
