"""The front door of the real daemon, while its files change: nobody is told to reload, no connection is closed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from broker.__main__ import main
from broker.model import LeaseState
from broker.process import replace_file
from stepcred.v1 import broker_pb2 as pb
from stepcred.v1 import operator_pb2
from stepcred.v1.operator_pb2_grpc import BrokerOperatorStub
from tests.e2e.wire import Refusal, check_refusal, new_id, refusal_of, wire
from tests.e2e.world import LOAD, REPORT, Site, journal, leases
from tests.support.certs import Creds, TestCA, revocation_list
from tests.support.daemon import TRUST_DOMAIN, Deployment
from tests.support.processes import free_port, wait_until

C = grpc.StatusCode
SOON = 3.0  # seconds; a change is in force within one, on a machine that has time for it
PARTNER = "partner.example"


GUEST = f'  guest: {{id: "spiffe://{PARTNER}/workflow/{{workflow}}/step/load", owners: [group:partner]}}\n'
GUESTS = "  guests: {workloads: [guest], workflows: [nightly], scopes: [token], max_step: 1h}\n"


class House:
    """A daemon with everything that a front door can have."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.partner = TestCA(folder, PARTNER)
        self.operators_port = free_port()
        self.crl, self.deny = folder / "agents.crl", folder / "denied.toml"
        self.deny.write_text("")
        self.people = folder / "operators.yaml"
        self.people.write_text("version: 1\noperators: [ann]\n")  # a mistake: nobody has a role
        made = site.deployment()
        text = site.scope_map.replace("workloads:\n", f"federates_with: [{PARTNER}]\nworkloads:\n" + GUEST, 1)
        made.scopes_file.write_text(text.replace("grants:\n", "grants:\n" + GUESTS, 1))
        self.write_crl(made, number=1)
        made.more = {
            **made.more,
            "tls": {
                "cert_file": str(made.server_cert),
                "key_file": str(made.server_key),
                "client_ca_file": str(made.ca.root_path),
                "crl_files": [str(self.crl)],
                "deny_file": str(self.deny),
            },
            "federation": {PARTNER: {"client_ca_file": str(self.partner.root_path)}},
            "operators": {
                "client_ca_file": str(made.ca.operator_root_path),
                "listen": f"127.0.0.1:{self.operators_port}",
                "file": str(self.people),
            },
        }
        made.write_config()
        self.deployment = made

    def write_crl(self, made: Deployment, *serials: int, number: int) -> None:
        self.crl.write_bytes(revocation_list(made.ca.root, *serials, number=number).public_bytes(Encoding.PEM))

    def operator(self, creds: Creds) -> BrokerOperatorStub:
        credentials = grpc.ssl_channel_credentials(
            self.deployment.ca.root_pem, creds.key.read_bytes(), creds.cert.read_bytes()
        )
        return BrokerOperatorStub(grpc.secure_channel(f"127.0.0.1:{self.operators_port}", credentials))


