"""Credentials that end before their child does: files get the successor, of variables it can only be said."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from types import TracebackType
from typing import Self

import stepcred
from stepcred._credentials import Credential
from stepcred._errors import StepcredError
from stepcred._keeping import elapsed
from stepcred._outlets import Unusable, secrets_of
from stepcred.cli._delivery import Delivery
from stepcred.cli._mask import Secrets
from stepcred.cli._say import Teller

_PATIENCE = 2.0  # seconds for a write that is under way, which our stderr may hold up
_LOOK_EVERY = 1.0  # seconds; an older credential lives for some more after its successor is there


class Renewal:
    """Rewrites the files of `scopes` in the background, for as long as the block runs."""

    def __init__(
        self,
        step: stepcred.Step,
        scopes: Sequence[str],
        credentials: Mapping[str, Credential],
        *,
        delivery: Delivery,
        secrets: Secrets,
        teller: Teller,
    ) -> None:
        self._step = step
        self._scopes = list(scopes)
        self._credentials = dict(credentials)
        self._delivery = delivery
        self._secrets = secrets
        self._teller = teller
        self._told = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="stepcred-files", daemon=True)

    def __enter__(self) -> Self:
        if self._scopes:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._scopes:
            self._thread.join(timeout=_PATIENCE)  # what it does between two looks is done in memory

    def _keep_up(self) -> None:
        while not self._over.wait(_LOOK_EVERY):
            for scope in list(self._scopes):
                self._look(scope)

    def _look(self, scope: str) -> None:
        try:
            newest = self._step.kept(scope)  # asking would mint a new one
        except StepcredError as error:
            self._scopes.remove(scope)
            self._teller.tell(
                "expired",
                f"{scope}: ended while the child still runs, and there is no successor: {error}",
                scope=scope,
            )
            return
        if newest is None or newest is self._credentials[scope]:
            return
        self._secrets.add(secrets_of(newest))  # before the child can read it
        try:
            self._delivery.write(self._credentials | {scope: newest}, of=scope)
        except (OSError, Unusable) as problem:  # a full tmpfs; the next look tries again
            if self._told != str(problem):
                self._told = str(problem)
                self._teller.tell("not-rewritten", f"{scope}: its file is not rewritten: {problem}", scope=scope)
            return
        self._credentials[scope] = newest
        self._teller.tell("renewed", scope=scope, lease_id=newest.lease.lease_id)


class Watch:
    """Says once of each credential in a variable that it has ended while the child still runs, and so of the step."""

    def __init__(self, step: stepcred.Step, credentials: Sequence[Credential], teller: Teller) -> None:
        now = elapsed()
        self._step: stepcred.Step | None = step
        self._teller = teller
        self._ends = {
            credential: now + (credential.lease.expires_at - credential.lease.issued_at) / timedelta(seconds=1)
            for credential in credentials
            if credential.lease.expires_at is not None and credential.lease.issued_at is not None
        }

    def __call__(self) -> float | None:
        """Seconds until it wants to look again; None: never."""
        if self._step is not None and not self._step.alive:
            self._step, self._ends = None, {}
            self._teller.tell(
                "step-ended", "the broker has ended the step: its credentials are dead, and the child still runs"
            )
        now = elapsed()
        for credential in [credential for credential, end in self._ends.items() if end <= now]:
            del self._ends[credential]
            lease = credential.lease
            at = f"{lease.expires_at.astimezone(UTC):%H:%MZ}" if lease.expires_at else ""
            self._teller.tell(
                "expired",
                f"{lease.scope}: ended at {at}, and the child still runs with it; a variable cannot be renewed: "
                "use --file or a sidecar, make the step shorter, or the scope's ttl longer",
                scope=lease.scope,
                lease_id=lease.lease_id,
            )
        times = [end - now for end in self._ends.values()] + ([_LOOK_EVERY] if self._step is not None else [])
        return min(times, default=None)
