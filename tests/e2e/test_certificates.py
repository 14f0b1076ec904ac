"""Certificates over the real daemon: from the SDK's key to the revocation list, and what time alone ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

import stepcred
from tests.e2e.leaks import files
from tests.e2e.world import LOAD, ROOMY, journal, leases
from tests.support.bao import BaoServer, TokenRole, provision, provision_pki, provision_ssh
from tests.support.daemon import Deployment, vault_section

SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  web: {vault: {role: e2e-certs, write: {path: pki/issue/e2e, data: {common_name: "{workflow}"}}}, ttl: 10m, tier: low}
  own: {vault: {role: e2e-certs, write: {path: pki/sign/e2e, input: csr}}, ttl: 10m, tier: low}
  ops: {vault: {role: e2e-certs, write: {path: ssh/sign/e2e, data: {valid_principals: ops}}}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [web, own, ops], max_step: 2h}
"""


@pytest.fixture(scope="module")
def made(bao: BaoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("certificates")
    provision_pki(bao, "e2e")
    provision_ssh(bao, "e2e")
    role = TokenRole(name="e2e-certs", writes=["pki/issue/e2e", "pki/sign/e2e", "ssh/sign/e2e"])
    login = provision(bao, folder, [role], broker="e2e-certs-broker")
    deployment = Deployment(folder / "daemon", SCOPES, vault=vault_section(bao, login), more=ROOMY)
    with deployment.daemon():
        yield deployment


def connected(made: Deployment) -> stepcred.Broker:
    agent = made.agent(LOAD)
    return stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca))


def on_the_list(bao: BaoServer, serial: str) -> bool:
    listed = x509.load_pem_x509_crl(bao.must("GET", "pki/cert/crl", token="").data["certificate"].encode())
    return listed.get_revoked_certificate_by_serial_number(int(serial.replace(":", ""), 16)) is not None


def csr() -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own.acme.internal")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    return request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def ssh_key() -> str:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def all_files(deployment: Deployment) -> bytes:
    """What the broker has written, its database among it."""
    found = files(deployment.folder)
    assert str(deployment.database) in found
    return b"".join(found.values())


def test_certificates_are_published_as_revoked_when_their_step_ends(made: Deployment, bao: BaoServer) -> None:
    with connected(made) as broker:
        with broker.step(workflow="nightly", run="x509", step="load", scopes=["web", "own"]) as step:
            web, own = step.issue("web"), step.issue("own", csr=csr())
            assert isinstance(web, stepcred.X509Certificate)
            assert isinstance(own, stepcred.X509Certificate)
            certificate = x509.load_pem_x509_certificate(web.certificate_pem.encode())
            assert certificate.subject.rfc4514_string() == "CN=nightly"  # from the certificate of the step
            assert web.private_key_pem
            assert not own.private_key_pem
            assert not on_the_list(bao, web.serial_number)
        assert step.all_proven
        assert [end.evidence.value for end in step.outcomes] == ["PUBLISHED", "PUBLISHED"]
    assert on_the_list(bao, web.serial_number)
    assert on_the_list(bao, own.serial_number)
    everything = all_files(made)
    secret = web.private_key_pem.splitlines()[1].encode()
    assert secret not in everything


def test_an_ssh_certificate_is_told_to_be_exposed_until_its_own_end(made: Deployment) -> None:
    with connected(made) as broker:
        with broker.step(workflow="nightly", run="ssh", step="load", scopes=["ops"]) as step:
            ops = step.issue("ops", public_key=ssh_key())
            assert isinstance(ops, stepcred.SshCertificate)
            assert ops.signed_key.startswith("ssh-ed25519-cert-v01@openssh.com ")
        (end,) = step.outcomes
    assert not step.all_proven
    assert end.state.value == "REVOKING"
    assert end.revocability.value == "EXPIRY_ONLY"
    assert end.exposed_until is not None
    assert timedelta(minutes=8) < end.exposed_until - datetime.now(UTC) <= timedelta(minutes=10)
    assert leases(made)[end.lease_id].last_problem == "ENDS_BY_TIME"


def test_an_ask_without_the_key_it_needs_is_told_so_and_is_no_attempt(made: Deployment) -> None:
    with connected(made) as broker, broker.step(workflow="nightly", run="bad", step="load", scopes=["own"]) as step:
        before = len(journal(made, "LEASE_INTENT"))
        with pytest.raises(stepcred.Refused, match="needs a csr") as refused:
            step.issue("own")
        assert refused.value.reason == "INVALID_ARGUMENT"
        assert len(journal(made, "LEASE_INTENT")) == before
        step.issue("own", csr=csr())


def test_what_the_caller_brought_is_nowhere_in_the_brokers_files(made: Deployment) -> None:
    """It is part of the request, by its hash only."""
    key = ssh_key()
    with connected(made) as broker, broker.step(workflow="nightly", run="row", step="load", scopes=["ops"]) as step:
        step.issue("ops", public_key=key)
    everything = all_files(made)
    assert key.split()[1].encode() not in everything