@pytest.fixture(scope="module")
def house(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(site, tmp_path_factory.mktemp("house"))
    with house.deployment.daemon():
        yield house


@pytest.fixture
def deployment(house: House) -> Deployment:
    return house.deployment


def serial_of(creds: Creds) -> int:
    return x509.load_pem_x509_certificate(creds.cert.read_bytes()).serial_number


def refused_soon(ask: Callable[[], object]) -> Refusal:
    """The refusal of a call that was answered until now."""
    found: list[Refusal] = []

    def is_refused() -> bool:
        try:
            ask()
        except grpc.RpcError as error:
            found.append(refusal_of(error))
        return bool(found)

    wait_until(is_refused, within=SOON, what="the refusal")
    return found[0]


def test_a_denied_agent_is_refused_at_once_and_all_that_it_has_dies(house: House, deployment: Deployment) -> None:
    with wire(deployment, deployment.agent(LOAD)) as thief, wire(deployment, deployment.agent(REPORT)) as honest:
        stolen, kept = thief.begin(new_id(), "token"), honest.begin(new_id(), "reports", step="report")
        lease, others = thief.issue(stolen, "token").lease.lease_id, honest.issue(kept, "reports").lease.lease_id
        honest.heartbeat(kept, others)
        house.deny.write_text(f'[[denied]]\nagent = "spiffe://{TRUST_DOMAIN}/{LOAD}"\nwhy = "its key was in a log"\n')
        refusal = refused_soon(thief.whoami)
        check_refusal(refusal, "AGENT_DENIED", C.UNAUTHENTICATED, journalled=False)
        wait_until(lambda: lease not in house.site.live_leases(), within=10, what="its credential is dead")
        assert others in house.site.live_leases()
        house.deny.write_text("")
        wait_until(lambda: answered(thief.whoami), within=SOON, what="it is let in again")
        assert thief.refused("Heartbeat", pb.HeartbeatRequest(step_handle=stolen)).reason == "STEP_ENDED"
        assert honest.end(kept).all_proven
    (ended,) = [row for row in journal(deployment, "STEP_ENDED") if row["reason"] == "AGENT_DENIED"]
    assert ended["agent"].endswith(LOAD)
    wait_until(lambda: leases(deployment)[lease].state is LeaseState.REVOKED, within=10, what="the evidence")


def answered(ask: Callable[[], object]) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(ask())
    return False


def test_what_a_stolen_key_asked_for_dies_and_the_renewed_certificate_goes_on(
    house: House, deployment: Deployment
) -> None:
    stolen, renewed = deployment.agent(LOAD), deployment.agent(LOAD)
    with wire(deployment, renewed) as honest, wire(deployment, stolen) as thief:
        handle = honest.begin(new_id(), "token")
        kept, taken = (one.issue(handle, "token").lease.lease_id for one in (honest, thief))
        honest.heartbeat(handle, kept, taken)
        assert main(["deny", "add", "--file", str(house.deny), "--cert", str(stolen.cert)]) == 0
        check_refusal(refused_soon(thief.whoami), "AGENT_DENIED", C.UNAUTHENTICATED, journalled=False)
        wait_until(lambda: taken not in house.site.live_leases(), within=10, what="what the thief has is dead")
        assert kept in house.site.live_leases()
        assert honest.end(handle).all_proven
    house.deny.write_text("")


def test_a_revoked_certificate_is_refused_on_its_live_connection(house: House, deployment: Deployment) -> None:
    first, second = deployment.agent(LOAD), deployment.agent(LOAD)
    with wire(deployment, first) as client, wire(deployment, second) as renewed:
        handle = client.begin(new_id(), "token")
        house.write_crl(deployment, serial_of(first), number=2)
        check_refusal(refused_soon(client.whoami), "CERTIFICATE_REVOKED", C.UNAUTHENTICATED, journalled=False)
        assert renewed.whoami()
        house.write_crl(deployment, number=1)  # an older list undoes nothing
        wait_until(lambda: older_refused(deployment), within=SOON, what="the older list is refused")
        assert client.refused("WhoAmI", pb.WhoAmIRequest()).reason == "CERTIFICATE_REVOKED"
        house.write_crl(deployment, number=3)
        wait_until(lambda: answered(client.whoami), within=SOON, what="the newer one counts")
        assert renewed.end(handle).all_proven


def older_refused(deployment: Deployment) -> bool:
    return any("older than" in str(row["data"]["problems"]) for row in journal(deployment, "TRUST_REFUSED"))


def test_bundles_change_under_a_live_connection_and_a_bad_one_changes_nothing(
    deployment: Deployment, tmp_path: Path
) -> None:
    bundle, original = deployment.ca.root_path, deployment.ca.root_pem
    other = TestCA(tmp_path, TRUST_DOMAIN)
    made = other.agent(f"spiffe://{TRUST_DOMAIN}/{LOAD}")
    newcomer = Creds(cert=made.cert, key=made.key, ca=tmp_path / "server-root.pem")
    newcomer.ca.write_bytes(original)
    loaded = len(journal(deployment, "TRUST_LOADED"))
    bundle.write_bytes(original + other.root_pem)
    wait_until(lambda: len(journal(deployment, "TRUST_LOADED")) > loaded, within=SOON, what="the new bundle")
    with wire(deployment, newcomer) as guest:
        assert guest.whoami()
        for content, mode in ((b"-----BEGIN CERTIFICATE-----\nnonsense\n", 0o644), (original, 0o666)):
            refused = len(journal(deployment, "TRUST_REFUSED"))
            bundle.write_bytes(content)
            bundle.chmod(mode)
            wait_until(lambda: len(journal(deployment, "TRUST_REFUSED")) > refused, within=SOON, what="the refusal")  # noqa: B023
            assert guest.whoami()
            assert "front door needs a look" in deployment.http("readyz")[1]
            bundle.write_bytes(original + other.root_pem)
        bundle.chmod(0o644)
        bundle.write_bytes(original)
        check_refusal(refused_soon(guest.whoami), "CERTIFICATE_INVALID", C.UNAUTHENTICATED, journalled=False)


def shown(deployment: Deployment, agent: Creds) -> bytes:
    """The certificate that the server shows to a new connection, DER."""
    context = ssl.create_default_context(cafile=str(deployment.ca.root_path))
    context.load_cert_chain(agent.cert, agent.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", deployment.grpc_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def test_a_new_server_certificate_is_shown_to_new_connections_and_a_bad_one_never(deployment: Deployment) -> None:
    agent, key = deployment.agent(LOAD), deployment.server_key.read_bytes()
    with wire(deployment, agent) as client:
        before = shown(deployment, agent)
        deployment.ca.server()  # over the old files
        wait_until(lambda: shown(deployment, agent) != before, within=SOON, what="the new certificate")
        after, refused = shown(deployment, agent), len(journal(deployment, "TRUST_REFUSED"))
        deployment.server_key.write_bytes(key)  # which does not belong to the new certificate
        wait_until(lambda: len(journal(deployment, "TRUST_REFUSED")) > refused, within=SOON, what="the refusal")
        assert shown(deployment, agent) == after
        assert client.whoami(), "on the connection that was open all the time"


def test_an_operator_has_a_listener_of_its_own(house: House, deployment: Deployment) -> None:
    ann = deployment.ca.operator(f"spiffe://{TRUST_DOMAIN}/operator/ann")
    told = house.operator(ann).GetOperator(operator_pb2.GetOperatorRequest(), timeout=5)
    assert (told.spiffe_id, told.environment) == (f"spiffe://{TRUST_DOMAIN}/operator/ann", "dev")
    front = house.operator(ann).GetFrontDoor(operator_pb2.GetFrontDoorRequest(), timeout=5)
    assert [domain.name for domain in front.agents] == [TRUST_DOMAIN, PARTNER]
    assert [one.issuer for one in front.agents[0].revocation_lists] != []
    assert front.server_certificate_not_after.ToDatetime(UTC) > datetime.now(UTC)
    pretender = deployment.agent("operator/ann")
    with pytest.raises(grpc.RpcError) as refused:
        house.operator(pretender).GetOperator(operator_pb2.GetOperatorRequest(), timeout=5)
    assert refused.value.code() is C.UNAVAILABLE, "not even a handshake"
    assert "Handshake failed" not in deployment.log.read_text(), "strangers would fill the log"
    operator = Creds(cert=ann.cert, key=ann.key, ca=deployment.ca.root_path)
    with wire(deployment, operator) as client, pytest.raises(grpc.RpcError) as at_agents:
        client._stub.WhoAmI(pb.WhoAmIRequest(), timeout=5)
    assert at_agents.value.code() is C.UNAVAILABLE


def admin(house: House, operator: Creds, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        "STEPCRED_ADMIN_ADDR": f"localhost:{house.operators_port}",
        "STEPCRED_ADMIN_CERT": str(operator.cert),
        "STEPCRED_ADMIN_KEY": str(operator.key),
        "STEPCRED_ADMIN_CA": str(operator.ca),
    }
    argv = [str(Path(sys.executable).with_name("stepcred")), "admin", *arguments]
    return subprocess.run(argv, env=os.environ | env, capture_output=True, text=True, timeout=30, check=False)


def test_an_operator_at_the_command_line(house: House, deployment: Deployment) -> None:
    ann = deployment.ca.operator(f"spiffe://{TRUST_DOMAIN}/operator/ann")
    told = admin(house, ann, "whoami")
    assert (told.returncode, told.stderr) == (0, "")
    assert f"spiffe://{TRUST_DOMAIN}/operator/ann" in told.stdout
    told = admin(house, ann, "front-door", "--json")
    found = json.loads(told.stdout)
    assert [domain["name"] for domain in found["agents"]] == [TRUST_DOMAIN, PARTNER]
    assert (told.returncode == 1) is bool(found["remarks"])
    assert "revoked" in admin(house, ann, "front-door").stdout
    refused = admin(house, deployment.agent("operator/ann"), "whoami")
    assert (refused.returncode, refused.stdout) == (77, "")
    assert "certificate" in refused.stderr
    refused = admin(house, replace(ann, cert=Path("/nowhere")), "whoami")
    assert (refused.returncode, "STEPCRED_ADMIN_CERT: cannot read" in refused.stderr) == (78, True)


def test_i7_a_bad_operators_file_gives_nobody_a_role_and_takes_none_away(house: House, deployment: Deployment) -> None:
    identity = f"spiffe://{TRUST_DOMAIN}/operator/bob"
    bob = house.operator(deployment.ca.operator(identity))

    def roles() -> list[str]:
        return list(bob.GetOperator(operator_pb2.GetOperatorRequest(), timeout=5).roles)

    assert roles() == [], "at a start with a bad file"
    with wire(deployment, deployment.agent(LOAD)) as client:
        assert client.whoami(), "agents are served all the same"
    for good, given in (("[responder]", "responder"), ("[approver]", "approver")):
        text = f"version: 1\noperators:\n  bob: {{ids: ['{identity}'], roles: {good}}}\n"
        replace_file(house.people, text)
        wait_until(lambda given=given: given in roles(), within=10, what="the role")  # type: ignore[misc]
    replace_file(house.people, text.replace("approver", "emperor"))
    wait_until(lambda: len(journal(deployment, "OPERATORS_REFUSED")) == 2, within=10, what="the refusal")
    assert "approver" in roles(), "the last good one stays"
    loaded = [row["data"]["operators"] for row in journal(deployment, "OPERATORS_LOADED")]
    assert loaded == [{"bob": ["responder"]}, {"bob": ["approver"]}]


def test_a_partners_agent_comes_in_under_its_own_name_only(house: House, deployment: Deployment) -> None:
    agent = house.partner.agent(f"spiffe://{PARTNER}/workflow/nightly/step/load")
    guest = Creds(cert=agent.cert, key=agent.key, ca=deployment.ca.root_path)
    with wire(deployment, guest) as client:
        assert client.whoami().spiffe_id.startswith(f"spiffe://{PARTNER}/")
        handle = client.begin(new_id(), "token")
        assert client.issue(handle, "token").credential.vault_token.token
        assert client.end(handle).all_proven
    agent = house.partner.agent(f"spiffe://{TRUST_DOMAIN}/{LOAD}", other_names=())
    liar = Creds(cert=agent.cert, key=agent.key, ca=deployment.ca.root_path)
    with wire(deployment, liar) as client:
        check_refusal(
            client.refused("WhoAmI", pb.WhoAmIRequest()), "CERTIFICATE_INVALID", C.UNAUTHENTICATED, journalled=False
        )
