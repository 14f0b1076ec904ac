"""What the path from a leaf to a root must satisfy, for cryptography's verifier.

Its built-in profile is that of the public web, which asks for authority key identifiers and key usages that private
CAs leave out (`openssl req -x509` makes a root without key usage; measured), so the profile is spelt out here.
Signatures, validity, path length and name constraints it checks by itself; a constraint on URIs it does not support,
and refuses. The leaf's own extensions are checked in `leaf`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy

from broker.identity.bundle import MALFORMED

_PURPOSES = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def _signs_certificates(_policy: Policy, _ca: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a CA without keyCertSign")


def _issues_clients(_policy: Policy, _ca: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    """A CA for servers alone must not vouch for agents."""
    if purposes is not None and _PURPOSES.isdisjoint(purposes):
        raise ValueError("a CA for other purposes")


CA_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _issues_clients)
)
LEAF_POLICY = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


def below(roots: Sequence[x509.Certificate], brought: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Of the intermediates that a client brought along, those that hang from a root by their signatures.

    The verifier tries every way upwards: CAs of a stranger's own that sign each other, below the name and public key of
    an honest one, cost it 190 ms a call (measured; P-521), and all calls wait. Downwards each is asked about a few times.
    """
    found: list[x509.Certificate] = []
    above, left = list(roots), list(brought)
    while above and left:
        above = [one for one in left if any(issued(one, by=issuer) for issuer in above)]
        left = [one for one in left if one not in above]
        found += above
    return found


def issued(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    """By name and signature."""
    if certificate.issuer != by.subject:
        return False
    try:
        certificate.verify_directly_issued_by(by)
    except (*MALFORMED, InvalidSignature):
        return False
    return True
