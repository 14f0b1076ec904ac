"""Rows of well-formed calls by an agent, a neighbour and a launcher, on steps and leases that exist or do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from broker.rpc.methods import BROKER
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.launchers import DIGEST
from tests.fakes.world import LOAD, OTHER
from tests.fuzz.door import CALLERS, Door, door
from tests.fuzz.target import Check, Draw, Target

NAMES = tuple(sorted(BROKER.rules))
SCOPES = ("plain", "elevated", "danger", "timed", "unknown")
MAX_CALLS = 12
REMEMBERED = 4


class Said:
    """What can be said again: handles, leases and request ids of this row of calls."""

    def __init__(self) -> None:
        self.handles = ["abcdefghijklmnopqrstuvwxyz"]
        self.leases = ["abcdefghijklmnop"]
        self.ids = [_uuid(number) for number in range(REMEMBERED)]
        self._fresh = count(REMEMBERED)

    def new_id(self) -> str:
        return _uuid(next(self._fresh))

    def hear(self, answer: Message | str) -> None:
        match answer:
            case pb.BeginStepResponse():
                self.handles.append(answer.step_handle)
            case pb.IssueCredentialResponse():
                self.leases.append(answer.lease.lease_id)
        del self.handles[:-REMEMBERED], self.leases[:-REMEMBERED]


def _uuid(number: int) -> str:
    return str(UUID(int=number, version=4))


@contextmanager
def ready(folder: Path) -> Iterator[Check]:
    with door(folder) as made:

        def check(data: bytes) -> None:
            made.renew()
            draw, said = Draw(data), Said()
            for _ in range(MAX_CALLS):
                if not draw.left:
                    break
                _one(made, draw, said)
            made.nothing_is_forgotten()

        yield check


def _one(made: Door, draw: Draw, said: Said) -> None:
    if draw.number(8) == 7:
        made.broker.fake_clock.advance(draw.choose((1.0, 31.0, 400.0, 4000.0)))
    method, who = draw.choose(NAMES), draw.choose(CALLERS)
    request = getattr(pb, f"{method}Request")()
    for field in request.DESCRIPTOR.fields:
        if draw.number(16) != 15:
            _fill(request, field.name, draw, said)
    said.hear(made.call(method, request.SerializeToString(), who))


def _fill(request: Any, name: str, draw: Draw, said: Said) -> None:
    match name:
        case "name":
            names = [draw.choose((good, good, draw.text())) for good in ("nightly", "r1", "load")]
            request.name.workflow, request.name.run, request.name.step = names
        case "scopes":
            request.scopes.extend(_word(draw, SCOPES) for _ in range(1 + draw.number(3)))
        case "held_lease_ids":
            request.held_lease_ids.extend(_word(draw, said.leases) for _ in range(draw.number(4)))
        case "max_duration" | "wait":
            span = getattr(request, name)
            span.seconds, span.nanos = draw.choose((600, draw.wide())), draw.choose((0, draw.wide() % 2**31))
        case "show_policy":
            request.show_policy = draw.number(2) == 1
        case _:
            setattr(request, name, _word(draw, _known(name, said)))


def _known(name: str, said: Said) -> tuple[str, ...]:
    known: dict[str, tuple[str, ...]] = {
        "request_id": (said.new_id(), *said.ids),
        "step_handle": tuple(reversed(said.handles)),
        "lease_id": tuple(reversed(said.leases)),
        "replaces": ("", "", *said.leases),
        "scope": SCOPES,
        "on_behalf_of": ("", "", LOAD, OTHER),
        "definition_digest": ("", "", DIGEST),
    }
    return known.get(name, ("",))


def _word(draw: Draw, known: Any) -> str:
    found: str = draw.text() if draw.number(16) == 15 else draw.choose(known)
    return found


def seeds() -> Iterator[bytes]:
    issue, begin, end = NAMES.index("IssueCredential"), NAMES.index("BeginStep"), NAMES.index("EndStep")
    opened = bytes([0, begin, 0, *([0] * 24)])
    yield opened
    yield opened + bytes([0, issue, 0, *([0] * 16)])
    yield opened + bytes([0, issue, 0, *([0] * 16)]) + bytes([0, end, 0, *([0] * 12)])
    yield bytes([0, begin, 2, *([0] * 20), 2, 2, 2, 2])


TARGET = Target(ready=ready, seeds=seeds, max_bytes=1024)
