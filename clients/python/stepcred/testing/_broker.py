"""What a test may ask of the dev broker, and tell it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from stepcred.testing._process import OrderRefused, Process

__all__ = ["Broker", "Event", "OrderRefused"]

_OURS = "STEPCRED_"
_ELSEWHERE = "SPIFFE_ENDPOINT_SOCKET"  # would be asked for a certificate in the place of ours


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened at the broker.

    `what`: map, begin, mint, refused, "not minted", "in doubt", revoked, expired, locked, held, frozen or end. `reason`: of
    a refusal or an end; of what is dead, the evidence.
    """

    at: str
    what: str
    scope: str = ""
    reason: str = ""
    why: str = ""
    workflow: str = ""
    run: str = ""
    step: str = ""
    agent: str = ""
    reference_id: str = ""
    lease_id: str = ""
    step_id: str = ""


_NAMES = frozenset(item.name for item in fields(Event))


class Broker:
    """A broker that knows nothing of other tests.

    Whatever orders something returns when it is done. Raises OrderRefused for what cannot be done.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    # --- being an agent ---

    def env(
        self, agent: str, *, workflow: str | None = None, run: str | None = None, step: str | None = None
    ) -> dict[str, str]:
        """The STEPCRED_* variables of a process that is this agent, by its SPIFFE ID.

        Workflow, run and step are taken from the scope map where it has them.
        """
        found: dict[str, str] = self._process.order("agent", id=agent)["env"]
        given = {"WORKFLOW": workflow, "RUN": run, "STEP": step}
        return found | {f"{_OURS}{name}": value for name, value in given.items() if value is not None}

    @contextmanager
    def agent(
        self, agent: str, *, workflow: str | None = None, run: str | None = None, step: str | None = None
    ) -> Iterator[dict[str, str]]:
        """Be this agent in the block: its variables are set in `os.environ`, and all is as before afterwards."""
        variables = self.env(agent, workflow=workflow, run=run, step=step)
        before = {name: os.environ.pop(name) for name in list(os.environ) if _is_about_us(name)}
        os.environ.update(variables)
        try:
            yield variables
        finally:
            for name in [name for name in os.environ if _is_about_us(name)]:
                del os.environ[name]
            os.environ.update(before)

    # --- what happened ---

    @property
    def events(self) -> list[Event]:
        """Everything, in order."""
        return [_event(one) for one in self._state()["events"]]

    @property
    def minted(self) -> list[str]:
        """Scopes, in the order in which credentials were minted; one that was minted twice is there twice."""
        return [event.scope for event in self.events if event.what == "mint"]

    @property
    def refused(self) -> list[tuple[str, str]]:
        """(scope, reason), in order. The scope is empty where a whole step was refused."""
        return [(event.scope, event.reason) for event in self.events if event.what == "refused"]

    @property
    def alive(self) -> list[str]:
        """Scopes of the credentials that would be let in now, in the order in which they were minted."""
        return [str(one["scope"]) for one in self._state()["alive"]]

    @property
    def open_steps(self) -> list[str]:
        """`workflow/run/step` of those that have not ended."""
        return [f"{one['workflow']}/{one['run']}/{one['step']}" for one in self._state()["open_steps"]]

    @property
    def now(self) -> datetime:
        """By the broker's clock; aware."""
        return datetime.fromisoformat(self._state()["now"])

    def accepts(self, secret: str) -> bool:
        """Is this a password, token or key of a credential that is alive? For the fakes of what a step talks to."""
        return bool(self._process.order("accepts", value=secret)["accepts"])

    # --- what is to happen ---

    def values(self, scope: str, values: Mapping[str, str]) -> None:
        """What credentials of this scope hold, where the scope map does not say."""
        self._process.order("hold", scope=scope, values=dict(values))

    def refuse(self, scope: str, reason: str = "SCOPE_REFUSED", *, times: int | None = None) -> None:
        """Refuse the next requests for this scope: so many, or all until `allow`.

        `reason`: as docs/errors.md has them, among them LOCKED, HELD, COOLING, FROZEN, ACCESS_DENIED and PROVIDER_FAILED.
        """
        self._process.order("refuse", scope=scope, reason=reason, times=times)

    def fail(self, scope: str, *, times: int = 1, how: str = "refused") -> None:
        """Have the provider fail.

        `how`: `refused`, nothing is minted; `lost`, minted and its answer lost; `revoke`, it cannot be ended.
        """
        self._process.order("fail", scope=scope, times=times, how=how)

    def allow(self, scope: str) -> None:
        """Take back `refuse` and `fail`. A lock stays: it is the guard's."""
        self._process.order("allow", scope=scope)

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Move the broker's clock: what ends meanwhile is dead when this returns. Heartbeats are not missed."""
        ahead = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        self._process.order("advance", seconds=ahead.total_seconds())

    def expire(self, scope: str = "") -> None:
        """Move the clock to the end of all that is alive, or of what is alive of this scope."""
        self._process.order("expire", scope=scope)

    def end_steps(self) -> None:
        """End every open step, as an operator would."""
        self._process.order("end_steps")

    def restart(self) -> None:
        """Stop the broker and start it again; steps and leases stay."""
        self._process.order("restart")

    def with_scopes(self, text: str) -> None:
        """Begin anew with this scope map, until the end of the test. Raises OrderRefused with its mistakes."""
        self._process.order("reset", scopes=text)

    def reset(self) -> None:
        """Begin anew, with the scope map that the process was started with. Done after each test."""
        self._process.order("reset")

    def _state(self) -> dict[str, Any]:
        return self._process.order("state")


def _event(told: Mapping[str, str]) -> Event:
    return Event(**{name: value for name, value in told.items() if name in _NAMES})


def _is_about_us(name: str) -> bool:
    return name.startswith(_OURS) or name == _ELSEWHERE
