"""hvac's API classes over `providers.http`: they return what the adapter returns, and this one returns a coroutine.

Closes what stock hvac leaves open (measured): it follows a redirect and gives the other host the token, honours
HTTP_PROXY, reads ~/.vault-token, and does not check paths.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

from hvac.adapters import Adapter

from broker.process import read_file
from broker.providers.heard import HeardTime
from broker.providers.http import HttpError, Origin, Pool, Unsent, Untrusted
from broker.providers.vault.scope import is_path
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.standby import INDEX, ActiveOnly
from broker.secret import Secret

MAX_ANSWER_BYTES = 1 << 20
METHODS = {"get": "GET", "list": "LIST", "post": "POST", "put": "PUT", "delete": "DELETE"}


class VaultError(Exception):
    """One request came to nothing. Three kinds."""


class VaultUnreachable(VaultError):
    """No byte of the request was sent."""


class VaultLost(VaultError):
    """It may have been sent, and no answer is known: timeout, reset, nonsense."""


class VaultRefused(VaultError):
    """An answer other than success. `errors` are the server's own words: to compare, never to show.

    None when they are not its own JSON: what stands before it (a proxy, a load balancer) knows nothing of it.
    """

    def __init__(self, status: int, errors: tuple[str, ...] | None) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status
        self.errors = errors


class Trust:
    """The roots that are believed, and the certificate that is shown; one for all pools. `certificate`: and its key."""

    def __init__(self, ca_file: Path | None, certificate: tuple[Path, Path] | None = None) -> None:
        self.ca_file = ca_file
        self._certificate = certificate
        self._read: tuple[bytes, ssl.SSLContext] | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """As the files were when they were last read. Raises VaultUnreachable."""
        return (self._read or self.reread())[1]

    def reread(self) -> tuple[bytes, ssl.SSLContext]:
        """Take the roots that are in the file now; connections that are open are not used again when they changed."""
        try:
            roots = read_file(self.ca_file) if self.ca_file else b""
            if self._read is None or self._read[0] != roots:
                context = ssl.create_default_context(cafile=self.ca_file)
                if self._certificate:
                    context.load_cert_chain(*self._certificate)
                self._read = (roots, context)
        except OSError:  # ssl.SSLError is one
            raise VaultUnreachable("the CA file or the client certificate cannot be used") from None
        return self._read


class Transport:
    """One connection pool. `acting_as` gives an hvac adapter for a token."""

    def __init__(self, settings: VaultSettings, trust: Trust | None = None, *, heard: HeardTime | None = None) -> None:
        self.settings = settings
        self._trust = trust or Trust(settings.ca_file)
        self._active = ActiveOnly()
        self._heard = heard
        origin = Origin.of(settings.address)
        self._tls = origin.tls
        self._pool = Pool(
            origin,
            tls=(lambda: self._trust.context) if origin.tls else None,
            max_connections=settings.max_connections,
            connect_timeout=settings.connect_timeout,
            request_timeout=settings.request_timeout,
            max_body_bytes=MAX_ANSWER_BYTES,
        )
        self._always = {"User-Agent": "stepcred", "X-Vault-Request": "true"}
        self._namespace = {"X-Vault-Namespace": settings.namespace} if settings.namespace else {}

    def acting_as(self, token: Secret | None) -> TokenAdapter:
        """An adapter that sends this token, or none."""
        return TokenAdapter(self, token)

    def another(self, trust: Trust | None = None) -> Transport:
        """The same server over connections of its own."""
        other = Transport(self.settings, trust or self._trust, heard=self._heard)
        other._active = self._active
        return other

    @contextlib.asynccontextmanager
    async def showing(self, cert_file: Path, key_file: Path) -> AsyncIterator[Transport]:
        """The same server over another pool that shows a client certificate; the files are read now."""
        other = self.another(Trust(self.settings.ca_file, (cert_file, key_file)))
        try:
            yield other
        finally:
            await other.close()

    def reread(self) -> bytes:
        """The roots' file as it is now, believed from the next connection on; the last good one stays."""
        try:
            return self._trust.reread()[0] if self._tls else b""
        except VaultUnreachable:
            return b""

    async def close(self) -> None:
        """Close the pool; the next request opens another."""
        await self._pool.close()

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        token: Secret | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        namespaced: bool = True,
        max_bytes: int = MAX_ANSWER_BYTES,
        good: frozenset[int] = frozenset(),
    ) -> dict[str, Any]:
        """One request, one attempt.

        Returns the JSON object of a 2xx answer, or of one in `good`; {} when it has none.
        Raises VaultUnreachable, VaultLost or VaultRefused, none with the server's words or a token in its text.
        """
        path = path.removeprefix("/")
        if not is_path(path):
            raise VaultUnreachable("unsafe path")
        sent = {**self._always, **self._active.headers(), **(headers or {})}
        if namespaced:
            sent |= self._namespace
        if token is not None:
            sent["X-Vault-Token"] = token.reveal()
        raw = b""
        if body is not None:
            sent["Content-Type"], raw = "application/json", json.dumps(body).encode()
        try:
            answer = await self._pool.request(METHODS[method.lower()], f"/{path}", sent, raw, max_body_bytes=max_bytes)
        except Unsent as error:
            if isinstance(error, Untrusted):  # its certificate is new: perhaps the roots are, too
                self.reread()
            raise VaultUnreachable("the server cannot be reached") from None
        except HttpError:
            raise VaultLost("no answer") from None
        if self._heard:
            self._heard.hear(answer.header("date"))
        self._active.hear(answer.header(INDEX))
        return _judge(answer.status, answer.body, good)


class TokenAdapter(Adapter):  # type: ignore[type-arg]  # generic in the stubs only
    """Speaks for one token. Without `super().__init__`, which opens a requests session."""

    def __init__(self, transport: Transport, token: Secret | None) -> None:
        self._transport = transport
        self._token = token

    def get_login_token(self, response: Awaitable[dict[str, Any]]) -> str:
        raise NotImplementedError("log in with use_token=False: the answer is a coroutine")

    def request(
        self,
        method: Any,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002, ARG002 - hvac's signature
        **kwargs: Any,
    ) -> Awaitable[dict[str, Any]]:
        """What hvac's API classes call; the answer is awaited by whoever called them."""
        return self._transport.exchange(method, url, token=self._token, body=kwargs.get("json"), headers=headers)


def _judge(status: int, raw: bytes, good: frozenset[int]) -> dict[str, Any]:
    try:
        body = json.loads(raw.decode()) if raw.strip() else {}
    except (ValueError, RecursionError):
        body = None
    errors = body.get("errors") if isinstance(body, dict) else None
    if 200 <= status < 300 or (status in good and errors is None):  # noqa: PLR2004 - HTTP success
        if not isinstance(body, dict):
            raise VaultLost("the answer is not a JSON object")
        return body
    own = isinstance(errors, list) and all(isinstance(one, str) for one in errors)
    raise VaultRefused(status, tuple(errors) if own and errors is not None else None)
