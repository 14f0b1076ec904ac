"""Revocation lists: what they end, and which of them are not believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import BrokerError, ConfigError, Reason
from broker.identity import Authenticator, CertificatePolicy
from broker.identity.authority import Authority, key_usage, new_authority
from broker.identity.bundle import Bundle, parse_bundle
from broker.identity.crl import Crls, parse_crls
from broker.model import Certificate
from tests.fakes.clock import FakeClock
from tests.support.certs import TestCA, revocation_list
from tests.support.doors import door, settle

ID = "spiffe://test.local/workflow/nightly/step/load"
PEM = Encoding.PEM


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(PEM) for one in certificates)


@pytest.fixture
def path(ca: TestCA, tmp_path: Path) -> Path:
    path = tmp_path / "agents.crl"
    path.write_bytes(revocation_list(ca.root).public_bytes(PEM))
    return path


def reason(authenticator: Authenticator, leaf: bytes, chain: bytes = b"") -> Reason | None:
    try:
        authenticator.authenticate(leaf, tls_version="TLSv1.3", peer="test", chain=chain)
    except BrokerError as error:
        return error.reason
    return None


def test_a_listed_certificate_is_refused_from_the_next_call_on(ca: TestCA, path: Path, clock: FakeClock) -> None:
    opened = door(ca.root_path, crls=[path])
    authenticator = Authenticator(opened, clock)
    first, second = ca.leaf(ID)[0], ca.leaf(ID)[0]
    assert reason(authenticator, pem(first)) is None
    path.write_bytes(revocation_list(ca.root, first.serial_number, number=2).public_bytes(PEM))
    looked = settle(opened)
    assert (looked.loaded, looked.moved) == ((f"agents' revocation list {path}",), True)
    assert reason(authenticator, pem(first)) is Reason.CERTIFICATE_REVOKED
    assert reason(authenticator, pem(second)) is None


def test_what_hangs_from_a_revoked_intermediate_is_refused(tmp_path: Path, clock: FakeClock, ca: TestCA) -> None:
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    (tmp_path / "roots.pem").write_bytes(pem(root.certificate))
    (tmp_path / "list").write_bytes(revocation_list(root, middle.certificate.serial_number).public_bytes(Encoding.DER))
    leaf = ca.leaf(ID, issuer=middle)[0]
    for crls, expected in (([], None), ([tmp_path / "list"], Reason.CERTIFICATE_REVOKED)):
        authenticator = Authenticator(door(tmp_path / "roots.pem", crls=crls), clock)
        assert reason(authenticator, pem(leaf), pem(middle.certificate)) is expected


def test_the_list_of_an_intermediate_that_clients_bring_along_counts(
    tmp_path: Path, clock: FakeClock, ca: TestCA
) -> None:
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    leaf = ca.leaf(ID, issuer=middle)[0]
    (tmp_path / "roots.pem").write_bytes(pem(root.certificate))
    (tmp_path / "list").write_bytes(revocation_list(middle, leaf.serial_number).public_bytes(PEM))
    authenticator = Authenticator(door(tmp_path / "roots.pem", crls=[tmp_path / "list"]), clock)
    assert reason(authenticator, pem(leaf), pem(middle.certificate)) is Reason.CERTIFICATE_REVOKED


def test_a_namesake_of_the_issuer_revokes_nothing(ca: TestCA, tmp_path: Path, clock: FakeClock) -> None:
    """Two CAs of one name: each one's list is about its own certificates."""
    other = new_authority("stepcred dev CA, agents of test.local", now=datetime.now(UTC))
    assert other.certificate.subject == ca.root.certificate.subject
    leaf = ca.leaf(ID)[0]
    (tmp_path / "roots.pem").write_bytes(ca.root_pem + pem(other.certificate))
    (tmp_path / "list").write_bytes(revocation_list(other, leaf.serial_number).public_bytes(PEM))
    assert reason(Authenticator(door(tmp_path / "roots.pem", crls=[tmp_path / "list"]), clock), pem(leaf)) is None


@pytest.mark.parametrize("refuse", [True, False])
def test_a_list_that_has_run_out(ca: TestCA, path: Path, clock: FakeClock, *, refuse: bool) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    path.write_bytes(revocation_list(ca.root, 7, next_update=soon).public_bytes(PEM))
    opened = door(ca.root_path, crls=[path])
    authenticator = Authenticator(opened, clock, CertificatePolicy(refuse_stale_crl=refuse))
    leaf = pem(ca.leaf(ID)[0])
    assert reason(authenticator, leaf) is None
    clock.advance(3601)
    assert reason(authenticator, leaf) is (Reason.CERTIFICATE_INVALID if refuse else None)
    assert "ran out" in opened.remarks(clock.now())[0]


