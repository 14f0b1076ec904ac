"""Bends of purpose, key and time: what the holder's own certificate may be used for, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from broker.errors import Reason
from tests.support.corpus.case import Bad, Make, Pki, Shown, bent, both, ours, shown
from tests.support.corpus.der import der_of
from tests.support.corpus.keys import curve_key, rsa_key

DAY = timedelta(days=1)
UNKNOWN = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")


def extra(extension: x509.ExtensionType, *, critical: bool = True) -> Make:
    return bent(extra=((extension, critical),))


def lives(start: float, end: float) -> Make:
    """From and until so many days from now."""
    return lambda pki: pki.leaf(not_before=pki.now + start * DAY, not_after=pki.now + end * DAY)


def root_itself(pki: Pki) -> Shown:
    return shown(der_of(pki.root.certificate), key=pki.root.key)


def intermediate_itself(pki: Pki) -> Shown:
    return shown(pki.middle.certificate, key=pki.middle.key)


def intermediate_with_a_name(pki: Pki) -> Shown:
    """A CA below a root that allows it, with everything that a workload's certificate has."""
    key = ec.generate_private_key(ec.SECP256R1())
    return pki.leaf(issuer=pki.deep, ca=True, usages=("digital_signature", "key_cert_sign"), key=key)


LEAVES: dict[str, Bad] = {
    # purpose
    "no extended key usage": ours(bent(eku=None)),
    "serverAuth only": both(bent(eku=(Eku.SERVER_AUTH,))),
    "any purpose": both(bent(eku=(Eku.ANY_EXTENDED_KEY_USAGE,))),
    "codeSigning only": both(bent(eku=(Eku.CODE_SIGNING,))),
    "OCSPSigning only": both(bent(eku=(Eku.OCSP_SIGNING,))),
    "CA certificate": ours(bent(ca=True)),
    "CA certificate that nothing else marks": ours(intermediate_with_a_name),
    "the root itself": both(root_itself),
    "an intermediate itself": both(intermediate_itself),
    "keyCertSign": ours(bent(usages=("digital_signature", "key_cert_sign"))),
    "cRLSign": ours(bent(usages=("digital_signature", "crl_sign"))),
    "no digitalSignature": both(bent(usages=("key_encipherment",))),
    "keyAgreement only": both(bent(usages=("key_agreement",))),
    "no usage at all": both(bent(usages=())),
    "unknown critical extension": both(extra(x509.UnrecognizedExtension(UNKNOWN, b"\x05\x00"))),
    "critical name constraints on a leaf": ours(extra(x509.NameConstraints([x509.DNSName("dev.local")], None))),
    "critical policies": ours(
        extra(x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]))
    ),
    "critical precertificate poison": both(extra(x509.PrecertPoison())),
    "critical TLS feature": both(extra(x509.TLSFeature([x509.TLSFeatureType.status_request]))),
    "critical revocation list address": both(
        extra(
            x509.CRLDistributionPoints(
                [
                    x509.DistributionPoint(
                        full_name=[x509.UniformResourceIdentifier("http://dev.local/crl")],
                        relative_name=None,
                        reasons=None,
                        crl_issuer=None,
                    )
                ]
            )
        )
    ),
    # key
    "RSA-1024": ours(lambda pki: pki.leaf(key=rsa_key(1024))),
    "RSA-2040": ours(lambda pki: pki.leaf(key=rsa_key(2040))),
    "P-224": both(lambda pki: pki.leaf(key=curve_key(ec.SECP224R1))),
    "P-521": both(lambda pki: pki.leaf(key=curve_key(ec.SECP521R1))),
    "secp256k1": both(lambda pki: pki.leaf(key=curve_key(ec.SECP256K1))),
    "brainpool": both(lambda pki: pki.leaf(key=curve_key(ec.BrainpoolP256R1))),
    "Ed25519": both(lambda pki: pki.leaf(key=ed25519.Ed25519PrivateKey.generate())),
    "Ed448": both(lambda pki: pki.leaf(key=ed448.Ed448PrivateKey.generate())),
    "DSA": both(lambda pki: pki.leaf(key=dsa.generate_private_key(1024))),
    # time
    "expired": both(lives(-2, -1), Reason.CERTIFICATE_EXPIRED),
    "expired a minute ago": both(lives(-1, -1 / 1440), Reason.CERTIFICATE_EXPIRED),
    "not valid yet": both(lives(1, 2)),
    "valid in two minutes": both(lives(2 / 1440, 1)),
    "a life of 91 days": ours(lives(-1, 90)),
    "a life of ninety days and a minute": ours(lives(-1, 89 + 1 / 1440)),
    "an endless life": ours(bent(not_after=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))),
    "begun in 1950": ours(bent(not_before=datetime(1950, 1, 1, tzinfo=UTC))),
}
