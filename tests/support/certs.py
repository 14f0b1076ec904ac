"""Certificates for tests: good ones from the dev CA, and bad ones that bend one thing at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.identity import dev_ca
from broker.identity.authority import Authority, Extensions, key_usage, name_of, new_authority, new_builder

PrivateKey: TypeAlias = CertificateIssuerPrivateKeyTypes
PEM = serialization.Encoding.PEM


@dataclass(frozen=True, kw_only=True)
class Creds:
    """What a client or server needs: three paths to PEM files."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A client certificate, as bent as the caller likes. The defaults are what `dev-ca issue` makes."""

    uris: Sequence[str] = ()
    other_names: Sequence[x509.GeneralName] = ()
    san_critical: bool = False
    common_name: str = "agent"  # "" leaves the subject empty
    eku: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,)  # None: no such extension
    usages: Sequence[str] | None = ("digital_signature",)  # None: no such extension
    ca: bool | None = False  # None: no basic constraints at all
    not_before: datetime | None = None  # default: a minute ago
    not_after: datetime | None = None  # default: in 24 hours
    key: PrivateKey | None = None  # default: a new P-256 key
    extra: Extensions = ()

    def extensions(self) -> Extensions:
        names = [*(x509.UniformResourceIdentifier(uri) for uri in self.uris), *self.other_names]
        made: list[tuple[x509.ExtensionType, bool]] = [*self.extra]
        if names:
            made.append((x509.SubjectAlternativeName(names), self.san_critical))
        if self.ca is not None:
            made.append((x509.BasicConstraints(ca=self.ca, path_length=None), True))
        if self.usages is not None:
            made.append((key_usage(*self.usages), True))
        if self.eku is not None:
            made.append((x509.ExtendedKeyUsage(self.eku), False))
        return made

    def build(self, issuer: Authority) -> tuple[x509.Certificate, PrivateKey]:
        """Sign it as `issuer`."""
        now = datetime.now(UTC)
        key = self.key or ec.generate_private_key(ec.SECP256R1())
        not_before = self.not_before or now - timedelta(minutes=1)
        not_after = self.not_after or now + timedelta(hours=24)
        subject = name_of(self.common_name) if self.common_name else x509.Name([])
        builder = new_builder(subject, key.public_key(), not_before, not_after, self.extensions())
        builder = builder.add_extension(issuer.key_identifier, critical=False)
        return issuer.sign(builder), key


class TestCA:
    """A dev CA in a temporary directory, and whatever certificate a test asks of it."""

    __test__ = False  # not a test case, whatever its name

    def __init__(self, tmp_path: Path, trust_domain: str = "test.local") -> None:
        self.directory = tmp_path / f"ca-{trust_domain}"
        self.trust_domain = trust_domain
        self.root_path = dev_ca.init(self.directory, trust_domain, "dev")
        self.operator_root_path = self.directory / "operator-ca.pem"
        self.root = dev_ca.load_authority(self.directory)
        self._count = 0

    @property
    def root_pem(self) -> bytes:
        return self.root_path.read_bytes()

    def server(self, names: Sequence[str] = dev_ca.LOCAL_NAMES) -> tuple[Path, Path]:
        """(certificate, key) for a server on these names."""
        issued = dev_ca.issue_server(self.directory, names)
        return issued.cert, issued.key

    def operator(self, spiffe_id: str) -> Creds:
        """Under the operators' root; `ca` is still the root that the server hangs from."""
        issued = dev_ca.issue_operator(self.directory, spiffe_id, self._next())
        return Creds(cert=issued.cert, key=issued.key, ca=self.root_path)

    def agent(self, spiffe_id: str, *, issuer: Authority | None = None, **overrides: Any) -> Creds:
        """A client certificate; `overrides` are fields of `Leaf`.

        Without any override it comes from `dev_ca.issue_agent` itself. With an `issuer` (see `intermediate`) its
        certificate is appended to the file, as a client has to send it.
        """
        if not overrides and issuer is None:
            issued = dev_ca.issue_agent(self.directory, spiffe_id, self._next())
            return Creds(cert=issued.cert, key=issued.key, ca=issued.ca)
        certificate, key = self.leaf(spiffe_id, issuer=issuer, **overrides)
        chain = [certificate] if issuer is None else [certificate, issuer.certificate]
        return self.write(chain, key)

    def leaf(
        self, spiffe_id: str, *, issuer: Authority | None = None, **overrides: Any
    ) -> tuple[x509.Certificate, PrivateKey]:
        """The same in memory."""
        return replace(Leaf(uris=(spiffe_id,)), **overrides).build(issuer or self.root)

    def write(self, chain: Sequence[x509.Certificate], key: PrivateKey) -> Creds:
        """Put a certificate chain (leaf first) and its key into files."""
        prefix = self._next()
        cert, private = prefix.with_suffix(".pem"), prefix.with_suffix(".key")
        prefix.parent.mkdir(parents=True, exist_ok=True)
        cert.write_bytes(b"".join(one.public_bytes(PEM) for one in chain))
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return Creds(cert=cert, key=private, ca=self.root_path)

    def intermediate(self, common_name: str = "intermediate", *, issuer: Authority | None = None) -> Authority:
        """A CA below `issuer`; the dev root itself allows none (path length 0)."""
        return new_authority(common_name, now=datetime.now(UTC), issuer=issuer or self.root)

    def _next(self) -> Path:
        self._count += 1
        return self.directory / "issued" / f"cert{self._count}"


def revocation_list(
    issuer: Authority,
    *revoked: int,
    number: int | None = 1,
    last_update: datetime | None = None,
    next_update: datetime | None = None,
    signer: Authority | None = None,
    extra: Extensions = (),
) -> x509.CertificateRevocationList:
    """Of these serial numbers; by default made a minute ago, and good for a day."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(last_update or now - timedelta(minutes=1))
        .next_update(next_update or now + timedelta(days=1))
        .add_extension(issuer.key_identifier, critical=False)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(minutes=1))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign((signer or issuer).key, hashes.SHA256())
