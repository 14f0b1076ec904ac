"""Calls that are signed with somebody's session."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
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


async def test_a_directory_bucket_is_asked_as_the_session_itself_and_not_as_what_another_one_made() -> None:
    """botocore makes a session of S3 Express for each bucket, and keeps it for all who use the client."""
    asked_for: list[tuple[str, str]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked_for.append((self.path, self.headers.get("Authorization", "")))
            self.send_response(403)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        made = calls()
        await made.call(
            session(server.server_port), "s3", "list_objects_v2", {"Bucket": "lake--euw1-az1--x-s3", "MaxKeys": 1}
        )
        await made.close()
        server.shutdown()
    ((path, signed),) = asked_for
    assert "list-type=2" in path
    assert "Credential=ASIAEXAMPLE/" in signed