STRANGER = new_authority("stranger", now=datetime.now(UTC))
PARTIAL = x509.IssuingDistributionPoint(
    full_name=[x509.UniformResourceIdentifier("http://ca/list")],
    relative_name=None,
    only_contains_user_certs=False,
    only_contains_ca_certs=True,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def whole(ca: TestCA) -> bytes:
    return revocation_list(ca.root).public_bytes(PEM)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda _: b"", "not a revocation list"),
        (lambda _: b"hello", "not a revocation list"),
        (lambda ca: whole(ca)[:200], "besides"),
        (lambda ca: whole(ca) + ca.root_pem, "besides"),
        (lambda ca: whole(ca) + b"-----BEGIN X509 CRL-----\n", "besides"),
        (lambda ca: whole(ca) * 257, "more than 256 lists"),
        (lambda ca: revocation_list(ca.root, extra=[(x509.DeltaCRLIndicator(1), True)]).public_bytes(PEM), "delta"),
        (lambda ca: revocation_list(ca.root, extra=[(PARTIAL, True)]).public_bytes(PEM), "only a part"),
        (lambda ca: revocation_list(ca.root, extra=[(UNKNOWN, True)]).public_bytes(PEM), "not understood"),
        (lambda ca: revocation_list(ca.root, signer=STRANGER).public_bytes(PEM), "not signed by"),
    ],
)
def test_what_is_no_list_is_refused_at_start_and_changes_nothing_later(
    ca: TestCA, path: Path, content: Callable[[TestCA], bytes], told: str
) -> None:
    opened = door(ca.root_path, crls=[path])
    before = opened.trust
    path.write_bytes(content(ca))
    looked = settle(opened)
    assert told in str(looked.refused)
    assert opened.trust is before
    assert "refused" in opened.remarks(datetime.now(UTC))[0]
    with pytest.raises(ConfigError, match=told):
        door(ca.root_path, crls=[path])


def namesake_of(root: Authority) -> Authority:
    (name,) = root.certificate.subject
    return new_authority(str(name.value), now=datetime.now(UTC))


def test_the_first_list_of_a_root_that_replaces_its_namesake_is_taken_with_it(
    ca: TestCA, path: Path, clock: FakeClock
) -> None:
    """Both files change at once, and the list is not signed by the root that is still in force."""
    opened = door(ca.root_path, crls=[path])
    renewed = namesake_of(ca.root)
    leaf = ca.leaf(ID, issuer=renewed)[0]
    ca.root_path.write_bytes(pem(renewed.certificate))
    path.write_bytes(revocation_list(renewed, leaf.serial_number).public_bytes(PEM))
    settle(opened)
    settle(opened)
    assert opened.remarks(clock.now()) == []
    assert reason(Authenticator(opened, clock), pem(leaf)) is Reason.CERTIFICATE_REVOKED


def parsed(root: Authority, *lists: x509.CertificateRevocationList, old: Crls | None = None) -> Crls:
    bundle: Bundle = parse_bundle(pem(root.certificate), "roots")
    return parse_crls([one.public_bytes(PEM) for one in lists], ["list"] * len(lists), bundle, old)


def test_an_older_list_does_not_undo_a_revocation(ca: TestCA) -> None:
    now = datetime.now(UTC)
    in_force = parsed(ca.root, revocation_list(ca.root, 7, number=5, last_update=now))
    for older in (
        revocation_list(ca.root, number=4, last_update=now),
        revocation_list(ca.root, number=5, last_update=now - timedelta(hours=1)),
        revocation_list(ca.root, number=None),
    ):
        with pytest.raises(ConfigError, match="older than the one in force"):
            parsed(ca.root, older, old=in_force)
    assert parsed(ca.root, revocation_list(ca.root, number=6), old=in_force)


def test_a_list_of_a_root_that_is_gone_does_not_undo_its_revocations(ca: TestCA) -> None:
    in_force = parsed(ca.root, revocation_list(ca.root, 7), revocation_list(STRANGER, 8))
    for left in (revocation_list(STRANGER, 8), revocation_list(ca.root, 7)):
        with pytest.raises(ConfigError, match="any more"):
            parsed(ca.root, left, old=in_force)
    new = new_authority("new", now=datetime.now(UTC))
    assert parsed(new, revocation_list(new, 9), revocation_list(STRANGER, 8), old=in_force), "its root is gone too"


