"""As whom a caller is let in to a method: an agent as itself, an operator with what the operators file says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from broker.errors import BrokerError, Reason
from broker.model import Agent
from broker.operators.model import Caller, Operator
from broker.rpc.methods import MethodRule

# From a caller with a good certificate to what the servicer gets. Raises BrokerError. Quick: asked again and again.
Admit: TypeAlias = Callable[[Agent, MethodRule], Any]


class KnowsOperators(Protocol):
    """The operators file in force."""

    def of(self, spiffe_id: str) -> Operator | None: ...


def as_agent(agent: Agent, _rule: MethodRule) -> Agent:
    """Who may have what is the scope map's business."""
    return agent


def as_operator(known: KnowsOperators) -> Admit:
    """A method that says neither what role it needs nor that it needs none is nobody's."""

    def admit(agent: Agent, rule: MethodRule) -> Agent | Caller:
        if rule.anybody:
            return agent
        operator = known.of(agent.spiffe_id)
        if operator is None:
            raise BrokerError(
                Reason.OPERATOR_UNKNOWN, "the operators file of this broker names nobody with this SPIFFE ID"
            )
        if rule.role is None or not operator.has(rule.role):
            needed = rule.role.value if rule.role else ""
            raise BrokerError(
                Reason.ROLE_MISSING,
                f"this needs the role {needed}" if needed else "no role allows this",
                metadata={"role": needed},
                about={"operator": operator.name},
            )
        return Caller(operator=operator, agent=agent)

    return admit
