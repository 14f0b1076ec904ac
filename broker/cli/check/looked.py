"""What one look found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """`errors` keep the broker from serving as it should, each with what to do; `notes` are good to know."""

    errors: Sequence[str] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)
