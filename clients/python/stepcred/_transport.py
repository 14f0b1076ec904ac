"""The one way to reach a broker: mutual TLS, no proxy, no retries but our own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from stepcred._errors import StepcredError
from stepcred._source import Pems, Source
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # neither transparent retries nor a policy from elsewhere: they would mint twice
    ("grpc.service_config_disable_resolution", 1),  # DNS must not decide how we retry
    ("grpc.enable_http_proxy", 0),  # HTTPS_PROXY is for the step's own traffic
    ("grpc.use_local_subchannel_pool", 1),  # a channel of a new certificate is a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),  # below our own pauses, else they would meet a channel at rest
    ("grpc.max_reconnect_backoff_ms", 1000),
)
MAX_PORT = 65535

C = TypeVar("C", bound=grpc.Channel | grpc.aio.Channel)


def target(addr: str) -> str:
    """What gRPC calls this host:port. Of numbers, it needs no resolver: that one reads /etc/resolv.conf at each connection."""
    host, _, port = addr.rpartition(":")
    if int(port) <= MAX_PORT:
        for scheme, family, number in (("ipv4", socket.AF_INET, host), ("ipv6", socket.AF_INET6, host.strip("[]"))):
            with suppress(OSError):  # a name, or an IPv6 address with its zone
                socket.inet_pton(family, number)
                return f"{scheme}:{addr}"
    return addr


class Stub:
    """The broker's methods on one channel, each made when it is first called: a step needs three of eight."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        """A method's name, as CredentialBrokerStub has it."""
        if name not in _methods():
            raise AttributeError(name)
        path, serializer, deserializer = _methods()[name]
        method = self._channel.unary_unary(path, request_serializer=serializer, response_deserializer=deserializer)
        setattr(self, name, method)
        return method


class _Paths:
    """Stands for a channel, to read from the generated stub what it would ask one for."""

    def unary_unary(
        self, path: str, *, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> tuple[str, Any, Any]:
        return path, request_serializer, response_deserializer


@cache
def _methods() -> dict[str, tuple[str, Any, Any]]:
    paths: Any = _Paths()
    return vars(CredentialBrokerStub(paths))


def channel_credentials(pems: Pems) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pems.ca, pems.key, pems.cert)


@dataclass(kw_only=True, eq=False, slots=True)
class Lane(Generic[C]):
    """A channel, the identity that it was made with, and how many calls are under way on it."""

    pems: Pems
    channel: C
    stub: Any
    calls: int = 0
    doubted: bool = False


class Lanes(Generic[C]):
    """The channel of today's identity: Python's gRPC cannot exchange the certificate of one that is open.

    Calls under way finish on the channel that they began on; it is closed after the last of them.
    """

    def __init__(self, source: Source, make: Callable[[grpc.ChannelCredentials], C]) -> None:
        self._source = source
        self._make = make
        self._lock = threading.Lock()
        self._newest: Lane[C] | None = None
        self._open: list[Lane[C]] = []
        self._process = os.getpid()
        self.closed = False

    def enter(self) -> Lane[C]:
        """For one call, to be followed by `leave`. Raises StepcredError.

        When the source has no usable identity, when this was closed, and in a process that was forked: a socket cannot
        be shared, and a lock that another thread held at that moment is never released there.
        """
        if self._forked:
            raise StepcredError("this connection belongs to the process that made it; connect() after the fork")
        with self._lock:
            if self.closed:
                raise self.over()
            pems = self._source.current()
            if self._newest is None or self._newest.pems is not pems or self._newest.doubted:
                channel = self._make(channel_credentials(pems))
                self._newest = Lane(pems=pems, channel=channel, stub=Stub(channel))
                self._open.append(self._newest)
            self._newest.calls += 1
            return self._newest

    def over(self) -> StepcredError:
        """What a call meets that was under way, or begins, when it was closed."""
        return StepcredError("the connection to the broker is closed")

    def doubt(self, lane: Lane[C]) -> None:
        """No answer came in time on it: the next call takes another.

        A connection that something between us has forgotten looks like that, for as long as TCP sends again: 15 minutes.
        """
        with self._lock:
            lane.doubted = True

    def leave(self, lane: Lane[C]) -> list[C]:
        """The call is over. What is to be closed: the channels of older identities that no call is under way on."""
        with self._lock:
            lane.calls -= 1
            idle = [one for one in self._open if one is not self._newest and not one.calls]
            self._open = [one for one in self._open if one not in idle]
            return [one.channel for one in idle]

    def close(self) -> list[C]:
        """Nothing is called from here on. What is to be closed: all, whatever is under way on them."""
        if self._forked:  # closing would shut the socket of the other process
            return []
        self._source.close()
        with self._lock:
            self.closed = True
            return [lane.channel for lane in self._open]

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._process