def test_lists_of_parts_stand_beside_each_other(ca: TestCA) -> None:
    """Each for the certificates that name its place: they are numbered apart."""

    def part(name: str, serial: int, number: int) -> x509.CertificateRevocationList:
        place = x509.IssuingDistributionPoint(
            full_name=[x509.UniformResourceIdentifier(name)],
            relative_name=None,
            only_contains_user_certs=False,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        return revocation_list(ca.root, serial, number=number, extra=[(place, True)])

    both = parsed(ca.root, part("http://ca/1", 7, 9), part("http://ca/2", 8, 2))
    assert parsed(ca.root, part("http://ca/2", 8, 3), part("http://ca/1", 7, 9), old=both)
    with pytest.raises(ConfigError, match="any more"):
        parsed(ca.root, part("http://ca/1", 7, 10), old=both)
    with pytest.raises(ConfigError, match="older"):
        parsed(ca.root, part("http://ca/1", 7, 8), part("http://ca/2", 8, 2), old=both)


def test_a_ca_that_may_not_sign_lists_revokes_nothing(tmp_path: Path, clock: FakeClock, ca: TestCA) -> None:
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    extensions = [(x509.BasicConstraints(ca=True, path_length=0), True), (key_usage("key_cert_sign"), True)]
    powerless = ca.leaf(ID, issuer=root, uris=(), ca=None, usages=None, eku=None, key=middle.key, extra=extensions)[0]
    issuer = Authority(certificate=powerless, key=middle.key)
    leaf = ca.leaf(ID, issuer=issuer)[0]
    (tmp_path / "roots.pem").write_bytes(pem(root.certificate))
    (tmp_path / "list").write_bytes(revocation_list(issuer, leaf.serial_number).public_bytes(PEM))
    authenticator = Authenticator(door(tmp_path / "roots.pem", crls=[tmp_path / "list"]), clock)
    assert reason(authenticator, pem(leaf), pem(powerless)) is None


def test_what_was_opened_with_a_listed_certificate_is_found_by_issuer_and_serial(ca: TestCA) -> None:
    lists, issuer = parsed(ca.root, revocation_list(ca.root, 0x7B22)), ca.root.certificate.subject.rfc4514_string()
    assert lists.names(Certificate(serial_number="7b22", issuer=issuer))
    assert not lists.names(Certificate(serial_number="7b22", issuer="CN=other"))
    assert not lists.names(Certificate(serial_number="7b23", issuer=issuer))
    assert not lists.names(Certificate())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("tails", [b"", b"-----END X509 CRL-----\n" * 100_000])
def test_many_heads_without_an_end_are_refused_in_one_pass(tails: bytes) -> None:
    """Whoever may write the file must not be able to stop all reloads."""
    with pytest.raises(ConfigError, match="something besides revocation lists"):
        parse_crls([tails + b"-----BEGIN X509 CRL-----\n" * 100_000], ["a.crl"], Bundle(roots=(), pem=b""), None)


def test_a_new_ca_and_its_list_come_together(ca: TestCA, path: Path, clock: FakeClock, tmp_path: Path) -> None:
    """Of the same name, as after a change of its key: by the old bundle the list is signed by nobody."""
    new = TestCA(tmp_path / "new", "test.local")
    opened, leaf = door(ca.root_path, crls=[path]), new.leaf(ID)[0]
    ca.root_path.write_bytes(ca.root_pem + new.root_pem)
    path.write_bytes(
        b"".join(
            one.public_bytes(PEM) for one in (revocation_list(ca.root), revocation_list(new.root, leaf.serial_number))
        )
    )
    settle(opened)
    settle(opened)
    assert reason(Authenticator(opened, clock), pem(leaf)) is Reason.CERTIFICATE_REVOKED
    assert opened.remarks(clock.now()) == []


def test_a_bad_list_keeps_no_other_back(ca: TestCA, path: Path, clock: FakeClock, tmp_path: Path) -> None:
    """Whoever may write one file, or writes it all the time, must not keep another's revocations from being read."""
    second, leaf = tmp_path / "second.crl", ca.leaf(ID)[0]
    second.write_bytes(revocation_list(ca.root).public_bytes(PEM))
    opened = door(ca.root_path, crls=[path, second])
    path.write_bytes(b"bad")
    second.write_bytes(revocation_list(ca.root, leaf.serial_number, number=2).public_bytes(PEM))
    looked = settle(opened)
    assert looked.loaded == (f"agents' revocation list {second}",)
    assert list(looked.refused) == [f"agents' revocation list {path}"]
    assert reason(Authenticator(opened, clock), pem(leaf)) is Reason.CERTIFICATE_REVOKED


def test_another_issuers_list_does_not_take_the_place_of_one(ca: TestCA, path: Path, clock: FakeClock) -> None:
    """Lists come over plain HTTP: whoever sits on the way can put any CA's list there, and an issuer without one revokes
    nothing.
    """
    leaf = ca.leaf(ID)[0]
    path.write_bytes(revocation_list(ca.root, leaf.serial_number).public_bytes(PEM))
    opened = door(ca.root_path, crls=[path])
    path.write_bytes(revocation_list(STRANGER).public_bytes(PEM))
    assert "has no list of CN=stepcred dev CA" in str(settle(opened).refused)
    assert reason(Authenticator(opened, clock), pem(leaf)) is Reason.CERTIFICATE_REVOKED


def test_the_list_of_a_root_that_is_gone_may_go(ca: TestCA) -> None:
    in_force = parsed(ca.root, revocation_list(ca.root, 7))
    assert parsed(STRANGER, revocation_list(STRANGER), old=in_force).lists[0].issuer == "CN=stranger"


@pytest.mark.parametrize("named", ["by its key", "by nothing", "by another key"])
def test_a_forged_list_of_an_intermediate_undoes_no_revocation(
    tmp_path: Path, clock: FakeClock, ca: TestCA, named: str
) -> None:
    """Its signature can be checked only when a client brings the intermediate along."""
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    leaf = ca.leaf(ID, issuer=middle)[0]
    path = tmp_path / "list"
    (tmp_path / "roots.pem").write_bytes(pem(root.certificate))
    path.write_bytes(revocation_list(middle, leaf.serial_number).public_bytes(PEM))
    opened = door(tmp_path / "roots.pem", crls=[path])
    forger = new_authority("intermediate", now=datetime.now(UTC))
    forged = {
        "by its key": revocation_list(middle, number=9, signer=forger),
        "by nothing": unnamed(middle, forger),
        "by another key": revocation_list(forger, number=9),
    }[named]
    path.write_bytes(forged.public_bytes(PEM))
    looked = settle(opened)
    expected = Reason.CERTIFICATE_INVALID if looked.moved else Reason.CERTIFICATE_REVOKED
    assert looked.moved is (named == "by its key")
    assert reason(Authenticator(opened, clock), pem(leaf), pem(middle.certificate)) is expected


def unnamed(issuer: Authority, signer: Authority) -> x509.CertificateRevocationList:
    """Without the key identifier of its issuer."""
    now = datetime.now(UTC)
    made = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    made = made.last_update(now - timedelta(minutes=1)).next_update(now + timedelta(days=1))
    return made.sign(signer.key, SHA256())


def test_a_lists_signature_is_checked_once_for_each_issuer(ca: TestCA) -> None:
    """It may be 16 MB; a revoked agent that asks again and again would stop everybody."""
    (one,) = parsed(ca.root, revocation_list(ca.root, 7)).lists
    assert one.known == {ca.root.certificate: True}
    path = [ca.leaf(ID)[0], ca.root.certificate]
    assert not Crls(lists=(replace(one, signed=None),)).standing(path).revoked  # type: ignore[arg-type]
    others = [
        new_authority("stepcred dev CA, agents of test.local", now=datetime.now(UTC)).certificate for _ in range(70)
    ]
    assert not any(one.is_of(other) for other in others)
    assert len(one.known) <= 64


def test_a_list_that_ends_soon_is_told_in_the_last_tenth_of_its_life(ca: TestCA, path: Path) -> None:
    now = datetime.now(UTC)
    made = revocation_list(ca.root, last_update=now, next_update=now + timedelta(days=10))
    path.write_bytes(made.public_bytes(PEM))
    opened = door(ca.root_path, crls=[path])

    def told(after: timedelta, ahead: timedelta) -> bool:
        return any("revocation list" in what for what in opened.ending(now + after, ahead=ahead))

    week = timedelta(days=7)
    assert not told(timedelta(days=8, hours=23), week)
    assert told(timedelta(days=9, hours=1), week)
    assert not told(timedelta(days=9, hours=1), timedelta(hours=1))
    assert told(timedelta(days=9, hours=23, minutes=1), timedelta(hours=1))
    assert told(timedelta(days=11), week)
