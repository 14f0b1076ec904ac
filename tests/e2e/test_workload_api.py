"""The real daemon with a SPIFFE agent instead of files, and steps that have one too."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

import stepcred
from tests.e2e.wire import Refusal, refusal_of, wire
from tests.e2e.world import LOAD, ROOMY, journal
from tests.fakes.workload_agent import Day, FakeAgent, Svid, response, svid
from tests.support.certs import Creds, TestCA
from tests.support.daemon import PYTHON, TRUST_DOMAIN, Deployment, without_provider
from tests.support.processes import wait_until

BROKER = f"spiffe://{TRUST_DOMAIN}/stepcred-broker"
HOSTS = ["localhost", "127.0.0.1"]
PARTNER = "partner.example"
SOON = 3.0  # seconds; a change is in force within one, on a machine that has time for it
HASTY = """
import datetime, sys
from broker.__main__ import main
from broker.wiring import listeners

listeners.AGENT_WAIT = datetime.timedelta(seconds=0.5)
sys.exit(main())
"""


class House:
    """A daemon without a certificate on disk, its agent, and the agent of the steps' machine."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.deployment = without_provider(folder / "broker")
        self.ca, self.partner = self.deployment.ca, TestCA(folder, PARTNER)
        self.agent, self.steps = FakeAgent(sockets / "broker.sock"), FakeAgent(sockets / "steps.sock")
        tls = {"workload_api": self.agent.address}
        self.deployment.more = {**ROOMY, "tls": tls, "federation": {PARTNER: {}}}
        self.deployment.write_config()
        self.good = self.push()

    def push(self, *, roots: list[x509.Certificate] | None = None, federated: bool = True, **changes: Any) -> Svid:
        """A new certificate of the broker's, and the bundles of this moment."""
        made = svid(self.ca, BROKER, roots=roots, **{"hosts": HOSTS, **changes})
        bundles = {PARTNER: [self.partner.root.certificate]} if federated else {}
        self.agent.push(response(made, federated=bundles))
        return made

    def connect(self) -> stepcred.Broker:
        """As a step with an agent does."""
        api = stepcred.WorkloadApi(socket=self.steps.address)
        return stepcred.connect(f"localhost:{self.deployment.grpc_port}", workload_api=api)

    def step(self) -> Svid:
        """A new certificate for the steps."""
        made = svid(self.ca, f"spiffe://{TRUST_DOMAIN}/{LOAD}")
        self.steps.push(response(made))
        return made

    @property
    def shown(self) -> bytes:
        """The certificate that the server shows to a new connection, PEM."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", self.deployment.grpc_port), timeout=5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"").encode()

    def shows(self, made: Svid) -> bool:
        return self.shown == made.chain[0].public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="wl-") as short:
        made = House(tmp_path_factory.mktemp("workload-api"), Path(short))
        with made.agent, made.steps, made.deployment.daemon(ready=made.deployment.alive):
            yield made


@pytest.fixture
def deployment(house: House) -> Deployment:
    """Served with what is good, whatever the test before has pushed."""
    made = house.push()
    house.step()
    wait_until(lambda: house.shows(made), within=10, what="the new certificate")
    return house.deployment


def refused_soon(ask: Any) -> Refusal:
    found: list[Refusal] = []

    def is_refused() -> bool:
        try:
            ask()
        except grpc.RpcError as error:
            found.append(refusal_of(error))
        return bool(found)

    wait_until(is_refused, within=SOON, what="the refusal")
    return found[0]


def answered(ask: Any) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(ask())
    return False


def test_both_sides_rotate_under_load_and_no_call_fails(house: House, deployment: Deployment) -> None:
    """Four steps call without a pause while each side gets five certificates and both agents restart."""
    stop, counted = threading.Event(), [0]
    failures: list[BaseException] = []

    def load(broker: stepcred.Broker) -> None:
        while not stop.is_set():
            try:
                broker.whoami()
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is counted)
                failures.append(error)
                return
            counted[0] += 1

    with house.connect() as broker:
        threads = [threading.Thread(target=load, args=(broker,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(5):
            if number == 2:
                for agent in (house.agent, house.steps):
                    agent.stop()
                    agent.start()
            theirs, ours = house.push(), house.step()
            wait_until(lambda: house.shows(theirs), within=10, what="the broker's new certificate")  # noqa: B023
            wait_until(lambda: _uses(broker, ours), within=10, what="the step's new certificate")  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    assert counted[0] > 50


def _uses(broker: stepcred.Broker, made: Svid) -> bool:
    return broker.whoami().certificate_sha256 == made.chain[0].fingerprint(hashes.SHA256()).hex()


def test_a_root_that_is_pushed_no_more_closes_a_live_connection_to_its_agents(
    house: House, deployment: Deployment, tmp_path: Path
) -> None:
    other = TestCA(tmp_path, TRUST_DOMAIN)
    made = other.agent(f"spiffe://{TRUST_DOMAIN}/{LOAD}")
    guest, own = Creds(cert=made.cert, key=made.key, ca=house.ca.root_path), deployment.agent(LOAD)
    house.push(roots=[house.ca.root.certificate, other.root.certificate])
    wait_until(lambda: _let_in(deployment, guest), within=SOON, what="the newcomer is let in")
    with wire(deployment, guest) as client, wire(deployment, own) as honest:
        assert client.whoami()
        assert honest.whoami()
        house.push()
        assert refused_soon(client.whoami).reason == "CERTIFICATE_INVALID"
        assert honest.whoami()
    assert journal(deployment, "TRUST_LOADED")[-1]["data"]["generation"] > 0


def _let_in(deployment: Deployment, creds: Creds) -> bool:
    with wire(deployment, creds) as client:
        return answered(client.whoami)


def test_a_federated_bundle_is_used_for_its_own_domain_only(house: House, deployment: Deployment) -> None:
    def guest(spiffe_id: str) -> Creds:
        made = house.partner.agent(spiffe_id, other_names=())  # the CA itself is honest, and makes no liars
        return Creds(cert=made.cert, key=made.key, ca=house.ca.root_path)

    with wire(deployment, guest(f"spiffe://{PARTNER}/{LOAD}")) as client:
        assert client.whoami().spiffe_id.startswith(f"spiffe://{PARTNER}/")
        with wire(deployment, guest(f"spiffe://{TRUST_DOMAIN}/{LOAD}")) as liar:
            assert refused_soon(liar.whoami).reason == "CERTIFICATE_INVALID"
        house.push(federated=False)
        assert refused_soon(client.whoami).reason == "TRUST_DOMAIN_FOREIGN"


def test_bad_pushes_change_nothing_and_are_told(house: House, deployment: Deployment) -> None:
    """I7: one that nothing can be read of, and one that cannot be served with."""
    with wire(deployment, deployment.agent(LOAD)) as client:
        before, refused = house.shown, len(journal(deployment, "TRUST_REFUSED"))
        house.push(hosts=[])
        wait_until(lambda: len(journal(deployment, "TRUST_REFUSED")) > refused, within=SOON, what="the refusal")
        assert "names no host" in str(journal(deployment, "TRUST_REFUSED")[-1]["data"]["problems"])
        garbage = response(house.good)
        garbage.svids[0].bundle = b"junk"
        house.agent.push(garbage)
        wait_until(lambda: "sent what cannot be used" in deployment.log.read_text(), within=SOON, what="the warning")
        assert house.shown == before
        assert client.whoami()
        assert "front door needs a look" in deployment.http("readyz")[1]
    assert "PRIVATE KEY" not in deployment.log.read_text()


def test_the_broker_serves_while_its_agent_is_away(house: House, deployment: Deployment) -> None:
    house.agent.stop()
    wait_until(lambda: "cannot be reached" in deployment.log.read_text(), within=SOON, what="the warning")
    with house.connect() as broker:
        assert broker.whoami().spiffe_id.endswith(LOAD)
    house.agent.start()
    made = house.push()
    wait_until(lambda: house.shows(made), within=10, what="the certificate of the agent that is back")


def test_without_an_identity_neither_check_nor_serve_is_content(house: House, deployment: Deployment) -> None:
    house.agent.turn(Day.DENYING)
    for command, code in (("check", os.EX_CONFIG), ("serve", os.EX_UNAVAILABLE)):
        arguments = [command, "--config", str(deployment.config)]
        done = subprocess.run(
            [PYTHON, "-c", HASTY, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code
        assert "has the broker an entry there?" in done.stderr
    house.agent.turn(Day.GOOD)
