"""A stock gRPC client with a retry policy of five attempts, and what our trailers make of it: counted on the wire."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import pytest

from broker.errors import BrokerError, Reason
from broker.rpc.status import code_of, trailers_of

METHOD = "/stepcred.v1.CredentialBroker/IssueCredential"
POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 1.0,
    "retryableStatusCodes": [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK],
}
CONFIG = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": POLICY}]})
FOR_GOOD = [
    Reason.LOCKED,
    Reason.HELD,
    Reason.CEILING,
    Reason.FROZEN,
    Reason.NEEDS_APPROVAL,
    Reason.STEP_ENDED,
    Reason.ACCESS_DENIED,
    Reason.SCOPE_REFUSED,
]


@dataclass
class Refuses(grpc.GenericRpcHandler):
    """Every call, in the broker's own words, and notes when it came."""

    error: BrokerError = field(default_factory=lambda: BrokerError(Reason.INTERNAL, "m"))
    silent: bool = False  # without the broker's trailers
    came: list[float] = field(default_factory=list)

    def service(self, _: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
            self.came.append(time.monotonic())
            if not self.silent:
                context.set_trailing_metadata(trailers_of(self.error))
            context.abort(code_of(self.error), self.error.message)
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Refuses, str]]:
    refuses = Refuses()
    made = grpc.server(ThreadPoolExecutor(2), handlers=[refuses])
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    yield refuses, f"127.0.0.1:{port}"
    made.stop(grace=0).wait(timeout=5)


def attempts(server: tuple[Refuses, str], error: BrokerError, *, silent: bool = False) -> list[float]:
    """Of one call by a client that knows nothing of us."""
    refuses, addr = server
    refuses.error, refuses.silent, refuses.came = error, silent, []
    with grpc.insecure_channel(addr, options=[("grpc.service_config", CONFIG)]) as channel:
        call: Any = channel.unary_unary(METHOD)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=20)
    assert caught.value.code() is code_of(error)
    return refuses.came


@pytest.mark.parametrize("reason", FOR_GOOD, ids=lambda reason: reason.value)
def test_what_is_refused_for_good_is_asked_once(server: tuple[Refuses, str], reason: Reason) -> None:
    assert len(attempts(server, BrokerError(reason, "m"))) == 1


def test_the_policy_would_have_asked_five_times(server: tuple[Refuses, str]) -> None:
    """Without the trailers: what the test above proves is theirs."""
    assert len(attempts(server, BrokerError(Reason.LOCKED, "m"), silent=True)) == 5


def test_while_it_cools_the_client_waits_as_long_as_it_is_told(server: tuple[Refuses, str]) -> None:
    came = attempts(server, BrokerError(Reason.COOLING, "m", retry_after=timedelta(milliseconds=200)))
    assert len(came) == 5
    assert all(later - earlier >= 0.19 for earlier, later in itertools.pairwise(came))
