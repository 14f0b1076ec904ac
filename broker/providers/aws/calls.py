"""The only door to boto3: bounded threads, one attempt, timeouts, and failures as values.

A failure is a value because an exception of botocore carries the service's words and, in the frames of
its traceback, the request; nothing of that may reach a log (I6). boto3 is imported on first use (it
costs 220 ms).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from broker.model import JsonValue
from broker.process import read_file
from broker.providers.aws.settings import AwsSettings
from broker.providers.heard import HeardTime

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
    """

    code: str
    status: int = 0
    sent: bool = True


BUSY = Failure(code="NoFreeWorker", sent=False)
UNREADABLE_KEY = Failure(code="SecretKeyFileUnreadable", sent=False)


class Lane:
    """A bounded executor without a queue: a call that waited too long for a thread was never sent."""

    def __init__(self, name: str, workers: int, patience: float) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"aws-{name}")
        self._free = asyncio.Semaphore(workers)
        self._patience = patience  # seconds to wait for a free thread

    async def run(self, call: Callable[[], Mapping[str, JsonValue] | Failure]) -> Mapping[str, JsonValue] | Failure:
        """The call's result. A cancelled caller leaves the call running, and its thread taken, until it returns."""
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            return BUSY
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._executor, call)
        running.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(running)

    async def close(self) -> None:
        """Wait for calls under way; each is bounded by its timeouts."""
        await asyncio.to_thread(self._executor.shutdown)


class Clients:
    """One boto3 client per service, region and endpoint: a client costs 6 ms, a session 100 ms (measured)."""

    def __init__(self, settings: AwsSettings, heard: HeardTime) -> None:
        quiet()
        self._settings = settings
        self._heard = heard
        self._session: Any = None
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._lock = threading.Lock()  # a Session is not safe for several threads, its clients are

    def call(
        self, service: str, region: str, endpoint: str, operation: str, **parameters: JsonValue
    ) -> Mapping[str, JsonValue] | Failure:
        """One request, on the calling thread. Every failure is a value."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self._client(service, region, endpoint)
        except (OSError, UnicodeDecodeError):
            return UNREADABLE_KEY
        except (BotoCoreError, ValueError) as error:
            return Failure(code=type(error).__name__, sent=False)
        try:
            answer: Mapping[str, JsonValue] = getattr(client, operation)(**parameters)
        except ClientError as error:
            self._hear(error.response)
            return _refusal(error.response)
        except BotoCoreError as error:
            name = type(error).__name__
            return Failure(code=name, sent=name not in _UNSENT)
        except Exception as error:  # noqa: BLE001 - a parser's or a hook's own error: the request may have been sent
            return Failure(code=type(error).__name__)
        self._hear(answer)
        return answer

    def _hear(self, answer: Mapping[str, Any]) -> None:
        self._heard.hear(str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")))

    def _client(self, service: str, region: str, endpoint: str) -> Any:
        key = (service, region, endpoint)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._make(*key)
            return self._clients[key]

    def _make(self, service: str, region: str, endpoint: str) -> Any:
        import boto3
        from botocore.config import Config

        quiet()
        settings = self._settings
        if self._session is None:
            key_file = settings.secret_access_key_file
            key = read_file(key_file).decode().strip() if key_file else None
            self._session = boto3.Session(aws_access_key_id=settings.access_key_id or None, aws_secret_access_key=key)
        config = Config(
            connect_timeout=settings.connect_timeout.total_seconds(),
            read_timeout=settings.read_timeout.total_seconds(),
            # boto3's default sends three AssumeRole calls on a timeout, 5xx or throttle (measured).
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=max(settings.mint_workers, settings.revoke_workers),
        )
        return self._session.client(service, region_name=region, endpoint_url=endpoint or None, config=config)


def quiet() -> None:
    """Keep the SDK's loggers, and those below them that were set apart, above DEBUG."""
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
