"""The broker's own token: got by AppRole, certificate, Kubernetes or from a file, kept fresh ahead of its end.

A new login leaves the steps' tokens alone: they are orphans, made through token roles.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from broker.clock import Clock
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import AppRole, Auth, Cert, Kubernetes, TokenFile
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

FRESH_SHARE = 2 / 3  # of its life: renewed or replaced after that
REREAD_SECONDS = 60.0  # a token file may be rotated at any time


class LoginFailed(Exception):
    """The broker has no token of its own. Text is constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A token of the broker, and the cluster that gave it: its answers are that cluster's. Times are monotonic."""

    token: Secret
    cluster_id: str
    renewable: bool
    life: float  # seconds
    stale_at: float
    dead_at: float


class Login:
    """Gives the current session; one login at a time, however many ask."""

    def __init__(self, client: VaultClient, auth: Auth, clock: Clock) -> None:
        self._client = client
        self._auth = auth
        self._clock = clock
        self._session: Session | None = None
        self._lock = asyncio.Lock()

    @property
    def held(self) -> Session | None:
        """The last session, without asking; perhaps no longer good."""
        return self._session

    async def session(self) -> Session:
        """A session that still has life in it. Raises LoginFailed."""
        if (session := self._fresh()) is not None:
            return session
        async with self._lock:
            if (session := self._fresh()) is not None:
                return session
            try:
                self._session = await self._renew() or await self._enter()
            except (VaultUnreachable, VaultLost, VaultRefused) as error:
                if self._session and self._clock.monotonic() < self._session.dead_at:
                    return self._session  # still good; the next call tries again
                raise LoginFailed(f"login to Vault failed: {error}") from None
            return self._session

    def drop(self, session: Session) -> None:
        """The server said that this session's token is dead: log in anew at the next call."""
        if self._session is session:
            self._session = None

    def _fresh(self) -> Session | None:
        session = self._session
        return session if session and self._clock.monotonic() < session.stale_at else None

    async def _renew(self) -> Session | None:
        """The same token for longer; None when it is near the maximum of its role, or not to be had."""
        old = self._session
        if not old or not old.renewable or self._clock.monotonic() >= old.dead_at:
            return None
        try:
            answer = await self._client.renew_self(old.token)
        except (VaultRefused, VaultLost):
            return None
        if answer.life < old.life * FRESH_SHARE:
            return None
        return self._made(old.token, old.cluster_id, life=answer.life, renewable=answer.renewable)

    async def _enter(self) -> Session:
        cluster_id = await self._client.cluster_id()
        match self._auth:
            case AppRole() as auth:
                secret_id = await _read_secret(auth.secret_id_file)
                answer = await self._client.login_approle(auth.mount, auth.role_id, secret_id)
            case Kubernetes() as auth:
                jwt = await _read_secret(auth.jwt_file)
                answer = await self._client.login_kubernetes(auth.mount, auth.role, jwt)
            case Cert() as auth:
                answer = await self._client.login_cert(auth)
                return self._made(answer.token, cluster_id, life=answer.life, renewable=False)
            case TokenFile() as auth:
                token = await _read_secret(auth.path)
                seen = await self._client.lookup_self(token)
                life = min(float(seen.get("ttl") or REREAD_SECONDS), REREAD_SECONDS)
                return self._made(token, cluster_id, life=life, renewable=False)  # whoever writes the file renews it
        return self._made(answer.token, cluster_id, life=answer.life, renewable=answer.renewable)

    def _made(self, token: Secret, cluster_id: str, *, life: float, renewable: bool) -> Session:
        now = self._clock.monotonic()
        life = life or REREAD_SECONDS  # 0 = unbounded: looked at again all the same
        return Session(
            token=token,
            cluster_id=cluster_id,
            renewable=renewable,
            life=life,
            stale_at=now + life * FRESH_SHARE,
            dead_at=now + life,
        )


async def _read_secret(path: Path) -> Secret:
    try:
        text = (await asyncio.to_thread(path.read_text)).strip()
    except (OSError, UnicodeDecodeError):
        raise LoginFailed(f"login to Vault failed: {path} cannot be read") from None
    if not text:
        raise LoginFailed(f"login to Vault failed: {path} is empty")
    return Secret(text)
