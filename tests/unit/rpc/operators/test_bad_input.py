"""Whatever an operator's client sends, it gets an answer or a refusal with a reason: never a mistake of ours."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from broker.operators.model import Role
from broker.rpc.methods import OPERATOR
from stepcred.v1 import operator_pb2 as pb
from tests.e2e.wire import NEVER_TOLD
from tests.unit.rpc.conftest import Told, told
from tests.unit.rpc.operators.conftest import House

SERVICE = pb.DESCRIPTOR.services_by_name["BrokerOperator"]
TEXTS = ("", "x", "\x00", "é\u202e\x1b[2J", "' OR 1=1 --", "a" * 1500)


def filled(descriptor: Any, text: str, number: int) -> Any:
    """A request with this text and number wherever one goes."""
    made = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.full_name == "google.protobuf.Duration":
            getattr(made, field.name).FromSeconds(-1)
        elif inner is not None:
            getattr(made, field.name).CopyFrom(filled(inner, text, number))
        elif field.type == field.TYPE_STRING and field.is_repeated:
            getattr(made, field.name).append(text)
        elif field.type == field.TYPE_STRING:
            setattr(made, field.name, text)
        elif field.type == field.TYPE_BOOL:
            setattr(made, field.name, field.name not in ("follow", "everything"))
        else:
            setattr(made, field.name, number)
    return made


async def outcome(house: House, method: str, request: Any) -> Told | None:
    """A refusal; None: it was answered."""
    answered = False

    async def ask() -> None:
        nonlocal answered
        call = getattr(house.stub("all"), method)(request, timeout=10)
        _ = [part async for part in call] if OPERATOR_STREAMS[method] else await call
        answered = True

    try:
        return await told(ask())
    except AssertionError:
        assert answered
        return None


OPERATOR_STREAMS = {method.name: method.server_streaming for method in SERVICE.methods}


@pytest.mark.parametrize("method", sorted(OPERATOR.rules))
async def test_every_text_and_number_is_answered_or_refused_with_a_reason(house: House, method: str) -> None:
    house.people.add("all", *Role)
    await house.broker.begin()
    for text in TEXTS:
        for number in (0, 1, 2**31):
            asked = filled(SERVICE.methods_by_name[method].input_type, text, number)
            refused = await outcome(house, method, asked)
            if refused is not None:
                assert refused.reason not in ("", "INTERNAL", "STORE_UNAVAILABLE"), (text, number, refused)
                assert not [word for word in NEVER_TOLD if word in f"{refused.message} {refused.metadata}"]


@pytest.mark.parametrize("method", sorted(OPERATOR.rules))
async def test_bytes_that_are_no_request(house: House, method: str) -> None:
    house.people.add("all", *Role)
    path, streams = f"/stepcred.v1.BrokerOperator/{method}", OPERATOR_STREAMS[method]
    channel: Any = house.channel("all")
    call: Any = channel.unary_stream(path)(b"\xff\xff\xff") if streams else channel.unary_unary(path)(b"\xff\xff\xff")
    refused = await told(call.read() if streams else call)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "DecodeError" not in refused.message
