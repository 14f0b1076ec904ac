"""Wire bytes of every request message: the first byte chooses the method and the caller, the rest is the message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

from google.protobuf import duration_pb2
from google.protobuf.message import Message

from broker.leases import opening
from broker.rpc.methods import BROKER
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.world import OTHER
from tests.fuzz.door import CALLERS, door
from tests.fuzz.target import Check, Target

NAMES = tuple(sorted(BROKER.rules))
UUID = "0b0e7a4e-6f3c-4b0e-9d5a-1f2e3d4c5b6a"


@contextmanager
def ready(folder: Path) -> Iterator[Check]:
    with door(folder) as made:

        def check(data: bytes) -> None:
            chosen = next(iter(data), 0)
            who = CALLERS[chosen // len(NAMES) % len(CALLERS)]
            made.call(NAMES[chosen % len(NAMES)], data[1:], who)

        yield check


def seeds() -> Iterator[bytes]:
    name = pb.StepName(workflow="nightly", run="r1", step="load")
    hour, long = duration_pb2.Duration(seconds=3600), duration_pb2.Duration(seconds=2**62, nanos=-(2**31))
    handle = "abcdefghijklmnopqrstuvwxyz"
    known: dict[str, list[Message]] = {
        "BeginStep": [
            pb.BeginStepRequest(request_id=UUID, name=name, scopes=["plain", "timed"], max_duration=hour),
            pb.BeginStepRequest(request_id=UUID, name=name, scopes=["plain"], max_duration=long),
            pb.BeginStepRequest(
                request_id=UUID, name=name, scopes=["plain"], on_behalf_of=OTHER, definition_digest="sha256:" + "a" * 64
            ),
        ],
        "IssueCredential": [
            pb.IssueCredentialRequest(
                request_id=UUID, step_handle=handle, scope="plain", replaces="l1", csr="-----BEGIN"
            ),
            pb.IssueCredentialRequest(
                request_id=UUID, step_handle=handle, scope="plain", public_key="ssh-ed25519 AAAA"
            ),
        ],
        "Heartbeat": [pb.HeartbeatRequest(step_handle=handle, held_lease_ids=["a", "b"])],
        "RevokeLease": [pb.RevokeLeaseRequest(request_id=UUID, step_handle=handle, lease_id="l1", wait=long)],
        "EndStep": [pb.EndStepRequest(request_id=UUID, step_handle=handle, wait=hour)],
        "WhoAmI": [pb.WhoAmIRequest()],
        "CheckAccess": [
            pb.CheckAccessRequest(name=name, scopes=["plain", "danger", "other"]),
            pb.CheckAccessRequest(step_handle=handle, scopes=["plain", "danger"]),
        ],
    }
    for number, method in enumerate(NAMES):
        for message in known[method]:
            for caller in range(len(CALLERS)):
                yield bytes([number + len(NAMES) * caller]) + message.SerializeToString()
    yield b"\0" + b"\x12" * 300  # a group in a group in a group
    yield b"\0" + b"\x0b" * 300


def _unbounded() -> AbstractContextManager[object]:
    """A broker that takes any duration: timedelta does not."""
    return patch.multiple(opening, MIN_LEASE_LIFE=_Boundless(), MAX_STEP=_Boundless())


class _Boundless(float):
    """A bound that holds nothing back."""

    def total_seconds(self) -> _Boundless:
        return self

    def __le__(self, _: object) -> bool:
        return True

    def __ge__(self, _: object) -> bool:
        return True


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(
        UUID.encode(),
        b"nightly",
        b"plain",
        b"spiffe://dev.local/",
        b"\xc0\x80",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ),
    max_bytes=2048,
    mutants={"takes-any-duration": _unbounded},
)
