"""The client without I/O: what to send, what an answer means, when to try again.

Each operation is a generator, a *flow* (`_flow`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from stepcred import _models as models
from stepcred import _wire
from stepcred._calls import Calls
from stepcred._errors import SettingsError
from stepcred._flow import Flow
from stepcred._requests import as_span, begin_request, checked_patience, checked_retry, scope_names, step_name
from stepcred._settings import StepName, seconds_of
from stepcred._step_core import StepCore
from stepcred.v1 import broker_pb2

__all__ = ["BrokerCore", "StepCore"]


@dataclass(kw_only=True, slots=True)
class BrokerCore(Calls):
    """The calls that belong to no step."""

    def whoami(self) -> Flow[models.Identity]:
        response = yield from self.call("WhoAmI", broker_pb2.WhoAmIRequest())
        return _wire.identity(response)

    def check(
        self, name: StepName, scopes: Iterable[str], *, show_policy: bool = False
    ) -> Flow[tuple[models.ScopeVerdict, ...]]:
        request = broker_pb2.CheckAccessRequest(
            name=step_name(name), scopes=scope_names(scopes), show_policy=show_policy
        )
        response = yield from self.call("CheckAccess", request)
        return tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)

    def step(
        self,
        name: StepName,
        scopes: Iterable[str],
        *,
        max_duration: timedelta | float | None,
        wait: timedelta | float,
        approval_timeout: timedelta | float | None,
        retry: int,
    ) -> StepCore:
        return StepCore(
            broker=self,
            name=name,
            scopes=tuple(scope_names(scopes)),
            max_duration=as_span(max_duration),
            wait=seconds_of("wait", wait),
            patience=checked_patience(approval_timeout),
            retry=checked_retry(retry),
        )

    def join(
        self, handle: str, *, wait: timedelta | float, approval_timeout: timedelta | float | None = None, retry: int = 1
    ) -> StepCore:
        return StepCore(
            broker=self,
            wait=seconds_of("wait", wait),
            handle=handle,
            patience=checked_patience(approval_timeout),
            retry=checked_retry(retry),
        )

    def launch(
        self,
        name: StepName,
        scopes: Iterable[str],
        *,
        on_behalf_of: str,
        definition_digest: str,
        max_duration: timedelta | float | None,
    ) -> Flow[models.Launched]:
        if not on_behalf_of:
            raise SettingsError(["on_behalf_of is not given: the SPIFFE ID of the workload"])
        request = begin_request(name, scope_names(scopes), as_span(max_duration))
        request.on_behalf_of, request.definition_digest = on_behalf_of, definition_digest
        return _wire.launched((yield from self.call("BeginStep", request)))

    def end(self, handle: str, *, wait: timedelta | float) -> Flow[tuple[models.LeaseOutcome, ...]]:
        step = self.join(handle, wait=wait)
        yield from step.end()
        return step.outcomes
