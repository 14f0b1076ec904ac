"""An open step of the blocking client: heartbeats and successors come from threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stepcred import _threads
from stepcred._approvals import Tell
from stepcred._core import StepCore
from stepcred._credentials import Credential
from stepcred._current import LEASES, SYNC
from stepcred._errors import NeedsApproval, StepcredError
from stepcred._flights import Flights
from stepcred._models import Lease, LeaseOutcome, ScopeVerdict
from stepcred._refusals import Given
from stepcred._requests import checked_patience, checked_retry, checked_timeout, lease_id_of, note_failed_end
from stepcred._settings import seconds_of
from stepcred._step import StepView, dsn_of, environment

if TYPE_CHECKING:
    import boto3
    import hvac

    from stepcred._sync import Driver


class Step(StepView):
    """An open step. Heartbeats go out in the background for as long as the `with` block runs."""

    def __init__(self, driver: Driver, core: StepCore) -> None:
        super().__init__(core)
        self._driver = driver
        self._wake = threading.Event()
        self._flights = Flights[Credential]()
        self._kept_changed = threading.Event()
        self._keeps = False
        self._starting = threading.Lock()
        core.keeping.changed = self._kept_changed.set

    def __enter__(self) -> Self:
        self._must_be_new()
        self._driver.run(self._core.begin())
        try:
            _threads.run(self._beat, name="stepcred-heartbeat")
            SYNC.enter(self)
        except BaseException as error:  # no more threads, or Ctrl-C: nobody will leave the block
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        SYNC.leave(self)
        if self._forked:
            return
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
        self._have(scope)
        return self._live(scope, timeout)

    @contextmanager
    def lease(self, scope: str, *, timeout: float | None = None, wait: timedelta | float = 5.0) -> Iterator[Credential]:
        """What `credential` gives, for the length of a block. It is taken back when the last such block is left.

        Blocks may be nested, and in several threads: one credential for all of them. Who has asked `credential` outside
        of such blocks keeps it to the end of the step. In a long block, ask `credential` anew before each use.
        `timeout`: as there. `wait`: how long to wait for evidence that it is dead. Raises as `issue` and `revoke` do; what
        `revoke` raises is a note on the block's own exception.
        """
        seconds = seconds_of("wait", wait)
        self._enter_lease(scope)
        try:
            yield self._live(scope, timeout)
        except BaseException as error:
            try:
                self._leave_lease(scope, seconds)
            except StepcredError as problem:
                error.add_note(f"the credential for {scope} could not be taken back yet: {problem}")
            raise
        self._leave_lease(scope, seconds)

    def env(self, *scopes: str, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """A child's whole environment: `base` (default our own) with the kept credentials of these scopes.

        Variables that would be used instead are not in it. These credentials live to their own end, without successors: a
        child could not be given them. Raises as `credential` does, and StepcredError when two scopes
        set one variable to different values, or one has nothing for an environment.
        """
        return environment([self._lent(scope) for scope in scopes], base)

    def dsn(self, scope: str, *, scheme: str = "postgresql") -> str:
        """A URL with user, password, host, port and database of the kept login, percent-encoded; it is a secret.

        The login lives to its own end, without a successor. Raises as `credential` does, and StepcredError for another
        kind, or where the operator has named no host.
        """
        return dsn_of(self._lent(scope), scheme)

    def boto3_session(self, scope: str) -> boto3.Session:
        """A boto3 session that signs with the kept credential of the moment. Needs boto3.

        Raises as `credential` does, also at a call of a client made from it, and StepcredError for another kind.
        """
        from stepcred._boto3 import make_kept_session

        return make_kept_session(lambda: self._live(scope, None), credential=self.credential(scope))

    def hvac_client(self, scope: str, *, timeout: float = 10.0, verify: bool | str | None = None) -> hvac.Client:
        """An hvac client that sends the kept token of the moment, to its own Vault alone. Needs hvac.

        No redirects, no proxy from the environment, no `~/.vault-token`. `timeout`: seconds for each request. `verify`: a
        CA file or folder, default VAULT_CACERT or VAULT_CAPATH, else the system's. Raises as `credential` does, also at
        requests, and StepcredError for another kind, a redirect, or a log-in with this client.
        """
        from stepcred._hvac import make_client

        seconds = checked_timeout(timeout)
        return make_client(
            lambda: self._live(scope, None), timeout=seconds, verify=verify, credential=self.credential(scope)
        )

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
        retry: int | None = None,
    ) -> Credential:
        """A new credential for one of the step's scopes, charged to its attempt budget.

        `timeout`: seconds, default the broker's, for the whole call but the wait for an approval. `replaces`: an older
        lease that this one succeeds. `approval_timeout`: how long to wait where operators must approve it first (seconds
        or timedelta; default the step's, else not at all); `on_waiting` is called at the start of that, and when somebody
        has said yes. Raises NeedsApproval when it takes longer, AccessDenied as soon as it is denied. `retry`: how often
        it is asked anew, each a charged attempt, when the provider failed or the answer was lost, after the time that the
        broker names and within `timeout` (default the step's, 1). What was refused for good is not asked again
        (docs/sdk.md).
        """
        flow = self._core.issue(
            scope,
            Given(replaces=lease_id_of(replaces), public_key=public_key, csr=csr),
            timeout=timeout,
            patience=None if approval_timeout is None else checked_patience(approval_timeout),
            tell=on_waiting,
            retry=None if retry is None else checked_retry(retry),
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

    def revoke(self, lease: Credential | Lease | str, *, wait: timedelta | float = 5.0) -> LeaseOutcome:
        """End one lease early, waiting up to `wait` (seconds or timedelta) for evidence."""
        return self._driver.run(self._core.revoke(lease_id_of(lease), wait=wait))

    def _lent(self, scope: str) -> Credential:
        while not self._lend(scope, credential := self.credential(scope)):
            pass
        return credential

    def _live(self, scope: str, timeout: float | None) -> Credential:
        self._must_be_ours()
        seconds = None if timeout is None else checked_timeout(timeout)
        return self._keeping.live(scope) or self._flights.join(
            scope, known=lambda: self._keeping.live(scope), get=lambda: self._first(scope, seconds), timeout=seconds
        )

    def _first(self, scope: str, timeout: float | None) -> Credential:
        credential = self._driver.run(self._keeping.first(scope, timeout=timeout))
        with self._starting:
            if not self._keeps:
                _threads.run(self._keep, name="stepcred-successors")
                self._keeps = True
        self._wake.set()  # as in `issue`
        return credential

    def _leave_lease(self, scope: str, wait: float) -> None:
        LEASES.leave(self, scope)
        if self._forked:
            return
        self._driver.run(self._keeping.leave(scope, wait=wait))

    def _beat(self) -> None:
        pause = self._core.interval
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if not self._core.alive or self._driver.closed:
                return
            pause = self._driver.run(self._core.heartbeat())

    def _keep(self) -> None:
        while self._core.alive and not self._driver.closed:
            pause = self._driver.run(self._keeping.keep())
            self._kept_changed.wait(pause)
            self._kept_changed.clear()
