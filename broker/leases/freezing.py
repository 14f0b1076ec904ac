"""What operators have stopped: asked before an intent, again before a credential is delivered, and for a replay."""

from __future__ import annotations

from broker.errors import BrokerError, Reason
from broker.model import JsonValue, Lease, Step
from broker.store.base import Tx
from broker.store.halts import EVERYTHING, Freeze


def stopped(tx: Tx, step: Step, *, scope: str, provider: str) -> Freeze | None:
    """The oldest freeze that keeps this step from being given this scope."""
    freezes = tx.freezes()
    if not freezes:
        return None
    key = step.key
    had = {"agent": key.agent, "workflow": key.workflow, "run": key.run, "scope": scope, "provider": provider}
    return next((one for one in freezes if _stops(one, had)), None)


def stops_lease(freeze: Freeze, lease: Lease, step: Step | None) -> bool:
    """Would it keep this lease from being made? One without a step is anybody's."""
    workflow, run = (step.key.workflow, step.key.run) if step else (freeze.workflow, freeze.run)
    had = {"agent": lease.agent, "workflow": workflow, "run": run, "scope": lease.scope, "provider": lease.provider}
    return _stops(freeze, had)


def _stops(freeze: Freeze, had: dict[str, str]) -> bool:
    """Every name of it fits; one without names is of everything, or it stops nothing."""
    wanted = freeze.named
    return all(had[name] == value for name, value in wanted.items()) if wanted else freeze.id == EVERYTHING


def frozen(about: dict[str, JsonValue] | None = None) -> BrokerError:
    """Nothing is minted or delivered. By whom and why is the operators' to see."""
    return BrokerError(Reason.FROZEN, "an operator has stopped this: nothing is minted until it is lifted", about=about)
