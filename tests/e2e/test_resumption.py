"""Live connections and session tickets against the real daemon: neither outlives what it was let in with.

With a mutant that believes a connection once and for all: tests/unit/rpc/test_resumption.py.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.identity.authority import new_authority
from tests.e2e.world import LOAD, ROOMY
from tests.support.certs import Creds
from tests.support.corpus.der import der_of, pem
from tests.support.daemon import TRUST_DOMAIN, Deployment, without_provider
from tests.support.h2_client import Connection, connected, context_for
from tests.support.processes import wait_until
from tests.support.tls13 import TlsRefused

AGENT = f"spiffe://{TRUST_DOMAIN}/{LOAD}"
PROMISED = 1.0  # seconds from a change of a file to the refusal
TRIES = 3  # one of which must keep the promise: this machine may be busy with something else
SOON = 5.0


@pytest.fixture(scope="module")
def deny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lists") / "denied.toml"
    made.write_text("")
    return made


@pytest.fixture(scope="module")
def deployment(deny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = without_provider(tmp_path_factory.mktemp("resumption"), **ROOMY)
    tls = {"cert_file": str(made.server_cert), "key_file": str(made.server_key)}
    made.more = {**made.more, "tls": {**tls, "client_ca_file": str(made.ca.root_path), "deny_file": str(deny_file)}}
    made.write_config()
    with made.daemon(ready=made.alive):
        yield made


@pytest.fixture(scope="module")
def server_root(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Apart from the bundle of agents' roots, which a test changes."""
    made = tmp_path_factory.mktemp("root") / "root.pem"
    made.write_bytes(deployment.ca.root_pem)
    return made


def context_of(creds: Creds, root: Path) -> ssl.SSLContext:
    return context_for(Creds(cert=creds.cert, key=creds.key, ca=root))


def offered(deployment: Deployment, context: ssl.SSLContext, session: ssl.SSLSession) -> str:
    """What becomes of a call on a new connection that resumes this session: "" when it is answered."""
    try:
        with connected(deployment.grpc_port, context, session) as again:
            answer = again.call("WhoAmI")
            assert again.resumed
            assert bool(answer.reason) == (answer.message is None)
            return answer.reason
    except TlsRefused:
        return "refused by TLS"


def test_a_session_is_resumed(deployment: Deployment, server_root: Path) -> None:
    context = context_of(deployment.agent(LOAD), server_root)
    with connected(deployment.grpc_port, context) as first:
        assert first.call("WhoAmI").message is not None
        session = first.session
    assert session.has_ticket
    assert offered(deployment, context, session) == "", "so that what follows is about resumed sessions"


def test_the_first_call_after_expiry_is_refused(deployment: Deployment, server_root: Path) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    context = context_of(deployment.ca.agent(AGENT, not_after=ends), server_root)
    with connected(deployment.grpc_port, context) as live:
        assert live.call("WhoAmI").message is not None
        wait_until(lambda: datetime.now(UTC) > ends, within=SOON, what="expiry")
        assert live.call("WhoAmI").reason == "CERTIFICATE_EXPIRED"
        assert offered(deployment, context, live.session) == "CERTIFICATE_EXPIRED"


def refused_within(live: Connection, reason: str, change: Callable[[], object]) -> float:
    """Seconds from the change to the refusal on a connection that was open all the time."""
    start = time.monotonic()
    change()
    wait_until(lambda: live.call("WhoAmI").reason == reason, within=SOON, what=reason)
    return time.monotonic() - start


def served_again(live: Connection) -> None:
    wait_until(lambda: live.call("WhoAmI").message is not None, within=SOON, what="served again")


def test_a_denied_agent_is_refused_within_a_second(deployment: Deployment, server_root: Path, deny_file: Path) -> None:
    context = context_of(deployment.agent(LOAD), server_root)
    entry = f'[[denied]]\nagent = "{AGENT}"\n'
    with connected(deployment.grpc_port, context) as live:
        took = []
        for _ in range(TRIES):
            served_again(live)
            took.append(refused_within(live, "AGENT_DENIED", lambda: deny_file.write_text(entry)))
            assert offered(deployment, context, live.session) == "AGENT_DENIED"
            deny_file.write_text("")
            if took[-1] <= PROMISED:
                break
        served_again(live)
    assert min(took) <= PROMISED


def test_nobody_of_a_removed_ca_is_served_a_second_later(deployment: Deployment, server_root: Path) -> None:
    bundle, before = deployment.ca.root_path, deployment.ca.root_pem
    successor = pem(der_of(new_authority("successor", now=datetime.now(UTC)).certificate))
    context = context_of(deployment.agent(LOAD), server_root)
    with connected(deployment.grpc_port, context) as live:
        took = []
        for _ in range(TRIES):
            served_again(live)
            took.append(refused_within(live, "CERTIFICATE_INVALID", lambda: bundle.write_bytes(successor)))
            assert offered(deployment, context, live.session) == "refused by TLS", "other roots, other tickets"
            bundle.write_bytes(before)
            if took[-1] <= PROMISED:
                break
        served_again(live)
    assert min(took) <= PROMISED
