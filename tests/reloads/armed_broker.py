"""The daemon as it is, with wider windows for a reload to fall into; and, as the environment says, without one mechanism."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from broker.__main__ import main
from broker.leases.committing import Commit
from broker.leases.issuing import Issuing
from broker.leases.policy_sweep import PolicySweep
from broker.model import EndReason
from broker.policy.live.holder import Policies
from broker.store.base import Store, Tx
from broker.wiring import serving
from broker.wiring.build import Build

MUTANT = "STEPCRED_RELOADS_MUTANT"
SETTLE = 0.08  # seconds
WINDOW = 0.01  # seconds between a map's commit and its being in force, and between mint and commit


def _later(owner: type, name: str) -> None:
    original = getattr(owner, name)

    async def later(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(WINDOW)
        return await original(*args, **kwargs)

    setattr(owner, name, later)


class _SlowStore:
    """Tells late of what is durable by then."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, operation: Callable[[Tx], Any]) -> Any:
        result = await self._store.write(operation)
        await asyncio.sleep(WINDOW)
        return result


def _late_swap() -> None:
    """Decision and intent are one transaction: a map can only be another one there that is durable and decides not yet."""
    parts = Policies._parts

    def slow(self: Any) -> Any:
        store, clock = parts(self)
        return _SlowStore(store), clock

    setattr(Policies, "_parts", slow)  # noqa: B010


def no_generation() -> None:
    """The intent's transaction does not ask whether the map decided with is still the one."""
    original: Any = Issuing._must_be_possible

    def possible(self: Any, tx: Any, agent: Any, step: Any, granted: Any) -> Any:
        return original(self, tx, agent, step, replace(granted, generation=tx.control().policy_generation))

    setattr(Issuing, "_must_be_possible", possible)  # noqa: B010 - deliberate: this process is the mutant


def no_second_decision() -> None:
    """The commit does not ask again, and nobody dooms what is in flight."""
    no_sweep()

    def must_not_live(_self: Any, tx: Any, _lease: Any, step: Any, *, wait: bool) -> EndReason | None:
        now_step = tx.step(step.id)
        return None if now_step is not None and now_step.state.value == "OPEN" else EndReason.STEP_ENDED

    setattr(Commit, "_must_not_live", must_not_live)  # noqa: B010


def no_sweep() -> None:
    """What is alive is never held against a new map."""

    async def step(self: Any) -> None:
        self._core.policies.adopted.clear()

    setattr(PolicySweep, "step", step)  # noqa: B010


def no_settle() -> None:
    """One reading is enough."""

    async def settled(self: Any) -> Any:
        return await asyncio.to_thread(self._read, self._clock.now(), None, frozenset())

    setattr(Policies, "_settled", settled)  # noqa: B010


MUTANTS: dict[str, Callable[[], None]] = {
    "no-generation": no_generation,
    "no-second-decision": no_second_decision,
    "no-sweep": no_sweep,
    "no-settle": no_settle,
}

if __name__ == "__main__":
    setattr(serving, "Build", partial(Build, settle=SETTLE))  # noqa: B010 - a thousand reloads in less time
    _late_swap()
    _later(Commit, "active")
    if mutant := os.environ.get(MUTANT):
        MUTANTS[mutant]()
    sys.exit(main())
