"""What operators have stopped: asked before an intent, again before a credential is delivered, and for a replay."""

from __future__ import annotations

from broker.errors import BrokerError, Reason
from broker.model import JsonValue, Lease, Step
from broker.store.base import Tx
from broker.store.halts import EVERYTHING, Freeze


def stopped(tx: Tx, step: Step, *, scope: str, provider: str) -> Freeze | None:
    """The oldest freeze that keeps this step from being given this scope."""
    key = step.key
    had = (key.agent, key.workflow, key.run, scope, provider)
    return next((one for one in tx.freezes() if _stops(one, had)), None)


def stops_lease(freeze: Freeze, lease: Lease, step: Step | None) -> bool:
    """Would it keep this lease from being made? One without a step is anybody's."""
    names = (step.key.workflow, step.key.run) if step else (freeze.workflow, freeze.run)
    return _stops(freeze, (lease.agent, *names, lease.scope, lease.provider))


def _stops(freeze: Freeze, had: tuple[str, ...]) -> bool:
    wanted = (freeze.agent, freeze.workflow, freeze.run, freeze.scope, freeze.provider)
    if not any(wanted):
        return freeze.id == EVERYTHING
    return all(name in ("", value) for name, value in zip(wanted, had, strict=True))


def frozen(about: dict[str, JsonValue] | None = None) -> BrokerError:
    """Nothing is minted or delivered. By whom and why is the operators' to see."""
    return BrokerError(Reason.FROZEN, "an operator has stopped this: nothing is minted until it is lifted", about=about)
