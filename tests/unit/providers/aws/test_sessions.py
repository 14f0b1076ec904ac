"""Calls that are signed with somebody's session."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from broker.model import AwsSession
from broker.providers.aws.calls import Failure, asked
from broker.providers.aws.sessions import SessionCalls
from broker.providers.aws.settings import AwsSettings
from broker.secret import Secret
from tests.fakes.clock import START
from tests.support.processes import free_port

PARAMETERS: Mapping[str, Any] = {"Bucket": "lake"}


def session(port: int) -> AwsSession:
    return AwsSession(
        access_key_id="ASIAEXAMPLE",
        secret_access_key=Secret("kept-secret"),
        session_token=Secret("kept-token"),
        region="eu-west-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        session_expires_at=START,
    )


def calls() -> SessionCalls:
    return SessionCalls("test", AwsSettings(installation="0123abcd4567", connect_timeout=timedelta(seconds=1)))


async def test_what_cannot_be_sent_is_said_to_be_unsent() -> None:
    made = calls()
    gone = await made.call(session(free_port()), "s3", "list_objects_v2", PARAMETERS)
    malformed = await made.call(session(free_port()), "s3", "list_objects_v2", {"Bucket": "no bucket"})
    await made.close()
    assert gone == Failure(code="EndpointConnectionError", sent=False)
    assert malformed == Failure(code="ParamValidationError", sent=False)


async def test_outside_of_a_call_nothing_is_signed() -> None:
    made = calls()
    await made.call(session(free_port()), "s3", "list_objects_v2", PARAMETERS)
    ((_, client),) = made._clients.items()

    def bare() -> Any:
        return asked(lambda: client.list_objects_v2(**PARAMETERS), lambda _: None)

    unsigned = [await made._lane.run(bare) for _ in range(8)]
    await made.close()
    assert {one.code for one in unsigned if isinstance(one, Failure)} == {"NoSession"}
    assert all(isinstance(one, Failure) for one in unsigned)
