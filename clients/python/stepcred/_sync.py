"""The blocking client: drives the flows of `_core` over a grpc channel."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Self, TypeVar

import grpc

from stepcred import _settings
from stepcred._core import BrokerCore
from stepcred._errors import StepcredError
from stepcred._flow import Call, Flow
from stepcred._models import Identity, Launched, LeaseOutcome, ScopeVerdict
from stepcred._requests import checked_timeout
from stepcred._status import CallFailed, call_failed
from stepcred._sync_step import Step
from stepcred._transport import OPTIONS, Lanes, target
from stepcred._workload_api import WorkloadApi

T = TypeVar("T")


def connect(
    addr: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    ca: str | None = None,
    *,
    workload_api: WorkloadApi | None = None,
    timeout: float = 15.0,
    wait_broker: timedelta | float | None = None,
) -> Broker:
    """A broker to use in a `with`. What is not given comes from STEPCRED_ADDR, _CERT, _KEY and _CA.

    `workload_api`: certificate, key and CA from there, not from files; also when no file is given or set and
    SPIFFE_ENDPOINT_SOCKET is. `timeout`: seconds for each call, all its attempts together. `wait_broker`: how long the
    first call waits for a broker that is not there yet (seconds or timedelta; default STEPCRED_WAIT_BROKER, else not at
    all). Nothing is sent to the broker yet. Raises SettingsError naming everything that is missing, NoIdentity when the
    Workload API gives none.
    """
    seconds, patience = checked_timeout(timeout), _settings.wait_broker(wait_broker)
    settings = _settings.read(addr=addr, cert=cert, key=key, ca=ca, workload_api=workload_api)
    settings.source.start()
    lanes = Lanes(settings.source, lambda tls: grpc.secure_channel(target(settings.addr), tls, options=OPTIONS))
    return Broker(lanes, BrokerCore(addr=settings.addr, timeout=seconds, wait_broker=patience))


class Driver:
    """Does what a flow yields, and hands the answer back to it."""

    def __init__(self, lanes: Lanes[grpc.Channel]) -> None:
        self._lanes = lanes

    @property
    def closed(self) -> bool:
        """Nobody is left to speak for."""
        return self._lanes.closed

    def run(self, flow: Flow[T]) -> T:
        try:
            effect = next(flow)
            while True:
                if not isinstance(effect, Call):
                    time.sleep(effect.seconds)
                    effect = next(flow)
                    continue
                try:
                    response = self._send(effect)
                except (CallFailed, StepcredError) as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, call: Call) -> Any:
        lane = self._lanes.enter()
        try:
            return getattr(lane.stub, call.method)(call.request, timeout=call.timeout, wait_for_ready=False)
        except (grpc.RpcError, ValueError) as error:  # ValueError: of a closed channel, or what cannot be sent
            if self._lanes.closed:
                raise self._lanes.over() from None
            if isinstance(error, ValueError):
                raise
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._lanes.doubt(lane)
            raise call_failed(error.code().name, error.details(), error.trailing_metadata()) from None
        finally:
            for idle in self._lanes.leave(lane):
                idle.close()


class Broker:
    """A connection to one broker. May be shared between threads."""

    def __init__(self, lanes: Lanes[grpc.Channel], core: BrokerCore) -> None:
        self._lanes = lanes
        self._driver = Driver(lanes)
        self._core = core

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        for channel in self._lanes.close():
            channel.close()

    def step(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        max_duration: timedelta | float | None = None,
        wait: timedelta | float = 5.0,
        approval_timeout: timedelta | float | None = None,
        retry: int = 1,
    ) -> Step:
        """One step, to use in a `with`: opened on entering, ended with all its credentials on leaving.

        `scopes`: what may be asked for. `max_duration`: longest life of the step (seconds or timedelta).
        `wait`: how long to wait at the end for evidence that every credential is dead (seconds or timedelta).
        `approval_timeout`: how long `issue` waits for an approval (seconds or timedelta), where it is not told itself.
        `retry`: how often it asks anew, where it is not told itself. What is not given of workflow, run and step comes
        from STEPCRED_WORKFLOW, _RUN and _STEP, else from the scheduler's own variables; SettingsError when it does not.
        """
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        core = self._core.step(
            name, scopes, max_duration=max_duration, wait=wait, approval_timeout=approval_timeout, retry=retry
        )
        return Step(self._driver, core)

    def join(
        self,
        handle: str | None = None,
        *,
        wait: timedelta | float = 5.0,
        approval_timeout: timedelta | float | None = None,
        retry: int = 1,
    ) -> Step:
        """A step that a launcher has opened for us, to use in a `with` as one of our own; leaving it ends it.

        `handle`: what the launcher was given, default STEPCRED_STEP_HANDLE. Its names and scopes are the launcher's.
        """
        found = _settings.step_handle(handle)
        core = self._core.join(found, wait=wait, approval_timeout=approval_timeout, retry=retry)
        return Step(self._driver, core)

    def launch(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        on_behalf_of: str,
        definition_digest: str = "",
        max_duration: timedelta | float | None = None,
    ) -> Launched:
        """Open a step for a workload, as its launcher. Nothing of it is kept up from here: the workload joins it.

        `on_behalf_of`: the workload's SPIFFE ID. `definition_digest`: of the workflow definition, "sha256:…".
        """
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        flow = self._core.launch(
            name,
            scopes,
            on_behalf_of=on_behalf_of,
            definition_digest=definition_digest,
            max_duration=max_duration,
        )
        return self._driver.run(flow)

    def end(self, handle: str, *, wait: timedelta | float = 5.0) -> tuple[LeaseOutcome, ...]:
        """End a step by its handle, as the launcher that opened it, and say what became of each lease."""
        return self._driver.run(self._core.end(handle, wait=wait))

    def whoami(self) -> Identity:
        """What the broker makes of our certificate."""
        return self._driver.run(self._core.whoami())

    def check(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        show_policy: bool = False,
    ) -> tuple[ScopeVerdict, ...]:
        """What such a step could have, without opening it; with `show_policy`, also what it could do with it."""
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        return self._driver.run(self._core.check(name, scopes, show_policy=show_policy))
