"""Our own certificate, as the broker will judge it. Needs `cryptography`; without it the broker's answer has to do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stepcred.cli._doctor._files import NEW_KEY, blocks
from stepcred.cli._doctor._finding import Case, Finding, Level, ok, plain, problem, skipped, warning

if TYPE_CHECKING:
    from cryptography import x509

MAX_LIFE = timedelta(days=90)  # the broker's default, tls.max_client_certificate_life
_MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1")
_BROKEN = ("md5", "sha1")
_MAX_ID_BYTES = 2048
_SPIFFE_ID = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+", re.ASCII
)  # broker/identity/spiffe.py; a test holds the two together
_UNDERSTOOD = ("2.5.29.17", "2.5.29.19", "2.5.29.15", "2.5.29.37")  # SAN, basic constraints, key usage, EKU
_SOON = 0.1  # of its life left


def look(case: Case) -> Iterator[Finding]:
    """Fills `chain`, and the guesses why the broker might refuse it."""
    try:
        from cryptography import x509
    except ImportError:
        yield skipped(
            "names, purpose, key and life of the certificate: the package `cryptography` is not installed",
            "pip install cryptography",
        )
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd certificates, which are told below
            case.chain = [x509.load_pem_x509_certificate(block) for block in blocks(case.contents["cert"])]
            cas = [x509.load_pem_x509_certificate(block) for block in blocks(case.contents["ca"])]
            found = [*_leaf(case.chain[0], case.now), *_chain(case.chain, case.now), *_cas(cas, case.now)]
    except Exception:  # noqa: BLE001 - cryptography raises many kinds on malformed bytes, some of them when a field is read
        yield problem(
            "the certificate is malformed, and the broker refuses it (CERTIFICATE_INVALID)", "issue a new one"
        )
        return
    case.why_not_ours = [finding.text for finding in found if finding.level is Level.PROBLEM] + [*_gap(case.chain, cas)]
    yield from found
    if not found:
        leaf = case.chain[0]
        (name,) = _uris(leaf)
        yield ok(f"{plain(name)}, {_left(leaf.not_valid_after_utc - case.now)} left")


def _leaf(leaf: x509.Certificate, now: datetime) -> Iterator[Finding]:
    yield from _time(leaf, now)
    yield from _name(leaf)
    yield from _key(leaf)
    yield from _signature(leaf)
    yield from _extensions(leaf)


def _time(leaf: x509.Certificate, now: datetime) -> Iterator[Finding]:
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now > end:
        yield problem(
            f"the certificate expired at {end:%Y-%m-%d %H:%M} UTC (CERTIFICATE_EXPIRED)",
            "renew it, and look why what renews it did not: systemctl list-timers; journalctl -u spiffe-helper",
        )
    elif now < start:
        yield problem(
            f"the certificate is not valid before {start:%Y-%m-%d %H:%M} UTC; here it is {now:%Y-%m-%d %H:%M}",
            "timedatectl set-ntp true",
        )
    elif end - now < (end - start) * _SOON:
        yield warning(f"the certificate expires in {_left(end - now)}", "renew at half of its life")
    if end - start > MAX_LIFE:
        yield warning(
            f"the certificate lives for {(end - start).days} days; a broker refuses more than {MAX_LIFE.days} "
            "unless it is set otherwise (CERTIFICATE_INVALID)",
            "issue one of a day or less, and renew it",
        )


def _name(leaf: x509.Certificate) -> Iterator[Finding]:
    uris = _uris(leaf)
    if len(uris) != 1:
        yield problem(
            f"the certificate has {len(uris)} URI names, not exactly one (SPIFFE_ID_INVALID); the common name counts for nothing",
            "issue it with subjectAltName = URI:spiffe://TRUST-DOMAIN/PATH",
        )
    elif len(uris[0]) > _MAX_ID_BYTES or not _SPIFFE_ID.fullmatch(uris[0]):
        yield problem(
            f"{plain(uris[0])} is no SPIFFE ID of a workload (SPIFFE_ID_INVALID)",
            "spiffe://, a trust domain of a-z 0-9 . _ -, and a path of A-Z a-z 0-9 . _ -; nothing encoded, no slash at the end",
        )


def _signature(leaf: x509.Certificate) -> Iterator[Finding]:
    algorithm = leaf.signature_hash_algorithm
    if algorithm is not None and algorithm.name in _BROKEN:
        yield problem(f"it is signed with {algorithm.name.upper()}, which is broken", "have the CA sign with SHA-256")


def _key(leaf: x509.Certificate) -> Iterator[Finding]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    match leaf.public_key():
        case rsa.RSAPublicKey() as key if key.key_size >= _MIN_RSA_BITS:
            pass
        case ec.EllipticCurvePublicKey() as key if key.curve.name in _CURVES:
            pass
        case other:
            size = getattr(other, "key_size", "")
            kind = type(other).__name__.removesuffix("PublicKey")
            yield problem(
                f"its key is {kind} {size}".rstrip() + "; the broker takes P-256, P-384, and RSA from 2048 bits",
                NEW_KEY,
            )


def _extensions(leaf: x509.Certificate) -> Iterator[Finding]:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    unknown = [e.oid.dotted_string for e in leaf.extensions if e.critical and e.oid.dotted_string not in _UNDERSTOOD]
    if unknown:
        yield problem(f"it has a critical extension that the broker does not know: {unknown[0]}", "issue it without")
    constraints, usage = _find(leaf, x509.BasicConstraints), _find(leaf, x509.KeyUsage)
    if (constraints and constraints.ca) or (usage and (usage.key_cert_sign or usage.crl_sign)):
        yield problem(
            "it is the certificate of a CA, not of an agent", "issue one below it, basicConstraints = CA:FALSE"
        )
    elif usage and not usage.digital_signature:
        yield problem("its key usage lacks digitalSignature", "issue it with keyUsage = critical,digitalSignature")
    purposes = _find(leaf, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        yield problem(
            "its extended key usage lacks clientAuth: it is not for a TLS client",
            "issue it with extendedKeyUsage = clientAuth",
        )


def _chain(chain: list[x509.Certificate], now: datetime) -> Iterator[Finding]:
    for number, (below, issuer) in enumerate(pairwise(chain), 2):
        if below.issuer != issuer.subject:
            yield warning(
                f"certificate {number} of STEPCRED_CERT did not issue the one before it",
                "the agent's own first, then its issuer, then that one's: cat agent.pem intermediate.pem > chain.pem",
            )
        if now > issuer.not_valid_after_utc:
            yield problem(
                f"certificate {number} of STEPCRED_CERT, an issuer, expired at {issuer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
                "put the CA's new certificate in its place, or have the agent's issued anew",
            )


def _cas(cas: list[x509.Certificate], now: datetime) -> Iterator[Finding]:
    from cryptography import x509

    dead = [ca for ca in cas if now > ca.not_valid_after_utc]
    if dead and len(dead) == len(cas):
        yield problem("every certificate in STEPCRED_CA has expired", "get the broker's present CA from its operators")
    elif dead:
        yield warning(f"{len(dead)} of {len(cas)} certificates in STEPCRED_CA expired", "leave them out")
    for number, ca in enumerate(cas, 1):
        constraints = _find(ca, x509.BasicConstraints)
        if not (constraints and constraints.ca) and ca.issuer != ca.subject:
            yield warning(f"certificate {number} in STEPCRED_CA is no CA", "hold the CA that issued it instead")


def _gap(chain: list[x509.Certificate], cas: list[x509.Certificate]) -> Iterator[str]:
    """The broker's roots are not known here, so this is only said when the broker does refuse."""
    top = chain[-1]
    if top.issuer != top.subject and top.issuer not in [ca.subject for ca in cas]:
        yield (
            f"STEPCRED_CERT ends below {plain(top.issuer.rfc4514_string())!r}: "
            "if that is an intermediate CA, its certificate must follow in the file"
        )


def _find(certificate: x509.Certificate, kind: Any) -> Any:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _uris(leaf: x509.Certificate) -> list[str]:
    from cryptography import x509

    names = _find(leaf, x509.SubjectAlternativeName)
    return list(names.get_values_for_type(x509.UniformResourceIdentifier)) if names is not None else []


def _left(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    if hours < 1:
        return f"{span / timedelta(minutes=1):.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{span.days} days"  # noqa: PLR2004 (two days, in hours)
