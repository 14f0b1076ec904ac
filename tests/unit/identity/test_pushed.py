"""The front door over what a SPIFFE agent pushes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from broker.clock import SystemClock
from broker.errors import BrokerError, ConfigError, Reason
from broker.identity import Authenticator, FrontDoor
from broker.identity.authority import Authority, key_usage, new_authority, new_builder
from broker.identity.door import DomainSources, Looked
from broker.identity.pushed import pushed_bundle, pushed_server
from broker.identity.workload_api import WorkloadApi
from tests.fakes.workload_agent import FakeAgent, response, svid
from tests.support.certs import TestCA
from tests.support.waiting import until

BROKER = "spiffe://test.local/stepcred-broker"
AGENT = "spiffe://test.local/workflow/nightly/step/load"
THEIRS = "spiffe://partner.local/workflow/nightly/step/load"


class House:
    """An agent, and a front door with a federated domain."""

    def __init__(self, agent: FakeAgent, folder: Path) -> None:
        self.agent = agent
        self.ca, self.partner = TestCA(folder), TestCA(folder, "partner.local")
        self.mine = svid(self.ca, BROKER, hosts=["localhost"])
        self.both = response(self.mine, federated={"partner.local": [self.partner.root.certificate]})
        agent.push(self.both)
        self.api = WorkloadApi(agent.address, SystemClock(), trust_domain="test.local")
        self.api.start(timedelta(seconds=10))
        self.door = FrontDoor(
            agents={
                "test.local": DomainSources(bundle=pushed_bundle(self.api, "test.local", "agents' trust bundle")),
                "partner.local": DomainSources(bundle=pushed_bundle(self.api, "partner.local", "partner's")),
            },
            server=pushed_server(self.api, lambda: datetime.now(UTC)),
            agent=self.api,
        )
        self.checks = Authenticator(self.door, SystemClock())

    def after(self, message: object) -> Looked:
        """What the door makes of this push."""
        before = self.api.generation
        self.agent.push(message)  # type: ignore[arg-type]
        assert until(lambda: self.api.generation > before)
        return self.door.look()

    def reason(self, leaf: x509.Certificate) -> Reason | None:
        try:
            self.checks.authenticate(leaf.public_bytes(Encoding.PEM), tls_version="TLSv1.3", peer="test")
        except BrokerError as error:
            return error.reason
        return None

    @property
    def remarks(self) -> list[str]:
        return self.door.remarks(datetime.now(UTC))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="wl-") as short, FakeAgent(Path(short) / "agent.sock") as agent:
        made = House(agent, tmp_path)
        yield made
        made.api.close()


def test_each_domains_bundle_vouches_for_its_own_names_only(house: House) -> None:
    assert house.reason(house.ca.leaf(AGENT)[0]) is None
    assert house.reason(house.partner.leaf(THEIRS)[0]) is None
    assert house.reason(house.partner.leaf(AGENT)[0]) is Reason.CERTIFICATE_INVALID
    assert house.reason(house.ca.leaf(THEIRS)[0]) is Reason.CERTIFICATE_INVALID
    assert house.remarks == []


def test_a_pushed_domain_that_the_config_does_not_name_is_foreign(house: House, tmp_path: Path) -> None:
    third = TestCA(tmp_path, "third.local")
    bundles = {"partner.local": [house.partner.root.certificate], "third.local": [third.root.certificate]}
    assert not house.after(response(house.mine, federated=bundles)).moved
    assert house.reason(third.leaf("spiffe://third.local/a")[0]) is Reason.TRUST_DOMAIN_FOREIGN


def test_a_root_that_is_pushed_no_more_takes_its_certificates_along(house: House) -> None:
    leaf = house.ca.leaf(AGENT)[0]
    assert house.reason(leaf) is None
    new = new_authority("new", now=datetime.now(UTC)).certificate
    looked = house.after(response(svid(house.ca, BROKER, hosts=["localhost"], roots=[new])))
    assert looked.moved
    assert house.reason(leaf) is Reason.CERTIFICATE_INVALID


def test_a_federation_that_ended_lets_nobody_in_and_is_told(house: House) -> None:
    leaf = house.partner.leaf(THEIRS)[0]
    assert house.reason(leaf) is None
    assert house.after(response(house.mine)).moved
    assert house.reason(leaf) is Reason.TRUST_DOMAIN_FOREIGN
    assert house.reason(house.ca.leaf(AGENT)[0]) is None
    assert house.remarks == ["partner.local: nothing vouches for its agents"]
    assert house.after(house.both).moved
    assert house.reason(leaf) is None


def test_a_new_pair_is_shown_without_moving_the_trust(house: House) -> None:
    new = svid(house.ca, BROKER, hosts=["localhost"])
    looked = house.after(response(new, federated={"partner.local": [house.partner.root.certificate]}))
    assert (looked.loaded, looked.moved) == (("server certificate",), False)
    assert house.door.server.cert == new.chain[0].public_bytes(Encoding.PEM)


def test_what_cannot_be_served_with_keeps_the_last_good_pair(house: House) -> None:
    """I7. Refused once, remarked on until it is good."""
    before = house.door.server
    for bad, words in (
        (svid(house.ca, BROKER), "names no host"),
        (svid(house.ca, BROKER, hosts=["localhost"], not_after=datetime.now(UTC)), "expired at"),
        (svid(house.ca, BROKER, hosts=["localhost"], key=ed25519.Ed25519PrivateKey.generate()), "Ed25519"),
    ):
        looked = house.after(response(bad, federated={"partner.local": [house.partner.root.certificate]}))
        assert words in str(looked.refused)
        assert "tls.workload_api: the pushed certificate" in str(looked.refused)
        assert house.door.server is before
        assert house.door.look().refused == {}
        assert any("server certificate: what is there now is refused" in remark for remark in house.remarks)
    house.after(house.both)
    assert house.remarks == []


def test_a_root_that_is_no_ca_is_not_believed(house: House) -> None:
    """I7: a leaf among the roots would make its holder an issuer in some verifiers."""
    leaf, key = house.ca.leaf(AGENT)
    looked = house.after(response(svid(house.ca, BROKER, hosts=["localhost"], roots=[leaf])))
    assert "certificate 1 is not a CA" in str(looked.refused)
    assert house.reason(leaf) is None
    assert key is not None


@pytest.mark.parametrize("upstream", [False, True], ids=["self-signed", "upstream authority"])
def test_certificates_of_spires_own_shape_come_in(house: House, upstream: bool) -> None:  # noqa: FBT001
    """As SPIRE makes them (read in its pkg/server/credtemplate): a URI name and a serial number in its CAs, three usages."""
    root = _spire_ca(None) if upstream else None
    issuing = _spire_ca(root)
    roots = [(root or issuing).certificate]
    issuer = issuing if upstream else None
    usages = ("digital_signature", "key_encipherment", "key_agreement")
    broker = svid(house.ca, BROKER, hosts=["localhost"], issuer=issuing, roots=roots, usages=usages)
    assert house.after(response(broker)).refused == {}
    step = svid(house.ca, AGENT, issuer=issuing, roots=roots, usages=usages)
    leaf, chain = (one.public_bytes(Encoding.PEM) for one in step.chain)
    sent = chain if issuer else b""
    agent = house.checks.authenticate(leaf, tls_version="TLSv1.3", peer="test", chain=sent)
    assert agent.spiffe_id == AGENT


def _spire_ca(issuer: Authority | None) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(x509.random_serial_number())),
        ]
    )
    extensions = (
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://test.local")]), False),
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (key_usage("key_cert_sign", "crl_sign"), True),
    )
    builder = new_builder(subject, key.public_key(), now - timedelta(seconds=10), now + timedelta(days=1), extensions)
    itself = Authority(certificate=builder.issuer_name(subject).sign(key, hashes.SHA256()), key=key)
    if issuer is None:
        return itself
    return Authority(certificate=issuer.sign(builder.add_extension(issuer.key_identifier, critical=False)), key=key)


def test_an_agent_that_is_away_is_remarked_on(house: House) -> None:
    house.agent.stop()
    assert until(lambda: house.remarks != [])
    assert "cannot be reached" in house.remarks[0]


def test_a_broker_without_a_name_for_its_host_does_not_start(house: House) -> None:
    house.after(response(svid(house.ca, BROKER)))
    with pytest.raises(ConfigError, match="names no host"):
        pushed_server(house.api, lambda: datetime.now(UTC))
