"""What must be served: every variant that honest authorities issue."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from broker.identity.authority import new_builder
from tests.support.certs import Leaf
from tests.support.corpus.case import ADMIN, ID, TRUST_DOMAIN, Make, Pki, Shown, bent, shown
from tests.support.corpus.chains import constrained, deeper_than, through
from tests.support.corpus.keys import curve_key, rsa_key
from tests.support.corpus.leaves import DAY, UNKNOWN, extra

LONGEST = f"spiffe://{TRUST_DOMAIN}/".ljust(2048, "a")


def as_issued(pki: Pki) -> Shown:
    """By the dev CA's own command."""
    creds = pki.ca.agent(ID)
    certificate = x509.load_pem_x509_certificate(creds.cert.read_bytes())
    key: Any = load_pem_private_key(creds.key.read_bytes(), password=None)
    return shown(certificate, key=key)


def signed_with_pss(pki: Pki) -> Shown:
    made, key = pki.ca.leaf(ID, issuer=pki.rsa)
    signer: Any = pki.rsa.key
    builder = new_builder(
        made.subject,
        key.public_key(),
        made.not_valid_before_utc,
        made.not_valid_after_utc,
        Leaf(uris=(ID,)).extensions(),
    ).issuer_name(made.issuer)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    return shown(builder.sign(signer, hashes.SHA256(), rsa_padding=pss), key=key)


def called(spiffe_id: str) -> Make:
    return lambda pki: replace(pki.leaf(uris=(spiffe_id,)), spiffe_id=spiffe_id)


def another_behind(pki: Pki) -> Shown:
    """Only the first one counts, whose key signs."""
    return replace(mine := pki.leaf(), chain=(*mine.chain, *pki.leaf(ADMIN).chain))


def root_behind(pki: Pki) -> Shown:
    return pki.below(pki.deep)


def disordered(pki: Pki) -> Shown:
    """Intermediates in any order."""
    good = deeper_than(1)(pki)
    return replace(good, chain=(good.chain[0], *good.chain[:0:-1]))


ISSUED: dict[str, Make] = {
    "as issued": as_issued,
    "P-384": lambda pki: pki.leaf(key=curve_key(ec.SECP384R1)),
    "RSA-2048": lambda pki: pki.leaf(key=rsa_key(2048)),
    "RSA-3072": lambda pki: pki.leaf(key=rsa_key(3072)),
    "of an RSA root": lambda pki: pki.leaf(issuer=pki.rsa),
    "of a P-521 root": lambda pki: pki.leaf(issuer=pki.big),
    "signed with RSA-PSS": signed_with_pss,
    "chain of two": lambda pki: pki.below(pki.middle),
    "chain of three": deeper_than(1),
    "chain of three in another order": disordered,
    "intermediate on P-384": lambda pki: pki.below(pki.intermediate(key=curve_key(ec.SECP384R1))),
    "intermediate of RSA": lambda pki: pki.below(pki.intermediate(key=rsa_key(2048))),
    "intermediate without key usage": through(usages=None),
    "intermediate for clients": through(extra=((x509.ExtendedKeyUsage([Eku.CLIENT_AUTH]), False),)),
    "intermediate with a name, as SPIRE's": through(
        extra=((x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")]), False),)
    ),
    "intermediate for DNS names, and none in the leaf": constrained(permitted="other.local"),
    "the root sent along": root_behind,
    "another's certificate behind the own": another_behind,
    "other names beside it": bent(
        other_names=(x509.DNSName("a.dev.local"), x509.RFC822Name("a@dev.local"), x509.IPAddress(ip_address("::1")))
    ),
    "no subject, critical name": bent(common_name="", san_critical=True),
    "another's ID as common name": bent(common_name=ADMIN),
    "server and client": bent(eku=(Eku.SERVER_AUTH, Eku.CLIENT_AUTH)),
    "no key usage": bent(usages=None),
    "key usages of RSA": bent(usages=("digital_signature", "key_encipherment")),
    "key usages of SPIRE": bent(usages=("digital_signature", "key_encipherment", "key_agreement")),
    "critical extended key usage": bent(eku=None, extra=((x509.ExtendedKeyUsage([Eku.CLIENT_AUTH]), True),)),
    "no basic constraints": bent(ca=None),
    "unknown extension, not critical": extra(x509.UnrecognizedExtension(UNKNOWN, b"\x05\0"), critical=False),
    "a life of 90 days": lambda pki: pki.leaf(not_before=pki.now - DAY, not_after=pki.now + 89 * DAY),
    "an hour left": lambda pki: pki.leaf(not_after=pki.now + timedelta(hours=1)),
    "the longest name": called(LONGEST),
    "every letter of a path": called(f"spiffe://{TRUST_DOMAIN}/AZaz09._-/.../x"),
}
