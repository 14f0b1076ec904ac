"""The broker's own token: got by AppRole, certificate, Kubernetes or from a file, kept fresh ahead of its end.

A new login leaves the steps' tokens alone: they are orphans, made through token roles. One that was refused is not
tried again and again: servers lock out whoever does that (OpenBao after five times, measured).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from broker.clock import Clock
from broker.log import get_logger
from broker.process import read_file
from broker.providers.vault import answers
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import AppRole, Auth, Cert, Kubernetes, TokenFile
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

log = get_logger(__name__)

LOGIN_SECONDS = 60.0  # all requests of a login have their own timeouts; a file on a dead share has none
FRESH_SHARE = 2 / 3  # of its life: renewed or replaced after that
REREAD_SECONDS = 60.0  # a token file may be rotated at any time
REFUSED_PAUSES = (5.0, 300.0)  # seconds until it is tried again: at first, at most; doubling
AWAY_PAUSES = (1.0, 15.0)
GOODBYE_SECONDS = 2.0
BAD_REQUEST = 400


class LoginFailed(Exception):
    """The broker has no token of its own. The text says when it tries again; `why` does not, and is constant."""

    def __init__(self, why: str, again: str) -> None:
        super().__init__(f"{why}; {again}")
        self.why = why


class _Refused(Exception):
    """A definite no to what was shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A token of the broker, and the cluster that gave it: its answers are that cluster's. Times are monotonic."""

    token: Secret
    cluster_id: str
    renewable: bool
    life: float  # seconds
    stale_at: float
    dead_at: float
    ends_at: float  # of the token itself; one from a file is looked at again long before
    whole: float  # seconds from its making to its end; zero: it has none


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """The last one, until `until` (monotonic) the answer to everybody who asks with the same files."""

    why: str
    again: str
    refused: bool
    shown: bytes  # digest of the files
    pause: float
    until: float


