"""The daemon without one of its limits: whoever claims to see what a flood does must see it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import uvloop

from broker.guard import denials
from broker.rpc import limits, loop, server
from broker.rpc.places import Room

UNLIMITED = (1 << 31) - 1


def no_stream_cap() -> None:
    """As many calls on one connection as anybody likes."""
    bounded = limits.options

    def unbounded(configured: Any) -> list[tuple[str, int]]:
        told = dict(bounded(configured)) | {"grpc.max_concurrent_streams": UNLIMITED}
        return list(told.items())

    setattr(server, "options", unbounded)  # noqa: B010 - deliberate: this process is the mutant


def no_aggregation() -> None:
    """Every refusal is journalled by itself."""
    note = denials.DenialCounter.note

    def in_full(self: Any, *args: Any, **named: Any) -> Any:
        self._in_full = UNLIMITED
        return note(self, *args, **named)

    setattr(denials.DenialCounter, "note", in_full)  # noqa: B010


def no_fair_share() -> None:
    """First come, first served, until every place is taken."""

    def take(self: Any, agent: str) -> bool:
        if self._taken >= self._places:
            return False
        self._held[agent] = self._held.get(agent, 0) + 1
        self._taken += 1
        return True

    setattr(Room, "take", take)  # noqa: B010


def counted_pings() -> None:
    """gRPC's own defence against a flood of pings."""
    setattr(limits, "UNCOUNTED", 3)  # noqa: B010


def any_loop() -> None:
    """grpc.aio leaks what it allocated for calls that were taken back (grpc/grpc#43360)."""
    setattr(loop, "Loop", uvloop.Loop)  # noqa: B010


def new_context_each_time() -> None:
    """gRPC's TLS context is replaced on every handshake, while others use it (grpc/grpc#36693)."""
    dynamic, configuration = grpc.dynamic_ssl_server_credentials, server._configuration
    latest: list[Any] = []

    def remembered(material: Any) -> Any:
        latest[:] = [material]
        return configuration(material)

    def always(first: Any, fetch: Any, **more: Any) -> Any:
        return dynamic(first, lambda: fetch() or configuration(latest[0]), **more)

    setattr(server, "_configuration", remembered)  # noqa: B010
    setattr(grpc, "dynamic_ssl_server_credentials", always)  # noqa: B010


MUTANTS: dict[str, Callable[[], None]] = {
    "no-stream-cap": no_stream_cap,
    "counted-pings": counted_pings,
    "any-loop": any_loop,
    "no-aggregation": no_aggregation,
    "no-fair-share": no_fair_share,
    "new-context-each-time": new_context_each_time,
}
