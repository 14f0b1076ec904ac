"""Concurrent steps that ask all the time, and remember what they were given."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.reloads.maps import GIVEN, SCOPES
from tests.support.certs import Creds

CALL = 10.0  # seconds: an answer later than this is lost
LONGEST = 0.4  # seconds for which a step keeps what it has
SITS = 8.0  # seconds, of a step that would keep what it has beyond the time in which it must die
SITTERS = 4  # one worker in so many
# What a map that changes may answer. Anything else is a lost request.
CHANGED = {"ACCESS_DENIED", "SCOPE_REFUSED"}
AGAIN = {"EPOCH_LOST"}  # the map kept changing while it was asked: the same request, once more
MIXTURES_OF_NONE = {frozenset(given) for given in GIVEN}


@dataclass
class Found:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    held: dict[str, tuple[str, str]] = field(default_factory=dict)  # lease id → scope, token


class Worker:
    """One step after the other."""

    def __init__(self, found: Found, seed: int, *, sits: bool) -> None:
        self._found = found
        self._random = random.Random(seed)
        self._sits = sits

    async def run(self, stub: Any, stopping: asyncio.Event) -> None:
        """Until `stopping`, then to the end of the step at hand: every request gets its answer."""
        while not stopping.is_set():
            await self._step(stub, stopping)

    async def _step(self, stub: Any, stopping: asyncio.Event) -> None:
        name = pb.StepName(workflow="nightly", run=str(uuid.uuid4()), step="load")
        opened = await self._ask(
            stub.BeginStep, pb.BeginStepRequest(request_id=_id(), name=name, scopes=SCOPES), "BeginStep"
        )
        if opened is None:
            return
        self._verdicts(opened.scopes, "BeginStep")
        mine: list[str] = []
        for scope in self._random.sample(SCOPES, len(SCOPES)):
            asked = pb.IssueCredentialRequest(request_id=_id(), step_handle=opened.step_handle, scope=scope)
            answer = await self._ask(stub.IssueCredential, asked, "IssueCredential")
            if answer is None:
                continue
            if scope == "secret":
                self._found.wrong.append(f"secret was given to {answer.lease.lease_id}")
            mine.append(answer.lease.lease_id)
            self._found.held[answer.lease.lease_id] = (scope, answer.credential.vault_token.token)
        checked = await self._ask(stub.CheckAccess, pb.CheckAccessRequest(name=name, scopes=SCOPES), "CheckAccess")
        if checked is not None:
            self._verdicts(checked.scopes, "CheckAccess")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SITS if self._sits else self._random.uniform(0, LONGEST)):
                await stopping.wait()
        await self._ask(
            stub.EndStep,
            pb.EndStepRequest(request_id=_id(), step_handle=opened.step_handle, wait=Duration(seconds=5)),
            "EndStep",
        )
        for lease_id in mine:
            self._found.held.pop(lease_id, None)

    def _verdicts(self, verdicts: Any, method: str) -> None:
        granted = frozenset(one.scope for one in verdicts if one.verdict == pb.VERDICT_GRANTED)
        if granted not in MIXTURES_OF_NONE:
            self._found.wrong.append(f"{method} answered by a mixture: {sorted(granted)}")

    async def _ask(self, call: Any, request: Any, method: str) -> Any | None:
        """None: refused, as a map may."""
        while True:
            try:
                answer = await call(request, timeout=CALL)
            except grpc.aio.AioRpcError as error:
                reason = _reason(error)
                self._found.answers[f"{method} {reason}"] += 1
                if reason in AGAIN:
                    continue
                if reason not in CHANGED or method not in ("BeginStep", "IssueCredential"):
                    self._found.lost.append(f"{method}: {error.code().name} {reason} {error.details()}")
                return None
            self._found.answers[f"{method} OK"] += 1
            return answer


def _id() -> str:
    return str(uuid.uuid4())


def _reason(error: grpc.aio.AioRpcError) -> str:
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not isinstance(raw, bytes):
        return ""
    for packed in status_pb2.Status.FromString(raw).details:
        info = error_details_pb2.ErrorInfo()
        if packed.Is(info.DESCRIPTOR):
            packed.Unpack(info)
            return str(info.reason)
    return ""


@contextlib.asynccontextmanager
async def load(addr: str, creds: Creds, found: Found, *, workers: int, seed: int) -> AsyncIterator[None]:
    """While the block runs; each worker ends what it began."""
    files = (path.read_bytes() for path in (creds.ca, creds.key, creds.cert))
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(addr, grpc.ssl_channel_credentials(*files), options=options) as channel:
        stub = CredentialBrokerStub(channel)
        stopping = asyncio.Event()
        made = [Worker(found, seed + number, sits=number % SITTERS == 0) for number in range(workers)]
        tasks = [asyncio.create_task(worker.run(stub, stopping)) for worker in made]
        try:
            yield
        finally:
            stopping.set()
            await asyncio.gather(*tasks)
