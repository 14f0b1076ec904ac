"""AssumeRole from the event loop: one attempt, no thread, failures as values.

Through the SDK's client a call cost 1.0 ms of CPU and two hops between threads, this way 0.15 ms (measured). Who signs, where it
goes, whom TLS trusts: all that is still said by botocore, once for each place. Behind a proxy the SDK makes the call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from broker.clock import Clock
from broker.model import JsonValue
from broker.providers.aws.asks import at_sts, place_of
from broker.providers.aws.assume.answers import MOST_BYTES, read
from broker.providers.aws.assume.form import form
from broker.providers.aws.assume.place import StsPlace
from broker.providers.aws.calls import DOUBTS, MOST_CLIENTS, Clients, Failure, Hub
from broker.providers.aws.lanes import Lane
from broker.providers.aws.login.identity import Identity, Keys
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.settings import AwsSettings
from broker.providers.heard import HeardTime
from broker.providers.http import HttpError, Pool, Unsent, Untrusted

_Key = tuple[Hub, str, str, bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """Who calls, and where."""

    identity: Identity
    place: StsPlace
    pool: Pool


class AssumeRole:
    """As many at a time as the lane allows."""

    def __init__(self, settings: AwsSettings, clients: Clients, lane: Lane, heard: HeardTime, clock: Clock) -> None:
        self._settings = settings
        self._clients = clients
        self._lane = lane
        self._heard = heard
        self._clock = clock
        self._ways: OrderedDict[_Key, _Way] = OrderedDict()
        self._date = ""  # heard last

    async def call(self, block: AwsBlock, parameters: Mapping[str, JsonValue]) -> Mapping[str, Any] | Failure:
        """Where this block's sessions are made, as whoever makes them."""
        key = place_of(self._settings, block)
        way = self._ways.get(key)
        keys = None if way is None else way.identity.at_hand()
        if way is None or keys is None:
            found = await self._find(key)
            if isinstance(found, Failure):
                return found
            way, keys = found
        else:
            self._ways.move_to_end(key)
        if not way.place.plain:
            return await self._lane.run(at_sts(self._clients, self._settings, block, "assume_role", **parameters))
        return await self._lane.wait(partial(self._send, way, keys, form(parameters)))

    async def close(self) -> None:
        """Calls on their way are lost."""
        for way in self._ways.values():
            await way.pool.close()

    async def _find(self, key: _Key) -> tuple[_Way, Keys] | Failure:
        """Waits, on a thread, for whoever calls to have keys."""
        hub, region, endpoint, fips = key
        found = await self._lane.run(partial(self._clients.way, hub, region, endpoint, fips=fips))
        if isinstance(found, Failure):
            return found
        identity, keys, place = found
        way = self._ways.get(key)
        if way is None or way.identity is not identity:  # an identity that was let go of was made anew
            way = self._ways[key] = self._made(identity, place)
            if len(self._ways) > MOST_CLIENTS:
                self._ways.popitem(last=False)  # a call under way goes on with it
        return way, keys

    def _made(self, identity: Identity, place: StsPlace) -> _Way:
        settings = self._settings
        connect, answer = settings.connect_timeout.total_seconds(), settings.read_timeout.total_seconds()
        context = place.context
        pool = Pool(
            place.origin,
            tls=None if context is None else lambda: context,
            max_connections=settings.mint_workers,
            connect_timeout=connect,
            request_timeout=connect + answer,
            max_body_bytes=MOST_BYTES,
        )
        return _Way(identity=identity, place=place, pool=pool)

    async def _send(self, way: _Way, keys: Keys, body: bytes) -> Mapping[str, Any] | Failure:
        from broker.providers.aws.assume.signing import PATH, signed

        headers = {**signed(way.place, body, keys, self._clock.now()), "user-agent": way.place.user_agent}
        try:
            answer = await way.pool.request("POST", PATH, headers, body)
        except Unsent as problem:
            if isinstance(problem, Untrusted):  # its certificate is new: perhaps the roots are, too
                self._lose(way)
            return Failure(code=type(problem).__name__, sent=False, why=str(problem))
        except HttpError as problem:
            return Failure(code=type(problem).__name__)
        self._hear(answer.header("date"))
        told = read(answer.status, answer.body)
        if isinstance(told, Failure) and told.code in DOUBTS:
            way.identity.doubt(keys)
        return told

    def _lose(self, way: _Way) -> None:
        """It is found anew by whoever is next. What is under way on it goes on."""
        self._ways = OrderedDict((key, one) for key, one in self._ways.items() if one is not way)

    def _hear(self, date: str) -> None:
        """Once a second: the first to say it is nearest to it."""
        if date != self._date:
            self._date = date
            self._heard.hear(date)
