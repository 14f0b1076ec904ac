"""Calls that are signed with a minted session instead of the broker's own identity: probes, and reads of stored values.

One client serves all sessions of a service, region and endpoint: with a client for each call a call costs 11 ms of CPU
and a TLS handshake, this way 1 ms (measured). It signs as the session whose call runs on its thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.model import AwsSession, JsonValue
from broker.providers.aws.calls import Failure, asked, quiet
from broker.providers.aws.lanes import Lane
from broker.providers.aws.login.identity import Keys, NoKeys
from broker.providers.aws.settings import AwsSettings

if TYPE_CHECKING:  # it costs 220 ms
    from broker.providers.aws.sdk import Sdk

MOST_CLIENTS = 64


class _Borrowed:
    """Whose keys sign on this thread."""

    def __init__(self) -> None:
        self._here = threading.local()

    def lend(self, session: AwsSession | None) -> None:
        self._here.session = session

    def keys(self) -> Keys:
        """Raises NoKeys: outside of a call nothing is signed."""
        session: AwsSession | None = getattr(self._here, "session", None)
        if session is None:
            raise NoKeys("no session is being used", "NoSession")
        return Keys(
            access_key_id=session.access_key_id,
            secret_access_key=session.secret_access_key,
            session_token=session.session_token,
        )


class SessionCalls:
    """A lane of its own: neither mints nor denies wait for it. Of the settings, `mint_workers` and timeouts count."""

    def __init__(self, name: str, settings: AwsSettings) -> None:
        quiet()
        self._settings = settings
        self._lane = Lane(name, settings.mint_workers, settings.connect_timeout.total_seconds())
        self._signer = _Borrowed()
        self._made: tuple[Sdk, Any] | None = None
        self._clients: OrderedDict[tuple[str, str, str], Any] = OrderedDict()
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
        from botocore.exceptions import BotoCoreError

        try:
            client = self._client(service, region, session.endpoint_url)
        except (BotoCoreError, ValueError) as error:
            return Failure(code=type(error).__name__, sent=False)
        self._signer.lend(session)
        try:
            return asked(partial(getattr(client, operation), **parameters), lambda _: None)
        finally:
            self._signer.lend(None)  # no later call on this thread signs with it

    def _client(self, service: str, region: str, endpoint: str) -> Any:
        key = (service, region, endpoint)
        with self._lock:
            if self._made is None:
                from broker.providers.aws.sdk import Sdk

                quiet()
                sdk = Sdk(self._settings)
                self._made = (sdk, sdk.session(self._signer))
            if key not in self._clients:
                sdk, signing = self._made
                self._clients[key] = sdk.client(signing, service, region, endpoint, fips=False)
                if len(self._clients) > MOST_CLIENTS:
                    self._clients.popitem(last=False)  # a call under way goes on with it
            self._clients.move_to_end(key)
            return self._clients[key]