class Login:
    """Gives the current session; one login at a time, however many ask."""

    def __init__(self, client: VaultClient, auth: Auth, clock: Clock) -> None:
        self._client = client
        self._auth = auth
        self._clock = clock
        self._session: Session | None = None
        self._failure: _Failure | None = None
        self._cluster = ""  # of the last login
        self._refreshing: asyncio.Task[Session] | None = None

    @property
    def held(self) -> Session | None:
        """The last session, without asking; perhaps no longer good."""
        return self._session

    def left(self) -> float | None:
        """What is left of the token's life, as a share of the whole. None: never heard of, or it has no end."""
        session, now = self._session, self._clock.monotonic()
        if session is None:
            return 0.0 if self._failure else None
        return (session.ends_at - now) / session.whole if session.whole else None

    def ends(self) -> datetime | None:
        """When the token ends, as far as the clock goes on as it does. None: there is none, or it has no end."""
        session = self._session
        if session is None or not session.whole:
            return None
        return self._clock.now() + timedelta(seconds=session.ends_at - self._clock.monotonic())

    async def session(self) -> Session:
        """A session that still has life in it. Waits for a login only when there is none. Raises LoginFailed."""
        session, now = self._session, self._clock.monotonic()
        if session and now < session.stale_at:
            return session
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="vault login")
            self._refreshing.add_done_callback(self._refreshed)
        if session and now < session.dead_at:
            return session  # a login that hangs holds nobody up
        return await asyncio.shield(self._refreshing)

    def drop(self, session: Session) -> None:
        """The server said that this session's token is dead: log in anew at the next call."""
        if self._session is session:
            self._session = None

    async def moved(self, session: Session) -> bool:
        """Does another cluster answer than the session's? Then the session is dropped. Errors are the transport's."""
        moved = await self._client.cluster_id() != session.cluster_id
        if moved:
            self.drop(session)
        return moved

    async def close(self) -> None:
        """Give back what was logged in here; a token file's is somebody else's. Best effort."""
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        session, self._session = self._session, None
        if session and not isinstance(self._auth, TokenFile) and self._clock.monotonic() < session.dead_at:
            with contextlib.suppress(VaultUnreachable, VaultLost, VaultRefused, TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._client.revoke_self(session.token)

    def _refreshed(self, task: asyncio.Task[Session]) -> None:
        self._refreshing = None
        error = None if task.cancelled() else task.exception()
        if error and not isinstance(error, LoginFailed):
            log.error("login to Vault failed unexpectedly", error=type(error).__name__)

    async def _refresh(self) -> Session:
        shown, failure = await asyncio.to_thread(self._digest), self._failure
        if failure and failure.shown == shown and self._clock.monotonic() < failure.until:
            raise LoginFailed(failure.why, failure.again)
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                session = await self._renew() or await self._enter()
        except (TimeoutError, VaultUnreachable, VaultLost, VaultRefused, _Refused) as error:
            failure = self._failure = self._failed(error, shown)
            raise LoginFailed(failure.why, failure.again) from None
        self._failure = None
        if self._cluster not in ("", session.cluster_id):
            log.warning("another Vault cluster answers than before; leases of the former one wait for it")
        self._session, self._cluster = session, session.cluster_id
        return session

    def _digest(self) -> bytes:
        """Of everything that a login shows, and believes."""
        digest = sha256(self._client.reread_roots())
        for path in self._auth.files:
            with contextlib.suppress(OSError):
                digest.update(sha256(read_file(path)).digest())
        return digest.digest()

    def _failed(self, error: Exception, shown: bytes) -> _Failure:
        refused, last = isinstance(error, _Refused), self._failure
        first, most = REFUSED_PAUSES if refused else AWAY_PAUSES
        same = last is not None and (last.refused, last.shown) == (refused, shown)
        pause = min(2 * last.pause, most) if last and same else first
        at = self._clock.now() + timedelta(seconds=pause)
        again = f"tries again at {at:%Y-%m-%dT%H:%M:%SZ}" + (", or when its files change" if refused else "")
        return _Failure(
            why=f"login to Vault failed: {str(error) or 'it took too long'}",
            again=again,
            refused=refused,
            shown=shown,
            pause=pause,
            until=self._clock.monotonic() + pause,
        )

    async def _renew(self) -> Session | None:
        """The same token for longer; None when it is near the maximum of its role, or not to be had."""
        old, asked_at = self._session, self._clock.monotonic()
        if not old or not old.renewable or asked_at >= old.dead_at:
            return None
        try:
            answer = await self._client.renew_self(old.token)
        except (VaultRefused, VaultLost):
            return None
        if answer.life < old.life * FRESH_SHARE:
            return None
        return _made(old.token, old.cluster_id, asked_at, _Life(answer.life, answer.renewable))

    async def _enter(self) -> Session:
        """Nothing is asked without something to show. Only the login itself says the definite no."""
        secret = await _read_secret(self._auth.files[0], pem=isinstance(self._auth, Cert))
        cluster_id, asked_at = await self._client.cluster_id(), self._clock.monotonic()
        try:
            token, life = await self._show(secret)
        except VaultRefused as error:
            if error.status >= BAD_REQUEST and answers.is_an_answer(error):
                raise _Refused(str(error)) from None
            raise
        return _made(token, cluster_id, asked_at, life)

    async def _show(self, secret: Secret) -> tuple[Secret, _Life]:
        """A token, and its life."""
        match self._auth:
            case AppRole() as auth:
                answer = await self._client.login_approle(auth.mount, auth.role_id, secret)
            case Kubernetes() as auth:
                answer = await self._client.login_kubernetes(auth.mount, auth.role, secret)
            case Cert() as auth:
                answer = await self._client.login_cert(auth)
                return answer.token, _Life(answer.life, renewable=False)  # shown anew instead
            case TokenFile():
                seen = await self._client.lookup_self(secret)
                left, whole = (float(seen.get(name) or 0) for name in ("ttl", "creation_ttl"))
                life = min(left or REREAD_SECONDS, REREAD_SECONDS)
                # Whoever writes the file renews it.
                return secret, _Life(life, renewable=False, left=left, whole=max(left, whole) if left else 0)
        return answer.token, _Life(answer.life, answer.renewable)


class _Life(NamedTuple):
    """Of a token, in seconds. `life`: until it is looked at again at the latest; `left`, `whole`: to its own end."""

    life: float
    renewable: bool
    left: float = 0
    whole: float = 0


def _made(token: Secret, cluster_id: str, asked_at: float, told: _Life) -> Session:
    life = told.life or REREAD_SECONDS  # 0 = unbounded: looked at again all the same
    return Session(
        token=token,
        cluster_id=cluster_id,
        renewable=told.renewable,
        life=life,
        stale_at=asked_at + life * FRESH_SHARE,
        dead_at=asked_at + life,
        ends_at=asked_at + (told.left or life),
        whole=told.whole or told.life,
    )


async def _read_secret(path: Path, *, pem: bool) -> Secret:
    try:
        text = (await asyncio.to_thread(path.read_text)).strip()
    except (OSError, UnicodeDecodeError):
        raise _Refused(f"{path} cannot be read") from None
    if not text:
        raise _Refused(f"{path} is empty")
    if not pem and not text.isprintable():  # a line break in it would end in a header
        raise _Refused(f"{path} holds more than a secret")
    return Secret(text)
