"""The front door as a whole: federation, operators, the deny list, rotation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import BrokerError, ConfigError, Reason
from broker.identity import Authenticator, files, verify
from broker.identity.authority import new_authority
from broker.model import Certificate
from tests.fakes.clock import FakeClock
from tests.support.certs import TestCA
from tests.support.doors import door, settle

ID = "spiffe://test.local/workflow/nightly/step/load"
PARTNER = "spiffe://partner.example/workflow/nightly/step/load"


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def reason(authenticator: Authenticator, leaf: x509.Certificate) -> Reason | None:
    try:
        authenticator.authenticate(pem(leaf), tls_version="TLSv1.3", peer="test")
    except BrokerError as error:
        return error.reason
    return None


@pytest.fixture
def partner(tmp_path: Path) -> TestCA:
    return TestCA(tmp_path, "partner.example")


def test_each_domain_vouches_for_its_own_names_only(ca: TestCA, partner: TestCA, clock: FakeClock) -> None:
    opened = door(ca.root_path, federated={"partner.example": partner.root_path})
    checks = Authenticator(opened, clock)
    assert reason(checks, ca.leaf(ID)[0]) is None
    assert reason(checks, partner.leaf(PARTNER)[0]) is None
    assert reason(checks, partner.leaf(ID)[0]) is Reason.CERTIFICATE_INVALID
    assert reason(checks, ca.leaf(PARTNER)[0]) is Reason.CERTIFICATE_INVALID
    assert reason(checks, ca.leaf("spiffe://third.example/a")[0]) is Reason.TRUST_DOMAIN_FOREIGN
    assert reason(Authenticator(door(ca.root_path), clock), partner.leaf(PARTNER)[0]) is Reason.TRUST_DOMAIN_FOREIGN


def test_an_operator_is_no_agent_and_an_agent_is_no_operator(ca: TestCA, clock: FakeClock) -> None:
    opened = door(ca.root_path, operators=ca.operator_root_path)
    as_agent = Authenticator(opened, clock)
    as_operator = Authenticator(opened, clock, side=verify.operators)
    ann = x509.load_pem_x509_certificate(ca.operator("spiffe://test.local/operator/ann").cert.read_bytes())
    pretender = ca.leaf("spiffe://test.local/operator/ann")[0]
    assert (reason(as_operator, ann), reason(as_agent, ann)) == (None, Reason.CERTIFICATE_INVALID)
    assert (reason(as_operator, pretender), reason(as_agent, pretender)) == (Reason.CERTIFICATE_INVALID, None)


@pytest.mark.parametrize("tie", ["the same root", "the same key", "issued by the agents'", "issuer of the agents'"])
def test_operators_and_agents_have_no_root_in_common(ca: TestCA, tmp_path: Path, tie: str) -> None:
    roots, now = tmp_path / "operators.pem", datetime.now(UTC)
    agents = ca.root
    match tie:
        case "the same root":
            roots.write_bytes(ca.root_pem)
        case "the same key":
            renewed, _ = ca.leaf(ID, uris=(), ca=True, usages=("key_cert_sign",), eku=None, key=agents.key)
            roots.write_bytes(pem(renewed))
        case "issued by the agents'":
            roots.write_bytes(pem(new_authority("operators", now=now, issuer=agents).certificate))
        case _:
            above = new_authority("corporate", now=now, path_length=2)
            ca.root_path.write_bytes(pem(new_authority("agents", now=now, issuer=above).certificate))
            roots.write_bytes(pem(above.certificate))
    with pytest.raises(ConfigError, match="operators need an issuing CA of their own"):
        door(ca.root_path, operators=roots)


def test_i7_a_reload_that_would_join_them_is_refused_and_told_once(ca: TestCA, clock: FakeClock) -> None:
    opened = door(ca.root_path, operators=ca.operator_root_path)
    before, good = opened.trust, ca.operator_root_path.read_bytes()
    ca.operator_root_path.write_bytes(good + ca.root_pem)
    looked = settle(opened)
    assert "is in the agents' trust bundle too" in looked.refused["operators' trust bundle"][0]
    assert opened.trust is before
    assert not settle(opened).refused
    checks = Authenticator(opened, clock, side=verify.operators)
    assert reason(checks, ca.leaf("spiffe://test.local/operator/ann")[0]) is Reason.CERTIFICATE_INVALID
    ca.operator_root_path.write_bytes(good)
    settle(opened)
    assert opened.remarks(clock.now()) == []


def test_a_denial_that_comes_with_bundles_that_would_be_joined_is_in_force(ca: TestCA, tmp_path: Path) -> None:
    deny = tmp_path / "denied.toml"
    deny.write_text("")
    opened = door(ca.root_path, operators=ca.operator_root_path, deny=deny)
    operators = opened.trust.operators
    deny.write_text(f'[[denied]]\nagent = "{ID}"\n')
    ca.operator_root_path.write_bytes(ca.operator_root_path.read_bytes() + ca.root_pem)
    looked = settle(opened)
    assert (looked.loaded, list(looked.refused)) == (("deny list",), ["operators' trust bundle"])
    assert opened.denies(ID, Certificate())
    assert opened.trust.operators == operators


def test_a_bundle_that_another_was_refused_with_is_taken_when_that_is_good_again(ca: TestCA, clock: FakeClock) -> None:
    opened = door(ca.root_path, operators=ca.operator_root_path)
    good, newer = ca.operator_root_path.read_bytes(), new_authority("newer", now=datetime.now(UTC)).certificate
    ca.root_path.write_bytes(ca.root_pem + pem(newer))
    ca.operator_root_path.write_bytes(good + ca.root_pem)
    assert len(settle(opened).refused) == 2
    ca.operator_root_path.write_bytes(good + pem(new_authority("ops", now=datetime.now(UTC)).certificate))
    assert settle(opened).loaded
    settle(opened)
    assert newer in opened.trust.agents["test.local"].bundle.roots
    assert opened.remarks(clock.now()) == []


def test_i7_a_source_that_a_parser_fails_on_alarms_and_keeps_no_denial_away(
    ca: TestCA, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny = tmp_path / "denied.toml"
    deny.write_text("")
    opened = door(ca.root_path, deny=deny)
    monkeypatch.setattr(files, "parse_bundle", None)  # a mistake of ours: TypeError
    ca.root_path.write_bytes(ca.root_pem + pem(new_authority("new", now=datetime.now(UTC)).certificate))
    deny.write_text(f'[[denied]]\nagent = "{ID}"\n')
    looked = settle(opened)
    assert (looked.loaded, list(looked.refused)) == (("deny list",), ["agents' trust bundle"])
    assert opened.denies(ID, Certificate())
    assert "refused" in opened.remarks(clock.now())[0]


def test_a_denied_certificate_is_refused_from_the_next_call_on(ca: TestCA, tmp_path: Path, clock: FakeClock) -> None:
    deny = tmp_path / "denied.toml"
    deny.write_text("")
    opened = door(ca.root_path, deny=deny)
    checks = Authenticator(opened, clock)
    leaf, other = ca.leaf(ID)[0], ca.leaf(ID)[0]
    assert reason(checks, leaf) is None
    for entry in (f'serial = "{leaf.serial_number:x}"', f'agent = "{ID}"', ""):
        deny.write_text(f"[[denied]]\n{entry}\n" if entry else "")
        assert settle(opened).moved
        assert reason(checks, leaf) is (Reason.AGENT_DENIED if entry else None)
        assert reason(checks, other) is (Reason.AGENT_DENIED if "agent" in entry else None)


def test_a_root_that_is_removed_takes_its_certificates_along(ca: TestCA, clock: FakeClock) -> None:
    opened = door(ca.root_path)
    checks, leaf = Authenticator(opened, clock), ca.leaf(ID)[0]
    assert reason(checks, leaf) is None
    generation = opened.trust.generation
    ca.root_path.write_bytes(pem(new_authority("new", now=datetime.now(UTC)).certificate))
    assert settle(opened).loaded == ("agents' trust bundle",)
    assert opened.trust.generation == generation + 1
    assert reason(checks, leaf) is Reason.CERTIFICATE_INVALID


def test_the_servers_certificate_is_rotated_without_moving_the_trust(ca: TestCA) -> None:
    cert, key = ca.server()
    opened = door(ca.root_path, server=(cert, key))
    before, trust, old_key = opened.server, opened.trust, key.read_bytes()
    ca.server()
    looked = settle(opened)
    assert (looked.loaded, looked.moved) == (("server certificate",), False)
    assert opened.server.cert != before.cert
    assert opened.trust is trust
    key.write_bytes(old_key)
    assert "does not belong to" in str(settle(opened).refused)
    assert opened.server.key != old_key
    assert opened.remarks(datetime.now(UTC) + timedelta(days=25))[-1].startswith("the server's certificate ends at")


def test_another_servers_certificate_is_not_taken(ca: TestCA) -> None:
    opened = door(ca.root_path, server=ca.server(["localhost"]))
    before = opened.server
    ca.server(["elsewhere.example"])
    assert "names none of the hosts" in str(settle(opened).refused)
    assert opened.server is before
    ca.server(["elsewhere.example", "localhost"])
    assert settle(opened).loaded == ("server certificate",)


def test_a_root_that_two_domains_share_is_remarked_on(ca: TestCA, partner: TestCA, clock: FakeClock) -> None:
    opened = door(ca.root_path, federated={"partner.example": partner.root_path})
    assert opened.remarks(clock.now()) == []
    partner.root_path.write_bytes(partner.root_pem + ca.root_pem)
    settle(opened)
    (remark,) = opened.remarks(clock.now())
    assert "several trust domains, test.local, partner.example" in remark


def test_the_key_is_never_shown(ca: TestCA) -> None:
    opened = door(ca.root_path, server=ca.server())
    assert "PRIVATE" not in repr(opened.server)


def test_a_denial_that_comes_with_a_bundle_that_is_refused_counts(ca: TestCA, tmp_path: Path, clock: FakeClock) -> None:
    """Kubernetes swaps both at once."""
    deny, good = tmp_path / "denied.toml", ca.operator_root_path.read_bytes()
    deny.write_text("")
    opened = door(ca.root_path, operators=ca.operator_root_path, deny=deny)
    ca.operator_root_path.write_bytes(good + ca.root_pem)
    deny.write_text(f'[[denied]]\nagent = "{ID}"\n')
    looked = settle(opened)
    assert (looked.loaded, list(looked.refused)) == (("deny list",), ["operators' trust bundle"])
    assert reason(Authenticator(opened, clock), ca.leaf(ID)[0]) is Reason.AGENT_DENIED


def test_bundles_that_overlap_no_longer_are_judged_again(ca: TestCA, clock: FakeClock) -> None:
    """The refused one is at rest; what was wrong with it was the other."""
    opened = door(ca.root_path, operators=ca.operator_root_path)
    before = ca.root_path.read_bytes()
    ca.operator_root_path.write_bytes(before)
    assert "operators' trust bundle" in settle(opened).refused
    ca.root_path.write_bytes(pem(new_authority("new", now=datetime.now(UTC)).certificate))
    assert settle(opened).loaded == ("agents' trust bundle",)
    assert settle(opened).loaded == ("operators' trust bundle",)
    assert opened.trust.operators["test.local"].bundle.pem == before
    assert opened.remarks(clock.now()) == []
