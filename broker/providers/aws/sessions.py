"""Calls that are signed with a minted session instead of the broker's own identity: probes, and reads of stored values.

One client serves all sessions of a service, region and endpoint: a client costs 6 ms, a connection of its own, and a
TLS handshake. Its credentials are those of the session whose call runs on this thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from broker.model import AwsSession, JsonValue
from broker.providers.aws.calls import Failure, Lane, quiet

# The connection was never made, or the request never built.
_UNSENT = frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ParamValidationError"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of one lane of such calls."""

    name: str
    workers: int
    connect_timeout: timedelta
    read_timeout: timedelta


class SessionCalls:
    """A lane of its own: neither mints nor denies wait for it."""

    def __init__(self, limits: Limits) -> None:
        quiet()
        self._limits = limits
        self._lane = Lane(limits.name, limits.workers, limits.connect_timeout.total_seconds())
        self._signer = threading.local()
        self._session: Any = None
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._lock = threading.Lock()  # a session of the SDK is not safe for several threads, its clients are

    async def call(
        self,
        session: AwsSession,
        service: str,
        operation: str,
        parameters: Mapping[str, JsonValue],
        *,
        region: str = "",
    ) -> Mapping[str, JsonValue] | Failure:
        """One attempt, where the session itself is used. `region`: another one than the session's default."""
        return await self._lane.run(
            partial(self._call, session, service, operation, parameters, region or session.region)
        )

    async def close(self) -> None:
        """Wait for calls under way."""
        await self._lane.close()

    def _call(
        self, session: AwsSession, service: str, operation: str, parameters: Mapping[str, JsonValue], region: str
    ) -> Mapping[str, JsonValue] | Failure:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self._client(service, region, session.endpoint_url)
        except (BotoCoreError, ValueError) as error:
            return Failure(code=type(error).__name__, sent=False)
        self._signer.session = session
        try:
            answer: Mapping[str, JsonValue] = getattr(client, operation)(**parameters)
        except ClientError as error:
            return _refusal(error.response)
        except BotoCoreError as error:
            name = type(error).__name__
            return Failure(code=name, sent=name not in _UNSENT)
        except Exception as error:  # noqa: BLE001 - a parser's or a hook's own; its text may hold what was answered
            return Failure(code=type(error).__name__)
        finally:
            del self._signer.session  # no later call on this thread signs with it
        return answer

    def _client(self, service: str, region: str, endpoint: str) -> Any:
        key = (service, region, endpoint)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._make(*key)
            return self._clients[key]

    def _make(self, service: str, region: str, endpoint: str) -> Any:
        import botocore.session
        from botocore.config import Config

        if self._session is None:
            self._session = botocore.session.Session()
            self._session.register_component("credential_provider", _signing_as(self._signer))
            self._session.set_config_variable("ignore_configured_endpoint_urls", True)
        limits = self._limits
        config = Config(
            connect_timeout=limits.connect_timeout.total_seconds(),
            read_timeout=limits.read_timeout.total_seconds(),
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=limits.workers,
            proxies={} if endpoint else None,  # an address of the config is the site's own, and may be plain http
        )
        return self._session.create_client(service, region_name=region, endpoint_url=endpoint or None, config=config)


def _signing_as(signer: threading.local) -> Any:
    """Botocore's own way to be given credentials: a component that loads them, asked anew for each signature."""
    from botocore.credentials import Credentials, ReadOnlyCredentials

    class Borrowed(Credentials):
        """Raises AttributeError outside of a call: then nothing is signed."""

        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            session: AwsSession = signer.session
            return ReadOnlyCredentials(
                session.access_key_id, session.secret_access_key.reveal(), session.session_token.reveal(), None
            )

        def load_credentials(self) -> Credentials:
            return self

    return Borrowed("", "", method="stepcred")


def _refusal(response: Mapping[str, Any]) -> Failure:
    code = str(response.get("Error", {}).get("Code") or "")
    return Failure(code=code, status=int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)))
