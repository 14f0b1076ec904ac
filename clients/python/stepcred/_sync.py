"""The blocking client: drives the flows of `_core` over a grpc channel, heartbeats from a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from stepcred import _settings
from stepcred._approvals import Tell
from stepcred._core import BrokerCore, StepCore
from stepcred._credentials import Credential
from stepcred._errors import NeedsApproval, StepcredError
from stepcred._flights import Flights
from stepcred._flow import Call, Flow
from stepcred._models import Identity, Launched, Lease, LeaseOutcome, ScopeVerdict
from stepcred._refusals import Given
from stepcred._requests import checked_patience, checked_timeout, lease_id_of, note_failed_end
from stepcred._status import CallFailed, call_failed
from stepcred._step import StepView
from stepcred._transport import OPTIONS, Lanes
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
) -> Broker:
    """A broker to use in a `with`. What is not given comes from STEPCRED_ADDR, _CERT, _KEY and _CA.

    `workload_api`: certificate, key and CA from there, not from files; also when no file is given or set and
    SPIFFE_ENDPOINT_SOCKET is. `timeout`: seconds for each call, all its attempts together. Nothing is sent to the
    broker yet. Raises SettingsError naming everything that is missing, NoIdentity when the Workload API gives none.
    """
    seconds = checked_timeout(timeout)
    settings = _settings.read(addr=addr, cert=cert, key=key, ca=ca, workload_api=workload_api)
    settings.source.start()
    lanes = Lanes(settings.source, lambda tls: grpc.secure_channel(settings.addr, tls, options=OPTIONS))
    return Broker(lanes, BrokerCore(addr=settings.addr, timeout=seconds))


class Driver:
    """Does what a flow yields, and hands the answer back to it."""

    def __init__(self, lanes: Lanes[grpc.Channel]) -> None:
        self._lanes = lanes

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
        except grpc.RpcError as error:
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
        wait: float = 5.0,
        approval_timeout: timedelta | float | None = None,
    ) -> Step:
        """One step, to use in a `with`: opened on entering, ended with all its credentials on leaving.

        `scopes`: what may be asked for. `max_duration`: longest life of the step (seconds or timedelta).
        `wait`: seconds to wait at the end for evidence that every credential is dead.
        `approval_timeout`: how long `issue` waits for an approval (seconds or timedelta), where it is not told itself.
        """
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        core = self._core.step(name, scopes, max_duration=max_duration, wait=wait, approval_timeout=approval_timeout)
        return Step(self._driver, core)

    def join(
        self,
        handle: str | None = None,
        *,
        wait: float = 5.0,
        approval_timeout: timedelta | float | None = None,
    ) -> Step:
        """A step that a launcher has opened for us, to use in a `with` as one of our own; leaving it ends it.

        `handle`: what the launcher was given, default STEPCRED_STEP_HANDLE. Its names and scopes are the launcher's.
        """
        core = self._core.join(_settings.step_handle(handle), wait=wait, approval_timeout=approval_timeout)
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

    def end(self, handle: str, *, wait: float = 5.0) -> tuple[LeaseOutcome, ...]:
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


class Step(StepView):
    """An open step. Heartbeats go out in the background for as long as the `with` block runs."""

    def __init__(self, driver: Driver, core: StepCore) -> None:
        super().__init__(core)
        self._driver = driver
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="stepcred-heartbeat", daemon=True)
        self._flights = Flights[Credential]()
        self._kept_changed = threading.Event()
        self._keeper: threading.Thread | None = None
        core.keeping.changed = self._kept_changed.set

    def __enter__(self) -> Self:
        self._driver.run(self._core.begin())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._driver.run(self._core.end())
        except StepcredError as problem:
            if error is None:
                raise
            note_failed_end(error, problem)
        finally:
            self._wake.set()

    def credential(self, scope: str, *, timeout: float | None = None) -> Credential:
        """The live credential of this scope in this step, the same for whoever asks: cheap, so ask before each use.

        The first call mints it, charged, however many threads ask at once; successors come in the background, at about
        80 % of its life, until the broker gives no more. Then the last one is served to its end, and after that a call
        mints a new one. `timeout`: seconds, default the broker's. Raises as `issue` does, and StepEnded after the end.
        """
        seconds = None if timeout is None else checked_timeout(timeout)
        return self._core.live(scope) or self._flights.join(
            scope, known=lambda: self._core.live(scope), get=lambda: self._first(scope, seconds), timeout=seconds
        )

    def _first(self, scope: str, timeout: float | None) -> Credential:
        credential = self._driver.run(self._core.credential(scope, timeout=timeout))
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="stepcred-successors", daemon=True)
            self._keeper.start()
        self._wake.set()
        return credential

    def issue(
        self,
        scope: str,
        *,
        timeout: float | None = None,
        replaces: Credential | Lease | str | None = None,
        public_key: str = "",
        csr: str = "",
        approval_timeout: timedelta | float | None = None,
        on_waiting: Tell | None = None,
    ) -> Credential:
        """A new credential for one of the step's scopes, charged to its attempt budget.

        `timeout`: seconds, default the broker's. `replaces`: an older lease that this one succeeds. `approval_timeout`:
        how long to wait where operators must approve it first (seconds or timedelta; default the step's, else not at
        all); `on_waiting` is called at the start of that, and when somebody has said yes. Raises NeedsApproval when it
        takes longer, AccessDenied as soon as it is denied. What was refused for good is not asked again (docs/sdk.md).
        """
        flow = self._core.issue(
            scope,
            Given(replaces=lease_id_of(replaces), public_key=public_key, csr=csr),
            timeout=timeout,
            patience=None if approval_timeout is None else checked_patience(approval_timeout),
            tell=on_waiting,
        )
        credential = self._driver.run(flow)
        self._wake.set()  # a heartbeat now: a credential that nobody claims is revoked
        return credential

    def check(self, scopes: Iterable[str], *, show_policy: bool = False) -> tuple[ScopeVerdict, ...]:
        """What `issue` would be answered now, for scopes that the step has named. Costs nothing."""
        return self._driver.run(self._core.check(scopes, show_policy=show_policy))

    def wait_for_approval(
        self,
        waiting: Iterable[NeedsApproval],
        *,
        approval_timeout: timedelta | float,
        on_waiting: Tell | None = None,
    ) -> None:
        """Wait for several at once: what `issue` has raised for each. Returns when all are granted; issues none.

        Raises as `issue` does.
        """
        patience = checked_patience(approval_timeout)
        self._driver.run(self._core.wait_for_approval(waiting, patience=patience, tell=on_waiting))

    def revoke(self, lease: Credential | Lease | str, *, wait: float = 5.0) -> LeaseOutcome:
        """End one lease early, waiting up to `wait` seconds for evidence."""
        return self._driver.run(self._core.revoke(lease_id_of(lease), wait=wait))

    def _beat(self) -> None:
        pause = self._core.interval
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if not self._core.alive:
                return
            try:
                pause = self._driver.run(self._core.heartbeat())
            except ValueError:  # the channel was closed while the step was open: nobody is left to speak for
                return

    def _keep(self) -> None:
        while self._core.alive:
            try:
                pause = self._driver.run(self._core.keep())
            except ValueError:  # as above
                return
            self._kept_changed.wait(pause)
            self._kept_changed.clear()
