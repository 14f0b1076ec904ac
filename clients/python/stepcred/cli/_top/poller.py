"""Asks the broker for all that is shown, over and over, on one channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, TypeVar

import grpc

from stepcred._admin import failed
from stepcred._settings import Settings
from stepcred._transport import OPTIONS, Lanes
from stepcred.cli._top import answers
from stepcred.cli._top.model import Snapshot
from stepcred.v1 import operator_pb2 as pb
from stepcred.v1.operator_pb2_grpc import BrokerOperatorStub

T = TypeVar("T")

TIMEOUT = 5.0  # seconds of one call
_PAGES = 10  # of one list: as many rows as anybody looks at, and a bound on what one view costs the broker
_SIZE = 200  # rows of a page, the most that the broker gives


class Poller:
    """One connection, made anew with each new certificate. Thread-safe: `close` lets go whoever waits in `poll`."""

    def __init__(self, settings: Settings) -> None:
        self._addr = settings.addr
        self._lanes: Lanes[grpc.Channel] = Lanes(settings.source, self._connect)

    def poll(self) -> Snapshot:
        """All lists of one moment, nearly: they are asked for at once. Raises StepcredError."""
        lane = self._lanes.enter()
        try:
            return _ask(BrokerOperatorStub(lane.channel))
        except grpc.RpcError as error:
            raise failed(error, self._addr) from None
        finally:
            for channel in self._lanes.leave(lane):
                channel.close()

    def close(self) -> None:
        for channel in self._lanes.close():
            channel.close()

    def _connect(self, credentials: grpc.ChannelCredentials) -> grpc.Channel:
        return grpc.secure_channel(self._addr, credentials, options=OPTIONS)


def _ask(stub: Any) -> Snapshot:
    """Raises grpc.RpcError."""
    page = pb.Page(size=_SIZE)
    asked = {
        "GetHealth": pb.GetHealthRequest(),
        "ListSteps": pb.ListStepsRequest(page=page),
        "ListLeases": pb.ListLeasesRequest(page=page),
        "ListGuardKeys": pb.ListGuardKeysRequest(page=page, open_too=True),
        "ListApprovals": pb.ListApprovalsRequest(page=page),
        "ListFreezes": pb.ListFreezesRequest(),
        "ListAlerts": pb.ListAlertsRequest(),
    }
    calls = {method: getattr(stub, method).future(request, timeout=TIMEOUT) for method, request in asked.items()}
    try:
        told = {method: call.result() for method, call in calls.items()}
    finally:
        for call in calls.values():
            call.cancel()  # those that nobody waits for any more
    lists = {
        method: _all_pages(getattr(stub, method), asked[method], told[method])
        for method in ("ListSteps", "ListLeases", "ListGuardKeys", "ListApprovals")
    }
    return Snapshot(
        at=told["GetHealth"].server_time.ToDatetime(UTC),
        health=answers.health(told["GetHealth"]),
        steps=_each(lists["ListSteps"], "steps", answers.step),
        leases=_each(lists["ListLeases"], "leases", answers.lease),
        keys=_each(lists["ListGuardKeys"], "keys", answers.key),
        approvals=_each(lists["ListApprovals"], "approvals", answers.approval),
        freezes=_each([told["ListFreezes"]], "freezes", answers.freeze),
        alerts=_each([told["ListAlerts"]], "alerts", answers.alert),
        cut=frozenset(
            name
            for name, pages in zip(("steps", "leases", "keys", "approvals"), lists.values(), strict=True)
            if pages[-1].next_token
        ),
    )


def _all_pages(method: Any, request: Any, first: Any) -> list[Any]:
    pages = [first]
    while pages[-1].next_token and len(pages) < _PAGES:
        request.page.token = pages[-1].next_token
        pages.append(method(request, timeout=TIMEOUT))
    return pages


def _each(pages: Sequence[Any], name: str, make: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(make(told) for page in pages for told in getattr(page, name))
