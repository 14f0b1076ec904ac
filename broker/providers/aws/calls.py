"""The only door to the SDK: one attempt, timeouts, and failures as values.

A failure is a value because an exception of botocore carries the service's words and, in the frames of
its traceback, the request; nothing of that may reach a log (I6). The SDK is imported on first use (it
costs 220 ms).
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.clock import Clock
from broker.model import JsonValue
from broker.providers.aws.assume.place import StsPlace
from broker.providers.aws.login.identity import Identity, Keys, NoKeys
from broker.providers.aws.login.sources import SESSION_SECONDS, fetch, session_of
from broker.providers.aws.settings import AwsSettings
from broker.providers.heard import HeardTime

if TYPE_CHECKING:  # it imports the SDK
    from broker.providers.aws.sdk import Sdk

MOST_CLIENTS = 256  # kept; the one that was not used for longest goes
MOST_HUBS = 64

# At DEBUG botocore logs whole answers, minted secrets included (measured).
_LEAKING_LOGGERS = ("boto3", "botocore", "s3transfer", "urllib3")

# The connection was never made, or the request never built: not a byte was sent.
_UNSENT = frozenset(
    {
        *("EndpointConnectionError", "ConnectTimeoutError", "NoCredentialsError", "PartialCredentialsError"),
        *("CredentialRetrievalError", "ParamValidationError", "NoRegionError", "InvalidRegionError"),
        *("TokenRetrievalError", "UnauthorizedSSOTokenError", "ProfileNotFound"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a call gave no result.

    Attributes:
        code: the service's error code, or the name of the SDK's exception. Never a message.
        status: HTTP status of the answer; 0 = no answer was read.
        sent: something may have reached the service.
        why: of what was not sent, when it is known: constant text that says what to look at.
    """

    code: str
    status: int = 0
    sent: bool = True
    why: str = ""

    @property
    def throttled(self) -> bool:
        """The service turned the call away before it did anything. A 503 says less: it may come from in between."""
        return self.code in _THROTTLES and 400 <= self.status < 500  # noqa: PLR2004 - HTTP's


