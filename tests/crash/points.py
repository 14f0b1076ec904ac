"""Where the daemon kills itself: a table of its own functions, wrapped from outside. The product has no hook."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.leases import epoch, halting, moves
from broker.leases.committing import Commit
from broker.leases.core import Core
from broker.leases.ending import Ending
from broker.leases.epoch import EpochKeeper
from broker.leases.halting import Halting
from broker.leases.issuing import Intended, Issuing, Refusal
from broker.leases.minting import Minter
from broker.leases.steps import Steps
from broker.providers.vault.client import VaultClient
from broker.rpc.servicer import Servicer
from tests.support.bao import TOMB_ROLE

IN_FLIGHT = 0.002  # seconds after the call began: the request is on its way or being carried out


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a wrapped function. `result` is None before it."""

    args: tuple[Any, ...]
    result: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)  # its keyword arguments


@dataclass(frozen=True, kw_only=True)
class Point:
    """Before or after one of the daemon's functions; `when` chooses among its calls."""

    owner: Any
    name: str
    after: bool = False
    delay: float = 0  # seconds
    when: Callable[[Call], bool] = lambda _: True


def _intended(call: Call) -> bool:
    return isinstance(call.result, Intended)


def _refused(call: Call) -> bool:
    return isinstance(call.result, Refusal)


def _lease_token(call: Call) -> bool:
    role: str = call.args[2]
    return role != TOMB_ROLE


def _tomb(call: Call) -> bool:
    return not _lease_token(call)


def _changed(call: Call) -> bool:
    return bool(call.result)


# After an operation of a transaction is before its COMMIT.
POINTS: dict[str, Point] = {
    "before intent commit": Point(owner=Issuing, name="_intend", after=True, when=_intended),
    "after intent commit": Point(owner=Minter, name="mint"),
    "before mint send": Point(owner=VaultClient, name="create", when=_lease_token),
    "mint in flight": Point(owner=VaultClient, name="create", when=_lease_token, delay=IN_FLIGHT),
    "mint landed, answer unread": Point(owner=VaultClient, name="create", after=True, when=_lease_token),
    "before secret read": Point(owner=VaultClient, name="fetch"),
    "secret read in flight": Point(owner=VaultClient, name="fetch", delay=10 * IN_FLIGHT),
    "secret made, answer unread": Point(owner=VaultClient, name="fetch", after=True),
    "before note": Point(owner=Minter, name="_note"),
    "after note": Point(owner=Minter, name="_note", after=True),
    "before ACTIVE commit": Point(owner=Commit, name="_activate", after=True),
    "after ACTIVE commit": Point(owner=Commit, name="_committed", after=True),
    "before reply": Point(owner=Servicer, name="issue_credential", after=True),
    "after reply": Point(owner=Servicer, name="issue_credential", after=True, delay=IN_FLIGHT),
    "before step end commit": Point(owner=moves, name="end_step", after=True),
    "after step end commit": Point(owner=Steps, name="end", after=True),
    "before revoke send": Point(owner=VaultClient, name="revoke_self"),
    "revoke in flight": Point(owner=VaultClient, name="revoke_self", delay=IN_FLIGHT),
    "after revoke send": Point(owner=VaultClient, name="revoke_self", after=True),
    "before secret revoke": Point(owner=VaultClient, name="revoke_lease"),
    "after secret revoke": Point(owner=VaultClient, name="revoke_lease", after=True),
    "before end commit": Point(owner=moves, name="end_lease", after=True, when=_changed),
    "after end commit": Point(owner=Ending, name="_end", after=True),
    "before adopt commit": Point(owner=epoch, name="_adopt", after=True),
    "after adopt commit": Point(owner=EpochKeeper, name="take", after=True),
    "before make due": Point(owner=Core, name="make_due"),
    "before settle": Point(owner=Ending, name="_settle"),
    "after settle": Point(owner=Ending, name="_settle", after=True),
    "before found is recorded": Point(owner=Ending, name="_record_found"),
    "after found is recorded": Point(owner=Ending, name="_record_found", after=True),
    "before tomb": Point(owner=VaultClient, name="create", when=_tomb),
    "tomb in flight": Point(owner=VaultClient, name="create", when=_tomb, delay=IN_FLIGHT),
    "after tomb": Point(owner=VaultClient, name="create", after=True, when=_tomb),
}


# What the load of the crash harness never does: the guard's lock, which is one transaction (tests/e2e/test_lock_killed.py).
LOCK_POINTS: dict[str, Point] = {
    "lock: nothing written": Point(owner=Halting, name="stop"),
    "lock: step and leases written": Point(owner=moves, name="end_step", after=True),
    "lock: journal written": Point(owner=halting, name="sound"),
    "lock: alert written": Point(owner=halting, name="sound", after=True),
    "lock: compensation written": Point(owner=Halting, name="_compensate", after=True),
    "lock: before commit": Point(owner=Issuing, name="_intend", after=True, when=_refused),
    "lock: after commit": Point(owner=Issuing, name="_admitted", after=True, when=_refused),
    "lock: before the first end": Point(owner=VaultClient, name="revoke_self"),
    "lock: after the first end": Point(owner=VaultClient, name="revoke_self", after=True),
}


class Fuse:
    """SIGKILL at the n-th arrival at the point."""

    def __init__(self, point: Point, nth: int) -> None:
        self._point = point
        self._left = nth
        self._lock = threading.Lock()

    def arrived(self, call: Call) -> None:
        if not self._point.when(call):
            return
        with self._lock:
            self._left -= 1
            due = self._left == 0
        if due and self._point.delay:
            threading.Timer(self._point.delay, _die).start()
        elif due:
            _die()


def arm(name: str, nth: int) -> None:
    """Wrap the function of this point in this process."""
    arm_at((POINTS | LOCK_POINTS)[name], nth)


def arm_at(point: Point, nth: int) -> None:
    """The same with a point of somebody else's table."""
    fuse, original = Fuse(point, nth), getattr(point.owner, point.name)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not point.after:
                fuse.arrived(Call(args=args, named=kwargs))
            result = await original(*args, **kwargs)
            if point.after:
                fuse.arrived(Call(args=args, named=kwargs, result=result))
            return result

    else:

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not point.after:
                fuse.arrived(Call(args=args, named=kwargs))
            result = original(*args, **kwargs)
            if point.after:
                fuse.arrived(Call(args=args, named=kwargs, result=result))
            return result

    setattr(point.owner, point.name, wrapped)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
