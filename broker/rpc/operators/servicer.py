"""BrokerOperator, put together."""

from __future__ import annotations

from collections.abc import Mapping

from broker.rpc.operators.acting import Acting
from broker.rpc.operators.looking import Looking
from broker.rpc.operators.oneself import Oneself
from broker.rpc.operators.parts import Parts
from broker.rpc.operators.stories import Stories
from broker.rpc.pipeline import Method, Stream


class OperatorServicer:
    """One method per rpc; each gets an operator, or one who has only a good certificate where the table says so."""

    def __init__(self, parts: Parts) -> None:
        self._methods: dict[str, Method | Stream] = {}
        for kind in (Oneself(parts), Looking(parts), Stories(parts), Acting(parts)):
            self._methods |= kind.methods()

    def methods(self) -> Mapping[str, Method | Stream]:
        """Name in the service → implementation."""
        return self._methods
