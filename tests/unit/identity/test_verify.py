from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import BrokerError, Reason
from broker.identity import Authenticator, CertificatePolicy, FrontDoor, verify
from broker.identity.authority import Authority, key_usage, name_of, new_authority, new_builder
from broker.model import Agent
from tests.fakes.clock import FakeClock
from tests.support.certs import TestCA
from tests.support.doors import door, settle

ID = "spiffe://test.local/workflow/nightly/step/load"
POLICY = CertificatePolicy()


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def ask(authenticator: Authenticator, leaf: bytes, chain: bytes = b"") -> Agent:
    return authenticator.authenticate(leaf, chain=chain, tls_version="TLSv1.3", peer="test")


def refusal(authenticator: Authenticator, leaf: bytes, chain: bytes = b"") -> Reason:
    with pytest.raises(BrokerError) as caught:
        ask(authenticator, leaf, chain)
    return caught.value.reason


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.1", "", "TLSv1.30", "tlsv1.3"])
def test_only_tls_1_3(version: str, ca: TestCA, authenticator: Authenticator) -> None:
    with pytest.raises(BrokerError) as caught:
        authenticator.authenticate(ca.agent(ID).cert.read_bytes(), tls_version=version, peer="test")
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


def test_expiry_is_checked_on_every_call_not_once(ca: TestCA, authenticator: Authenticator, clock: FakeClock) -> None:
    leaf = ca.agent(ID).cert.read_bytes()
    agent = ask(authenticator, leaf)
    clock.set_wall(agent.not_after)
    assert ask(authenticator, leaf) == agent, "valid through its last second (RFC 5280, section 4.1.2.5)"
    clock.advance(1)
    assert refusal(authenticator, leaf) is Reason.CERTIFICATE_EXPIRED


def test_a_clock_that_goes_back_makes_a_known_certificate_invalid(
    ca: TestCA, authenticator: Authenticator, clock: FakeClock
) -> None:
    leaf = ca.agent(ID).cert.read_bytes()
    ask(authenticator, leaf)
    clock.advance(-3600)
    assert refusal(authenticator, leaf) is Reason.CERTIFICATE_INVALID


def test_a_known_certificate_dies_with_the_root_above_it(ca: TestCA, trust: FrontDoor, clock: FakeClock) -> None:
    long_policy = CertificatePolicy(max_lifetime=timedelta(days=400))
    authenticator = Authenticator(trust, clock, long_policy)
    leaf = pem(ca.leaf(ID, not_after=datetime.now(UTC) + timedelta(days=300))[0])
    ask(authenticator, leaf)
    clock.set_wall(ca.root.certificate.not_valid_after_utc + timedelta(seconds=1))
    assert refusal(authenticator, leaf) is Reason.CERTIFICATE_INVALID


def test_removing_a_root_refuses_what_was_accepted_a_call_ago(
    ca: TestCA, authenticator: Authenticator, trust: FrontDoor
) -> None:
    leaf = ca.agent(ID).cert.read_bytes()
    ask(authenticator, leaf)
    other = new_authority("successor", now=datetime.now(UTC))
    ca.root_path.write_bytes(pem(other.certificate))
    assert settle(trust)
    assert refusal(authenticator, leaf) is Reason.CERTIFICATE_INVALID
    assert ask(authenticator, pem(ca.leaf(ID, issuer=other)[0])).spiffe_id == ID


def test_i7_a_bad_bundle_leaves_the_last_good_roots(ca: TestCA, authenticator: Authenticator, trust: FrontDoor) -> None:
    good, stranger = ca.agent(ID).cert.read_bytes(), new_authority("stranger", now=datetime.now(UTC))
    ca.root_path.write_bytes(
        pem(stranger.certificate) + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    assert settle(trust).refused.keys() == {"agents' trust bundle"}
    assert ask(authenticator, good).spiffe_id == ID
    assert refusal(authenticator, pem(ca.leaf(ID, issuer=stranger)[0])) is Reason.CERTIFICATE_INVALID


def test_intermediates_that_the_client_sends_are_used(ca: TestCA, tmp_path: Path, clock: FakeClock) -> None:
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    (tmp_path / "roots.pem").write_bytes(pem(root.certificate))
    authenticator = Authenticator(door(tmp_path / "roots.pem"), clock, POLICY)
    leaf, _ = ca.leaf(ID, issuer=middle)
    assert refusal(authenticator, pem(leaf)) is Reason.CERTIFICATE_INVALID
    assert ask(authenticator, pem(leaf), pem(middle.certificate)).spiffe_id == ID
    assert ask(authenticator, pem(leaf), pem(leaf, middle.certificate)).spiffe_id == ID, "leaf included or not"
    assert refusal(authenticator, pem(leaf)) is Reason.CERTIFICATE_INVALID, "decided on all bytes, not on the leaf's"


def root_with(ca: TestCA, *extensions: tuple[x509.ExtensionType, bool]) -> Authority:
    """The test root's key under another self-signed certificate."""
    now, itself = datetime.now(UTC), name_of("odd root")
    builder = new_builder(itself, ca.root.key.public_key(), now, now + timedelta(days=1), extensions)
    unsigned = Authority(certificate=ca.root.certificate, key=ca.root.key)
    certificate = unsigned.sign(builder)
    return Authority(certificate=certificate, key=ca.root.key)


@pytest.mark.parametrize(
    ("extension", "accepted"),
    [
        ((key_usage("key_cert_sign"), True), True),
        ((key_usage("crl_sign"), True), False),
        ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False), True),
        ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False), False),
        ((x509.NameConstraints([x509.UniformResourceIdentifier("other.local")], None), True), False),
    ],
)
def test_a_root_vouches_only_as_far_as_it_says(
    ca: TestCA, trust: FrontDoor, clock: FakeClock, extension: tuple[x509.ExtensionType, bool], *, accepted: bool
) -> None:
    odd = root_with(ca, (x509.BasicConstraints(ca=True, path_length=None), True), extension)
    ca.root_path.write_bytes(pem(odd.certificate))
    settle(trust)
    authenticator, leaf = Authenticator(trust, clock, POLICY), pem(ca.leaf(ID, issuer=odd)[0])
    if accepted:
        assert ask(authenticator, leaf).spiffe_id == ID
    else:
        assert refusal(authenticator, leaf) is Reason.CERTIFICATE_INVALID


