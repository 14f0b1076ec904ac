"""What goes wrong is told once, clearly and stably; it mints nothing, tells no secret, and the daemon stays up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

import stepcred
from stepcred.v1 import broker_pb2 as pb
from tests.e2e.wire import NEVER_TOLD, Wire, begin, check_refusal, end, issue, new_id, revoke, send_bytes, wire
from tests.e2e.world import LOAD, REPORT, Site, journal
from tests.support.certs import Creds, TestCA
from tests.support.daemon import TRUST_DOMAIN, Deployment
from tests.support.processes import wait_until

C = grpc.StatusCode
AGENT = f"spiffe://{TRUST_DOMAIN}/{LOAD}"

pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[Deployment]:
    deployment = site.deployment()
    with deployment.daemon() as process:
        yield deployment
        assert process.poll() is None, "the daemon did not survive the bad input"
    assert process.returncode == 0
    assert "Traceback" not in deployment.log.read_text()


@pytest.fixture(scope="module")
def load(broker: Deployment) -> Creds:
    return broker.agent(LOAD)


@pytest.fixture(scope="module")
def client(broker: Deployment, load: Creds) -> Iterator[Wire]:
    with wire(broker, load) as connected:
        yield connected


@pytest.fixture(autouse=True)
def answers_afterwards(client: Wire) -> Iterator[None]:
    yield
    assert client.whoami().spiffe_id == AGENT


@pytest.fixture
def handle(client: Wire) -> Iterator[str]:
    opened = client.begin(new_id(), "token", "nothing-like-it", "reports")
    yield opened
    client.end(opened)


# --- scopes ---


def test_an_unknown_scope_and_anothers_scope_are_refused_alike(client: Wire, handle: str, broker: Deployment) -> None:
    unknown = client.refused("IssueCredential", issue(handle, "nothing-like-it"))
    foreign = client.refused("IssueCredential", issue(handle, "reports"))
    check_refusal(unknown, "ACCESS_DENIED", C.PERMISSION_DENIED)
    assert unknown.without_reference() == foreign.without_reference()
    told = [record for record in journal(broker, "DENIED") if record["reference_id"] == unknown.reference]
    assert [record["scope"] for record in told] == ["nothing-like-it"]  # the operator learns what the agent does not


def test_a_scope_that_was_not_named_at_begin_step_is_refused(client: Wire, handle: str) -> None:
    check_refusal(client.refused("IssueCredential", issue(handle, "kv")), "SCOPE_NOT_NAMED", C.PERMISSION_DENIED)


# --- handles and leases ---

CALLS: dict[str, Callable[[str], Any]] = {
    "IssueCredential": lambda handle: issue(handle, "token"),
    "Heartbeat": lambda handle: pb.HeartbeatRequest(step_handle=handle),
    "RevokeLease": lambda handle: revoke(handle, "abcdefghijklmnop"),
    "EndStep": end,
}


@pytest.mark.parametrize("method", CALLS)
def test_a_foreign_an_ended_foreign_and_an_unknown_handle_are_refused_alike(
    broker: Deployment, client: Wire, method: str
) -> None:
    with wire(broker, broker.agent(REPORT)) as other:
        alive = other.begin(new_id(), "reports", step="report")
        ended = other.begin(new_id(), "reports", step="report")
        other.end(ended)
        handles = [alive, ended, "a" * len(alive), alive.upper(), f"{alive} ", "", "x" * 1000]
        refusals = [client.refused(method, CALLS[method](handle)) for handle in handles]
        other.end(alive)
    check_refusal(refusals[0], "ACCESS_DENIED", C.PERMISSION_DENIED)
    assert {repr(refusal.without_reference()) for refusal in refusals} == {repr(refusals[0].without_reference())}


def test_a_foreign_and_an_unknown_lease_are_refused_alike(broker: Deployment, client: Wire, handle: str) -> None:
    with wire(broker, broker.agent(REPORT)) as other:
        theirs = other.begin(new_id(), "reports", step="report")
        lease_id = other.issue(theirs, "reports").lease.lease_id
        foreign = client.refused("RevokeLease", revoke(handle, lease_id))
        unknown = client.refused("RevokeLease", revoke(handle, "abcdefghijklmnop"))
        assert other.heartbeat(theirs, lease_id).ended_lease_ids == []  # untouched
        other.end(theirs)
    check_refusal(foreign, "ACCESS_DENIED", C.PERMISSION_DENIED)
    assert foreign.without_reference() == unknown.without_reference()


def test_the_handle_of_ones_own_ended_step_says_so(client: Wire) -> None:
    run = new_id()
    stale = client.begin(run, "token")
    client.end(stale)
    client.end(client.begin(run, "token"))  # the next attempt does not revive the older handle
    check_refusal(client.refused("IssueCredential", issue(stale, "token")), "STEP_ENDED", C.FAILED_PRECONDITION)


# --- certificates ---


def bad_certificates(deployment: Deployment) -> dict[str, tuple[str, Creds]]:
    """One for each reason; the corpus has the others."""
    ca = deployment.ca
    return {
        "foreign trust domain": ("TRUST_DOMAIN_FOREIGN", ca.agent(AGENT, uris=(f"spiffe://other.local/{LOAD}",))),
        "two names": ("SPIFFE_ID_INVALID", ca.agent(AGENT, uris=(AGENT, f"{AGENT}2"))),
        "a CA": ("CERTIFICATE_INVALID", ca.agent(AGENT, ca=True)),
    }


@pytest.mark.parametrize("bad", ["foreign trust domain", "two names", "a CA"])
def test_a_certificate_that_is_no_identity_is_refused(broker: Deployment, bad: str) -> None:
    reason, creds = bad_certificates(broker)[bad]
    with wire(broker, creds) as stranger:
        refusal = stranger.refused("WhoAmI", pb.WhoAmIRequest())
        check_refusal(refusal, reason, C.UNAUTHENTICATED, journalled=False)
        refusal = stranger.refused("BeginStep", begin(new_id(), "token"))
        check_refusal(refusal, reason, C.UNAUTHENTICATED, journalled=False)


def test_a_certificate_that_expires_on_an_open_connection_is_refused(broker: Deployment) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    with wire(broker, broker.ca.agent(AGENT, not_after=soon)) as expiring:
        assert expiring.whoami().spiffe_id == AGENT
        wait_until(lambda: datetime.now(UTC) > soon, within=5, what="expiry")
        check_refusal(
            expiring.refused("WhoAmI", pb.WhoAmIRequest()), "CERTIFICATE_EXPIRED", C.UNAUTHENTICATED, journalled=False
        )


@pytest.mark.parametrize("which", ["expired", "foreign CA"])
def test_the_handshake_refuses_what_it_can_and_the_sdk_says_so(broker: Deployment, tmp_path: Path, which: str) -> None:
    if which == "expired":
        past = datetime.now(UTC) - timedelta(minutes=5)
        creds = broker.ca.agent(AGENT, not_before=past - timedelta(hours=1), not_after=past)
    else:
        foreign = TestCA(tmp_path, TRUST_DOMAIN).agent(AGENT)
        creds = Creds(cert=foreign.cert, key=foreign.key, ca=broker.ca.root_path)
    sdk = stepcred.connect(broker.addr, str(creds.cert), str(creds.key), str(creds.ca))
    with sdk, pytest.raises(stepcred.TlsRefused, match="refused this client"):
        sdk.whoami()


# --- request ids and names ---

CANONICAL = "0193e0a4-6b8f-7c11-9d1e-5a4b3c2d1e0f"


@pytest.mark.parametrize(
    "request_id",
    [
        "",
        CANONICAL.upper(),
        CANONICAL.replace("-", ""),
        f" {CANONICAL}",
        f"{CANONICAL}\n",
        f"{{{CANONICAL}}}",
        f"urn:uuid:{CANONICAL}",
        CANONICAL.replace("0", "\N{ARABIC-INDIC DIGIT ZERO}"),
        "1",
        "x" * 10_000,
    ],
)
def test_a_malformed_request_id_is_refused_on_every_mutating_call(client: Wire, handle: str, request_id: str) -> None:
    for method, request in {
        "BeginStep": begin(new_id(), "token", request_id=request_id),
        "IssueCredential": issue(handle, "token", request_id),
        "RevokeLease": revoke(handle, "abcdefghijklmnop", request_id),
        "EndStep": end(handle, request_id=request_id),
    }.items():
        check_refusal(client.refused(method, request), "INVALID_REQUEST_ID", C.INVALID_ARGUMENT)


BAD_NAMES = [
    "",
    " nightly",
    "nightly ",
    "nightly\n",
    "../nightly",
    "a/b",
    "-x",
    "%6eightly",
    "nïghtly",
    "n\0",
    "n" * 251,
]


@pytest.mark.parametrize("bad", BAD_NAMES)
def test_a_name_that_is_not_canonical_is_rejected_and_never_repaired(client: Wire, handle: str, bad: str) -> None:
    good = {"workflow": "nightly", "run": "1", "step": "load"}
    for field in good:
        name = pb.StepName(**(good | {field: bad}))
        opening = pb.BeginStepRequest(request_id=new_id(), name=name, scopes=["token"])
        looking = pb.CheckAccessRequest(name=name, scopes=["token"])
        for method, request in (("BeginStep", opening), ("CheckAccess", looking)):
            refusal = client.refused(method, request)
            check_refusal(refusal, "INVALID_NAME", C.INVALID_ARGUMENT)
            assert refusal.info.metadata["field"] == field
    check_refusal(client.refused("BeginStep", begin(new_id(), bad)), "INVALID_NAME", C.INVALID_ARGUMENT)
    check_refusal(client.refused("IssueCredential", issue(handle, bad)), "INVALID_NAME", C.INVALID_ARGUMENT)


def test_the_longest_allowed_name_is_allowed(client: Wire) -> None:
    client.end(client.begin("r" * 250, "token"))


def test_scopes_must_be_some_distinct_and_not_too_many(client: Wire) -> None:
    for scopes in ([], ["token", "token"], [f"s{number}" for number in range(33)]):
        check_refusal(client.refused("BeginStep", begin(new_id(), *scopes)), "INVALID_ARGUMENT", C.INVALID_ARGUMENT)


def test_the_same_request_id_with_another_payload_is_refused(client: Wire, handle: str) -> None:
    request_id = new_id()
    first = client.call("IssueCredential", issue(handle, "token", request_id))
    refusal = client.refused("IssueCredential", issue(handle, "nothing-like-it", request_id))
    # Policy comes first: what may not be had at all is not told to be known.
    check_refusal(refusal, "ACCESS_DENIED", C.PERMISSION_DENIED)
    other = client.refused("EndStep", end(handle, request_id=request_id))
    check_refusal(other, "REQUEST_ID_REUSED", C.INVALID_ARGUMENT)
    assert client.heartbeat(handle, first.lease.lease_id).ended_lease_ids == []


def test_a_step_opened_for_somebody_else_is_refused(client: Wire) -> None:
    request = begin(new_id(), "token")
    request.on_behalf_of = f"spiffe://{TRUST_DOMAIN}/{REPORT}"
    check_refusal(client.refused("BeginStep", request), "ACCESS_DENIED", C.PERMISSION_DENIED)


# --- what is no request at all ---


@pytest.mark.parametrize("sent", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xff"])
def test_bytes_that_are_no_request_are_an_invalid_argument(broker: Deployment, load: Creds, sent: bytes) -> None:
    check_refusal(send_bytes(broker, load, "BeginStep", sent), "INVALID_ARGUMENT", C.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("method", "sent", "code"),
    [("BeginStep", b"x" * 100_000, C.RESOURCE_EXHAUSTED), ("NoSuchMethod", b"", C.UNIMPLEMENTED)],
)
def test_what_the_transport_refuses_by_itself_tells_nothing(
    broker: Deployment, load: Creds, method: str, sent: bytes, code: grpc.StatusCode
) -> None:
    refusal = send_bytes(broker, load, method, sent)
    assert refusal.code is code
    assert not [text for text in NEVER_TOLD if text in refusal.message]
