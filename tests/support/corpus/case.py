"""One client certificate of the corpus: how it is made, and what must become of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from broker.errors import Reason
from broker.identity.authority import Authority, Extensions, key_usage, name_of, new_authority, new_builder
from tests.support.certs import PrivateKey, TestCA, revocation_list
from tests.support.corpus.der import Tbs, der_of, ecdsa, pem, tbs_of, whole
from tests.support.corpus.keys import curve_key, rsa_key

TRUST_DOMAIN, PARTNER = "dev.local", "partner.example"
ID = f"spiffe://{TRUST_DOMAIN}/workflow/nightly/step/load"
ADMIN = f"spiffe://{TRUST_DOMAIN}/admin"


class Door(Enum):
    """Where it is shown."""

    AGENTS = "agents"
    OPERATORS = "operators"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a client shows in the handshake: a chain, leaf first (DER), and the key that it signs with."""

    chain: tuple[bytes, ...]
    key: PrivateKey
    spiffe_id: str = ID  # whom a broker would take it for
    door: Door = Door.AGENTS

    @property
    def leaf_pem(self) -> bytes:
        return pem(self.chain[0]) if self.chain else b""

    @property
    def chain_pem(self) -> bytes:
        """Without the leaf, as gRPC shows it."""
        return b"".join(pem(one) for one in self.chain[1:])


class Pki:
    """The authorities that the corpus hangs from. Their roots together are the daemon's trust bundle.

    An entry may leave something behind here for whoever sets the broker up.
    """

    def __init__(self, ca: TestCA) -> None:
        assert ca.trust_domain == TRUST_DOMAIN
        self.ca = ca
        self.root = ca.root  # path length 0
        self.now = datetime.now(UTC)
        self.deep = new_authority("root of chains", now=self.now, path_length=None)
        self.rsa = self._root("RSA root", rsa_key(2048))
        self.big = self._root("P-521 root", curve_key(ec.SECP521R1))
        self.old = self._root("old root", curve_key(ec.SECP256R1), days=(-9, -1))
        self.middle = self.intermediate("middle")
        self.partner = TestCA(ca.directory, PARTNER)  # a federated domain
        self.denied: list[dict[str, str]] = []  # entries of the deny list
        self._revoked: dict[str, tuple[Authority, list[int], datetime]] = {}  # by the issuer's name

    def _root(self, name: str, key: PrivateKey, days: tuple[int, int] = (-1, 9)) -> Authority:
        signing: Any = key  # an Authority signs with any key that takes a hash
        start, end = (self.now + timedelta(days=one) for one in days)
        ca: Extensions = ((x509.BasicConstraints(ca=True, path_length=0), True),)
        builder = new_builder(name_of(name), key.public_key(), start, end, ca).issuer_name(name_of(name))
        return Authority(certificate=builder.sign(signing, hashes.SHA256()), key=signing)

    @property
    def bundle(self) -> bytes:
        """PEM of every root."""
        roots = (self.root, self.deep, self.rsa, self.big, self.old)
        return b"".join(pem(der_of(one.certificate)) for one in roots)

    def revoke(self, issuer: Authority, *certificates: x509.Certificate, until: datetime | None = None) -> None:
        """Put them on their issuer's list, which is good until then (a day)."""
        start: tuple[Authority, list[int], datetime] = (issuer, [], until or self.now + timedelta(days=1))
        _, serials, _ = self._revoked.setdefault(issuer.certificate.subject.rfc4514_string(), start)
        serials += [one.serial_number for one in certificates]

    def revocation_lists(self) -> list[x509.CertificateRevocationList]:
        """Of every issuer that has revoked something."""
        before = self.now - timedelta(days=1)
        return [
            revocation_list(issuer, *serials, last_update=before, next_update=until)
            for issuer, serials, until in self._revoked.values()
        ]

    def leaf(
        self,
        spiffe_id: str = ID,
        *,
        issuer: Authority | None = None,
        behind: Sequence[Authority] = (),
        **overrides: Any,
    ) -> Shown:
        """A client certificate; `behind` are the intermediates sent along, `overrides` are fields of `certs.Leaf`."""
        made, key = self.ca.leaf(spiffe_id, issuer=issuer, **overrides)
        return shown(made, *(one.certificate for one in behind), key=key)

    def below(self, middle: Authority, **overrides: Any) -> Shown:
        """A client certificate of this intermediate, which is sent along."""
        return self.leaf(issuer=middle, behind=[middle], **overrides)

    def intermediate(
        self,
        name: str = "intermediate",
        *,
        issuer: Authority | None = None,
        days: tuple[float, float] = (-1, 9),
        constraints: x509.BasicConstraints | None = x509.BasicConstraints(ca=True, path_length=None),  # noqa: B008 - frozen
        usages: Sequence[str] | None = ("key_cert_sign", "crl_sign"),
        extra: Extensions = (),
        key: PrivateKey | None = None,
    ) -> Authority:
        """A CA below `issuer` (the root of chains), valid from and until so many days from now."""
        issuer = issuer or self.deep
        key = key or ec.generate_private_key(ec.SECP256R1())
        extensions = [*extra]
        if constraints is not None:
            extensions.append((constraints, True))
        if usages is not None:
            extensions.append((key_usage(*usages), True))
        start, end = (self.now + timedelta(days=one) for one in days)
        builder = new_builder(name_of(name), key.public_key(), start, end, extensions)
        certificate = issuer.sign(builder.add_extension(issuer.key_identifier, critical=False))
        signing: Any = key
        return Authority(certificate=certificate, key=signing)

    def forged(
        self,
        change: Callable[[Tbs], None],
        *,
        issuer: Authority | None = None,
        outer: bytes | None = None,
        **overrides: Any,
    ) -> Shown:
        """The usual leaf, with its fields changed before `issuer` signs it."""
        issuer = issuer or self.root
        made, key = self.ca.leaf(ID, issuer=issuer, **overrides)
        tbs = tbs_of(made)
        change(tbs)
        return shown(whole(tbs, ecdsa(issuer.key), outer), key=key)


def shown(leaf: x509.Certificate | bytes, *behind: x509.Certificate | bytes, key: PrivateKey) -> Shown:
    """A chain as certificates or DER."""
    chain = tuple(one if isinstance(one, bytes) else der_of(one) for one in (leaf, *behind))
    return Shown(chain=chain, key=key)


def bent(**overrides: Any) -> Make:
    """The usual leaf with these fields of `certs.Leaf` changed."""
    return lambda pki: pki.leaf(**overrides)


def named(*uris: str) -> Make:
    """The usual leaf with these URI names instead of its own."""
    return lambda pki: replace(pki.leaf(uris=uris), spiffe_id=uris[0])


Make: TypeAlias = Callable[[Pki], Shown]


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A certificate that nobody may be served with."""

    make: Make
    reason: Reason | None  # the Authenticator's; None: only the handshake can tell
    tls: bool = False  # gRPC's TLS refuses it before we are asked (measured)


def ours(make: Make, reason: Reason = Reason.CERTIFICATE_INVALID) -> Bad:
    """The TLS layer lets it through; the Authenticator must not."""
    return Bad(make=make, reason=reason)


def both(make: Make, reason: Reason = Reason.CERTIFICATE_INVALID) -> Bad:
    """The TLS layer refuses it, and so would the Authenticator: on live and resumed connections it is alone."""
    return Bad(make=make, reason=reason, tls=True)
