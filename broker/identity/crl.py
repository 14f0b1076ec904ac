"""Certificate revocation lists (RFC 5280, section 5), from files that someone else keeps up to date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from broker.errors import ConfigError
from broker.identity.bundle import MALFORMED, Bundle
from broker.identity.extensions import find_extension
from broker.model import Certificate

MAX_BYTES = 16 << 20  # in-house bound: some 400,000 entries

MAX_LISTS = 256  # in-house bound, of one file: each is compared with each of those in force
_MOST_KNOWN = 64  # in-house bound: certificates of one issuer's name

_HEAD, _TAIL = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
# The critical extensions that are understood below; a list with another one may not be used (section 5.2).
_UNDERSTOOD = {x509.IssuingDistributionPoint.oid}


@dataclass(frozen=True, kw_only=True, slots=True)
class Crl:
    """One list of one issuer."""

    issuer: str  # RFC 4514
    issuer_der: bytes = field(repr=False)
    # Of the key that signed it, and DER of the part that it is of: another key or part is another row of lists.
    key_id: bytes = field(repr=False)
    part: bytes = field(repr=False)
    number: int
    this_update: datetime
    next_update: datetime
    serials: frozenset[int] = field(repr=False)
    signed: x509.CertificateRevocationList = field(repr=False)
    of_root: bool = False  # its signature was checked by a root when it was loaded
    # issuer's certificate → has it signed? Over 11 MB that takes 75 ms (measured), and every call may ask.
    known: dict[x509.Certificate, bool] = field(default_factory=dict, repr=False, compare=False)

    @property
    def row(self) -> tuple[bytes, bytes, bytes]:
        """Of lists with the same one the newest counts."""
        return self.issuer_der, self.key_id, self.part

    def is_of(self, issuer: x509.Certificate) -> bool:
        """Signed by this CA, which may sign lists."""
        if issuer.subject.public_bytes() != self.issuer_der:
            return False
        usage = find_extension(issuer, x509.KeyUsage)
        return (usage is None or usage.crl_sign) and self._signed_by(issuer)

    def is_forged(self, issuer: x509.Certificate) -> bool:
        """It says that this CA has signed it, and it has not."""
        if issuer.subject.public_bytes() != self.issuer_der or self.of_root:
            return False
        return self.key_id in (b"", *_key_ids(issuer)) and not self._signed_by(issuer)

    def _signed_by(self, issuer: x509.Certificate) -> bool:
        if issuer not in self.known:
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            try:
                valid = self.signed.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # any key will do
            except (*MALFORMED, InvalidSignature):
                valid = False
            self.known[issuer] = valid
        return self.known[issuer]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the lists say of a path of certificates."""

    revoked: bool
    until: datetime | None  # the first of the lists asked runs out then; None: none was asked
    forged: bool = False  # a list stands in the place of an issuer's, and is not its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Crls:
    """The lists of one trust domain. An issuer without a list revokes nothing."""

    lists: tuple[Crl, ...] = ()

    def standing(self, path: Sequence[x509.Certificate]) -> Standing:
        """`path`: leaf first, trust anchor last. Each certificate is looked for in its issuer's lists."""
        asked = [
            (certificate, one)
            for certificate, issuer in pairwise(path)
            for one in self.lists
            if one.issuer_der == certificate.issuer.public_bytes() and one.is_of(issuer)
        ]
        return Standing(
            revoked=any(certificate.serial_number in one.serials for certificate, one in asked),
            until=min((one.next_update for _, one in asked), default=None),
            forged=any(one.is_forged(issuer) for _, issuer in pairwise(path) for one in self.lists),
        )

    def names(self, certificate: Certificate) -> bool:
        """Is it listed under its issuer's name? For what was opened with it; a caller's own path is asked about instead."""
        if not certificate.serial_number:
            return False
        serial = int(certificate.serial_number, 16)
        return any(one.issuer == certificate.issuer and serial in one.serials for one in self.lists)


