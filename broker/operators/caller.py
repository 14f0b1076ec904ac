"""An operator who asks for something, and from where."""

from __future__ import annotations

from dataclasses import dataclass

from broker.model import Agent
from broker.operators.model import Operator


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Somebody of the operators file, by the certificate of this very call."""

    operator: Operator
    agent: Agent