def test_a_root_of_openssl_without_key_usage_will_do(ca: TestCA, trust: FrontDoor, clock: FakeClock) -> None:
    odd = root_with(ca, (x509.BasicConstraints(ca=True, path_length=None), True))
    ca.root_path.write_bytes(pem(odd.certificate))
    settle(trust)
    assert ask(Authenticator(trust, clock, POLICY), pem(ca.leaf(ID, issuer=odd)[0])).spiffe_id == ID


def test_of_one_certificate_each_call_tells_where_it_comes_from(ca: TestCA, authenticator: Authenticator) -> None:
    """The journal names it, and grants may be held to it: what is remembered of a certificate must not say it."""
    leaf = ca.agent(ID).cert.read_bytes()
    for number in 2 * [*range(verify.PEERS_KEPT + 3)]:
        agent = authenticator.authenticate(leaf, tls_version="TLSv1.3", peer=f"ipv4:10.0.0.{number}:4000")
        assert (agent.peer, agent.address) == (f"ipv4:10.0.0.{number}:4000", f"10.0.0.{number}")
    (known,) = authenticator._cache.values()
    assert len(known.agents) <= verify.PEERS_KEPT


def test_the_cache_is_bounded_and_still_right(
    ca: TestCA, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "CACHE_ENTRIES", 3)
    leaves = {f"spiffe://test.local/a{n}": pem(ca.leaf(f"spiffe://test.local/a{n}")[0]) for n in range(6)}
    for _ in range(2):
        for spiffe_id, leaf in leaves.items():
            assert ask(authenticator, leaf).spiffe_id == spiffe_id
    assert len(authenticator._cache) == 3


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a byte of the serial number was changed
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_certificate_changed_in_any_byte_is_refused_with_a_reason(
    position: int, value: int, ca: TestCA, authenticator: Authenticator
) -> None:
    der = bytearray(ca.leaf(ID)[0].public_bytes(Encoding.DER))
    position %= len(der)
    if der[position] == value:
        return
    der[position] = value
    body = x509_pem(bytes(der))
    with pytest.raises(BrokerError):
        ask(authenticator, body)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_what_is_known_of_a_certificate_is_not_known_of_one_that_differs_in_a_bit(
    ca: TestCA, authenticator: Authenticator
) -> None:
    der = ca.leaf(ID)[0].public_bytes(Encoding.DER)
    assert ask(authenticator, x509_pem(der)).spiffe_id == ID
    for position in range(len(der)):
        changed = bytearray(der)
        changed[position] ^= 1
        with pytest.raises(BrokerError):
            ask(authenticator, x509_pem(bytes(changed)))


def x509_pem(der: bytes) -> bytes:
    from base64 import encodebytes

    return b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_cas_of_a_strangers_own_do_not_lead_the_search_astray(
    tmp_path: Path, clock: FakeClock, ca: TestCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make a CA with the name and public key of an honest one, below CAs that sign each other: the verifier
    tries every way up through them, until it gives up.
    """
    now = datetime.now(UTC)
    root = new_authority("root", now=now, path_length=1)
    middle = ca.intermediate(issuer=root)
    (tmp_path / "roots.pem").write_bytes(pem(root.certificate))
    stranger = new_authority("stranger", now=now)
    until, fields = now + timedelta(days=1), [(x509.BasicConstraints(ca=True, path_length=None), True)]

    def forged(name: x509.Name, key: Any) -> x509.Certificate:
        return stranger.sign(new_builder(name, key, now - timedelta(minutes=1), until, fields))

    subject = stranger.certificate.subject
    fakes = [forged(middle.certificate.subject, middle.key.public_key())]
    fakes += [forged(subject, stranger.key.public_key()) for _ in range(6)]
    leaf = pem(ca.leaf(ID, issuer=middle)[0])
    chain = pem(*fakes, middle.certificate)
    assert ask(Authenticator(door(tmp_path / "roots.pem"), clock), leaf, chain)
    monkeypatch.setattr(verify, "below", lambda _, brought: brought)  # the mutant
    assert refusal(Authenticator(door(tmp_path / "roots.pem"), clock), leaf, chain) is Reason.CERTIFICATE_INVALID
