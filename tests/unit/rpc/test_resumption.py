"""A resumed TLS session, and a live connection, outlive the certificate; the check on every call does not care.

So that one layer alone is seen, the pipeline here sits behind static credentials, which go on resuming after the CA has
gone as well. The daemon's own: tests/e2e/test_resumption.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.clock import SystemClock
from broker.config import Limits
from broker.identity import Authenticator, FrontDoor
from broker.identity.authority import new_authority
from broker.model import Agent
from broker.rpc import server
from tests.fakes.world import LOAD
from tests.support.corpus.der import der_of, pem
from tests.support.doors import door, settle
from tests.support.h2_client import connected, context_for
from tests.support.processes import wait_until
from tests.unit.rpc.conftest import Edge

LIFE = timedelta(seconds=3)  # of a certificate that a test sees the end of


class PerConnection(Authenticator):
    """A mutant: whoever has been let in stays in for as long as the connection lasts."""

    def authenticate(self, pem: bytes, *, tls_version: str, peer: str, chain: bytes = b"") -> Agent:
        return self.once(peer, pem, tls_version=tls_version, peer=peer, chain=chain)

    def once(self, key: object, pem: bytes, **shown: Any) -> Agent:
        known: dict[object, Agent] = self.__dict__.setdefault("known", {})
        if key not in known:
            known[key] = super().authenticate(pem, **shown)
        return known[key]


class PerSession(PerConnection):
    """A mutant: the session that the handshake agreed on is believed, and resuming it is no new session."""

    def authenticate(self, pem: bytes, *, tls_version: str, peer: str, chain: bytes = b"") -> Agent:
        return self.once(pem, pem, tls_version=tls_version, peer=peer, chain=chain)


@dataclass(kw_only=True)
class Resuming:
    """The pipeline behind credentials that resume sessions."""

    edge: Edge
    port: int
    door: FrontDoor
    deny_file: Path

    def use(self, kind: type[Authenticator]) -> None:
        """On the real clock, since the TLS layer is on it."""
        self.edge.pipeline._authenticator = kind(self.door, SystemClock())

    def before_and_after(self, event: Callable[[datetime], None]) -> tuple[str, str]:
        """A certificate is served; then `event` comes: the reasons on the live and on the resumed connection."""
        ends = datetime.now(UTC).replace(microsecond=0) + LIFE
        context = context_for(self.edge.ca.agent(LOAD, not_after=ends))
        with connected(self.port, context) as live:
            assert live.call("WhoAmI").message is not None
            session = live.session
            with connected(self.port, context, session) as resumed:
                assert resumed.resumed, "this server must resume, or the test shows nothing"
                assert resumed.call("WhoAmI").message is not None
            event(ends)
            on_live = live.call("WhoAmI")
            with connected(self.port, context, session) as resumed:
                assert resumed.resumed, "the TLS layer does not ask again: that is what this test is about"
                on_resumed = resumed.call("WhoAmI")
        for answer in (on_live, on_resumed):
            assert bool(answer.reason) == (answer.message is None)
        return on_live.reason, on_resumed.reason

    def expire(self, ends: datetime) -> None:
        wait_until(lambda: datetime.now(UTC) > ends, within=10, what="expiry")

    def remove_ca(self, _ends: datetime) -> None:
        other = new_authority("successor", now=datetime.now(UTC))
        self.edge.ca.root_path.write_bytes(pem(der_of(other.certificate)))
        assert settle(self.door).moved

    def deny(self, _ends: datetime) -> None:
        self.deny_file.write_text(f'[[denied]]\nagent = "{LOAD}"\n')
        assert settle(self.door).moved


@pytest.fixture
async def resuming(edge: Edge, tmp_path: Path) -> AsyncIterator[Resuming]:
    certificate, key = edge.ca.server()
    pair = (key.read_bytes(), certificate.read_bytes())
    made, port = server.build(
        listen="127.0.0.1:0",
        setting="listen.grpc",
        credentials=grpc.ssl_server_credentials([pair], edge.ca.root_pem, require_client_auth=True),
        limits=Limits(),
        pipeline=edge.pipeline,
        servicer=edge.servicer,
    )
    await made.start()
    deny_file = tmp_path / "denied.toml"
    deny_file.write_text("")
    opened = door(edge.ca.root_path, "dev.local", deny=deny_file)
    yield Resuming(edge=edge, port=port, door=opened, deny_file=deny_file)
    await made.stop(None)


EVENTS: dict[str, tuple[Callable[[Resuming, datetime], None], str]] = {
    "expiry": (Resuming.expire, "CERTIFICATE_EXPIRED"),
    "removal of the CA": (Resuming.remove_ca, "CERTIFICATE_INVALID"),
    "a deny-list entry": (Resuming.deny, "AGENT_DENIED"),
}


@pytest.mark.parametrize("event", EVENTS)
async def test_the_next_call_is_refused_on_live_and_on_resumed_connections(event: str, resuming: Resuming) -> None:
    happens, reason = EVENTS[event]
    resuming.use(Authenticator)
    found = await asyncio.to_thread(resuming.before_and_after, lambda ends: happens(resuming, ends))
    assert found == (reason, reason)


@pytest.mark.parametrize(("mutant", "found"), [(PerConnection, ("", "CERTIFICATE_INVALID")), (PerSession, ("", ""))])
async def test_a_mutant_that_remembers_whom_it_let_in_is_found_out(
    mutant: type[Authenticator], found: tuple[str, str], resuming: Resuming
) -> None:
    resuming.use(mutant)
    assert await asyncio.to_thread(resuming.before_and_after, resuming.remove_ca) == found