def parse_crls(contents: Sequence[bytes], labels: Sequence[str], bundle: Bundle, old: Crls | None) -> Crls:
    """Raises ConfigError for a list that is broken, partial, not signed by its issuer, older than the last one, or gone.

    A list whose issuer is not in the bundle is kept: its issuer may be an intermediate, which clients bring along.
    """
    problems: list[str] = []
    lists: list[Crl] = []
    for content, label in zip(contents, labels, strict=True):
        try:
            for one in _lists(content):
                _must_be_signed(one, bundle)
                _must_not_be_older(one, old)
                lists.append(replace(one, of_root=any(one.is_of(root) for root in bundle.roots)))
        except MALFORMED as error:
            problems.append(f"{label}: {error if isinstance(error, _Unusable) else 'not a revocation list'}")
    if old and not problems:
        problems = [f"{', '.join(labels)}: {problem}" for problem in _gone(lists, old, bundle)]
    if problems:
        raise ConfigError(problems)
    return Crls(lists=tuple(lists))


def _gone(lists: Sequence[Crl], old: Crls, bundle: Bundle) -> Iterator[str]:
    """Whoever can put another issuer's list in place of one would undo its revocations.

    An issuer without a list revokes nothing.
    """
    there = {one.row for one in lists}
    for before in old.lists:
        retired = before.of_root and not any(before.is_of(root) for root in bundle.roots)
        if before.row not in there and not retired:
            yield f"has no list of {before.issuer} any more; when its CA is gone, restart the broker"


class _Unusable(ValueError):
    """A list that is well-formed and says too little, or too much."""


def _lists(content: bytes) -> Iterator[Crl]:
    if b"-----BEGIN" not in content:
        yield _crl(x509.load_der_x509_crl(content))
        return
    *found, _ = content.split(_TAIL)  # in one pass: a pattern takes hours over 16 MiB of heads without an end
    if content.count(b"-----BEGIN") != len(found) or any(_HEAD not in pem for pem in found):
        raise _Unusable("holds something besides revocation lists")
    if len(found) > MAX_LISTS:
        raise _Unusable(f"holds more than {MAX_LISTS} lists; spread them over several files")
    for pem in found:
        yield _crl(x509.load_pem_x509_crl(pem[pem.index(_HEAD) :] + _TAIL))


def _crl(signed: x509.CertificateRevocationList) -> Crl:
    for extension in signed.extensions:
        if extension.oid == x509.DeltaCRLIndicator.oid:
            raise _Unusable("is a delta list; give the whole one")
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _Unusable("has a critical extension that is not understood")
        if isinstance(point := extension.value, x509.IssuingDistributionPoint) and (
            point.indirect_crl
            or point.only_some_reasons
            or point.only_contains_attribute_certs
            or point.only_contains_ca_certs
        ):
            raise _Unusable("covers only a part of what its issuer revokes")
    if signed.next_update_utc is None:
        raise _Unusable("does not say when the next one comes (nextUpdate)")
    return Crl(
        issuer=signed.issuer.rfc4514_string(),
        issuer_der=signed.issuer.public_bytes(),
        key_id=_key_id(signed),
        part=_part(signed),
        number=_number(signed),
        this_update=signed.last_update_utc,
        next_update=signed.next_update_utc,
        serials=frozenset(entry.serial_number for entry in signed),
        signed=signed,
    )


def _number(signed: x509.CertificateRevocationList) -> int:
    found = find_extension(signed, x509.CRLNumber)
    return found.crl_number if found else 0


def _key_id(signed: x509.CertificateRevocationList) -> bytes:
    found = find_extension(signed, x509.AuthorityKeyIdentifier)
    return (found.key_identifier or b"") if found else b""


def _part(signed: x509.CertificateRevocationList) -> bytes:
    """What its distribution point says; b"" for a list of everything."""
    found = find_extension(signed, x509.IssuingDistributionPoint)
    return found.public_bytes() if found else b""


def _key_ids(issuer: x509.Certificate) -> list[bytes]:
    """How lists name its key: as it says itself, and as others reckon it."""
    reckoned = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
    said = find_extension(issuer, x509.SubjectKeyIdentifier)
    return [reckoned, said.digest] if said else [reckoned]


def _must_be_signed(one: Crl, bundle: Bundle) -> None:
    namesakes = [root for root in bundle.roots if root.subject.public_bytes() == one.issuer_der]
    if namesakes and not any(one.is_of(root) for root in namesakes):
        raise _Unusable("is not signed by the CA that it names")


def _must_not_be_older(one: Crl, old: Crls | None) -> None:
    """Whoever can put an old list back would undo a revocation."""
    for before in old.lists if old else ():
        if before.row == one.row and (one.number, one.this_update) < (before.number, before.this_update):
            raise _Unusable(f"is older than the one in force (number {one.number}, after {before.number})")
