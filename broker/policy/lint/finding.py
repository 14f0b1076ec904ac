"""What lint says: a rule, a place, a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from broker.model import RuleRef
from broker.policy.language.document import Mark


class Level(Enum):
    """How bad it is. In SARIF's words."""

    ERROR = "error"  # the map does not load
    WARNING = "warning"  # loads, and is probably not meant
    NOTE = "note"  # worth knowing


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What is looked for. The id is stable: pipelines name it in `--ignore`."""

    id: str
    level: Level
    title: str
    help: str  # what to do, and why


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing found. Line and column count from 1."""

    rule: Rule
    file: str
    line: int
    column: int
    message: str

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        """By position."""
        return self.file, self.line, self.column, self.rule.id, self.message


def at(place: RuleRef | Mark, rule: Rule, message: str) -> Finding:
    """A finding at this place."""
    return Finding(rule=rule, file=place.file, line=place.line, column=place.column, message=message)


def listed(names: list[str], *, most: int = 5) -> str:
    """Names in a sentence; many of them cut short."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