_THROTTLES = frozenset(
    {
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
        *("RequestLimitExceeded", "TooManyRequestsException", "SlowDown"),
    }
)
# The keys are no longer what their end says, or the file beside them has changed: fetch them anew.
DOUBTS = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch"})
_VIA_REFUSALS: Mapping[str, str] = {
    "AccessDenied": "its trust policy or the broker's permissions do not allow it",
    "ValidationError": "it is no valid role",
    "RegionDisabledException": "STS is not active in [aws] region",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """A role that the broker becomes before it calls: role chaining. Without one it is itself."""

    role_arn: str = ""
    external_id: str = ""
    fips: bool = False

    @classmethod
    def of(cls, via: str | None, external_id: str | None, *, fips: bool) -> Hub:
        """Of this role, if there is one."""
        return cls(role_arn=via, external_id=external_id or "", fips=fips) if via else cls()


@dataclass(frozen=True, slots=True)
class _Actor:
    """Who calls. The session is used under the lock alone."""

    identity: Identity
    session: Any


class Clients:
    """One client per who, service, region and endpoint: a client costs 6 ms, a session 5 to 100 ms (measured)."""

    def __init__(self, settings: AwsSettings, heard: HeardTime, clock: Clock) -> None:
        quiet()
        self._settings = settings
        self._heard = heard
        self._clock = clock
        self._patience = 1.0 + (settings.connect_timeout + settings.read_timeout).total_seconds()
        self._made: Sdk | None = None
        self._actors: OrderedDict[Hub, _Actor] = OrderedDict()
        self._clients: OrderedDict[tuple[Hub, str, str, str, bool], Any] = OrderedDict()
        self._lock = threading.Lock()
        self.identity = Identity(lambda: fetch(settings, self._sdk()), clock, patience=self._patience)

    def call(
        self,
        service: str,
        region: str,
        endpoint: str,
        operation: str,
        *,
        via: str = "",
        via_external_id: str = "",
        fips: bool = False,
        **parameters: JsonValue,
    ) -> Mapping[str, JsonValue] | Failure:
        """One request, on the calling thread. Every failure is a value. `via`: as that role."""
        from botocore.exceptions import BotoCoreError

        hub = Hub.of(via, via_external_id, fips=fips)
        try:
            actor, client = self._client(hub, service, region, endpoint, fips=fips)
            keys = actor.identity.keys()
        except NoKeys as problem:
            return Failure(code=problem.code, sent=False, why=problem.why)
        except (BotoCoreError, ValueError) as error:
            return Failure(code=type(error).__name__, sent=False)
        answer = asked(partial(getattr(client, operation), **parameters), self._hear)
        if isinstance(answer, Failure) and answer.code in DOUBTS:
            actor.identity.doubt(keys)
        return answer

    def way(self, hub: Hub, region: str, endpoint: str, *, fips: bool) -> tuple[Identity, Keys, StsPlace] | Failure:
        """Who calls STS there, with keys that are good by now, and where that is. Blocks; every failure is a value."""
        from botocore.exceptions import BotoCoreError

        from broker.providers.aws.assume.finding import sts_place

        try:
            sdk = self._sdk()
            with self._lock:
                identity = self._actor(hub, sdk).identity
            keys = identity.keys()  # first: while there are none, each mint comes by here
            with self._lock:
                return identity, keys, sts_place(sdk, region, endpoint, fips=fips)
        except NoKeys as problem:
            return Failure(code=problem.code, sent=False, why=problem.why)
        except (BotoCoreError, ValueError, OSError) as error:  # OSError: of the file with CA certificates
            return Failure(code=type(error).__name__, sent=False)

    def _hear(self, answer: Mapping[str, Any]) -> None:
        self._heard.hear(str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")))

    def _client(self, hub: Hub, service: str, region: str, endpoint: str, *, fips: bool) -> tuple[_Actor, Any]:
        key, sdk = (hub, service, region, endpoint, fips), self._sdk()
        with self._lock:
            actor = self._actor(hub, sdk)
            if key not in self._clients:
                self._clients[key] = sdk.client(actor.session, service, region, endpoint, fips=fips)
                if len(self._clients) > MOST_CLIENTS:
                    self._clients.popitem(last=False)  # a call under way goes on with it
            self._clients.move_to_end(key)
            return actor, self._clients[key]

    def _actor(self, hub: Hub, sdk: Sdk) -> _Actor:
        if hub not in self._actors:
            identity = self.identity
            if hub.role_arn:
                identity = Identity(lambda: self._assume(hub), self._clock, patience=self._patience)
            self._actors[hub] = _Actor(identity, sdk.session(identity))
            if len(self._actors) > MOST_HUBS:
                gone, _ = self._actors.popitem(last=False)
                for key in [key for key in self._clients if key[0] == gone]:
                    del self._clients[key]
        self._actors.move_to_end(hub)
        return self._actors[hub]

    def _assume(self, hub: Hub) -> Keys:
        """A session of the hub's role. Raises NoKeys."""
        settings = self._settings
        extra = {"ExternalId": hub.external_id} if hub.external_id else {}
        answer = self.call(
            "sts",
            settings.sts_region,
            settings.endpoint_url,
            "assume_role",
            fips=hub.fips,
            RoleArn=hub.role_arn,
            RoleSessionName=settings.hub_session,
            DurationSeconds=SESSION_SECONDS,
            **extra,
        )
        if isinstance(answer, Failure):
            why = answer.why or _VIA_REFUSALS.get(answer.code, "STS refused it, or gave no answer")
            raise NoKeys(f"the role of `via` cannot be assumed: {why}", "ViaRefused")
        keys = session_of(answer)
        if keys is None:
            raise NoKeys("the role of `via` cannot be assumed: the answer holds no whole session", "ViaRefused")
        return keys

    def _sdk(self) -> Sdk:
        with self._lock:
            if self._made is None:
                from broker.providers.aws.sdk import Sdk

                quiet()
                self._made = Sdk(self._settings)
            return self._made


def asked(
    operation: Callable[[], Mapping[str, JsonValue]], hear: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, JsonValue] | Failure:
    """One call of the SDK, with its failure as a value. `hear`: is given whatever a service answered."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = operation()
    except NoKeys as problem:  # they ended just now; a request is signed before it is sent
        return Failure(code=problem.code, sent=False, why=problem.why)
    except ClientError as error:
        hear(error.response)
        return _refusal(error.response)
    except BotoCoreError as error:
        name = type(error).__name__
        return Failure(code=name, sent=name not in _UNSENT)
    except Exception as error:  # noqa: BLE001 - a parser's or a hook's own error: the request may have been sent
        return Failure(code=type(error).__name__)
    hear(answer)
    return answer


def quiet() -> None:
    """Keep the SDK's loggers, and those below them that were set apart, above DEBUG."""
    # It logs a failed refresh with its exception, whose text is what a credential_process printed (read).
    logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)
    for name in (*_LEAKING_LOGGERS, *logging.root.manager.loggerDict):
        if name.partition(".")[0] not in _LEAKING_LOGGERS:
            continue
        logger = logging.getLogger(name)
        if logger.level != logging.NOTSET or name in _LEAKING_LOGGERS:
            logger.setLevel(max(logging.INFO, logger.level))


def _refusal(response: Mapping[str, Any]) -> Failure:
    # Ceph's STS puts Code beside ResponseMetadata, without the Error around it (measured).
    code = response.get("Error", {}).get("Code") or response.get("Code") or ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return Failure(code=str(code), status=int(status))
