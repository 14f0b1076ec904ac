"""Certificates that nobody believes, of the right form."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType
from cryptography.x509.oid import NameOID

from broker.model import SshCertificate, X509Certificate
from broker.secret import Secret

_BACKDATE = timedelta(minutes=1)
_ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev-issuer")])
_PEM = serialization.Encoding.PEM
_MOST_NAME = 64  # characters of a common name (X.520)


def x509_for(common_name: str, csr: str, now: datetime, until: datetime) -> X509Certificate:
    """For a key of its own, or for that of a request. Raises ValueError for what is no request."""
    own = None if csr else ec.generate_private_key(ec.SECP256R1())
    asked = x509.load_pem_x509_csr(csr.encode()) if csr else None
    public: CertificatePublicKeyTypes = asked.public_key() if asked else _public(own)
    subject = asked.subject if asked else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MOST_NAME])])
    issuer = ec.generate_private_key(ec.SECP256R1())
    root = _signed(_ISSUER, _public(issuer), issuer, now, until, ca=True)
    leaf = _signed(subject, public, issuer, now, until, ca=False)
    key = own and own.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return X509Certificate(
        certificate_pem=leaf.public_bytes(_PEM).decode(),
        chain_pem=(root.public_bytes(_PEM).decode(),),
        serial_number=f"{leaf.serial_number:x}",
        private_key_pem=Secret(key.decode()) if key else None,
    )


def _public(key: ec.EllipticCurvePrivateKey | None) -> ec.EllipticCurvePublicKey:
    assert key is not None  # noqa: S101 - made when there is no request
    return key.public_key()


def _signed(
    subject: x509.Name,
    public: CertificatePublicKeyTypes,
    issuer: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
    *,
    ca: bool,
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(_ISSUER).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATE).not_valid_after(until)
    basic = x509.BasicConstraints(ca=ca, path_length=0 if ca else None)
    return builder.add_extension(basic, critical=True).sign(issuer, hashes.SHA256())


def ssh_for(principals: str, public_key: str, name: str, now: datetime, until: datetime) -> SshCertificate:
    """The caller's key, signed by one that nobody knows. Raises ValueError for what is no key of OpenSSH's."""
    key = serialization.load_ssh_public_key(public_key.encode())
    serial = int.from_bytes(name.encode()[:7], "big")
    # What a SSHCertificateBuilder takes is narrower than what may be loaded: it says so by TypeError.
    try:
        builder = SSHCertificateBuilder().public_key(key)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError("this key cannot be certified") from error
    builder = builder.serial(serial).type(SSHCertificateType.USER).key_id(f"dev-{name}".encode())
    builder = builder.valid_principals([one.strip().encode() for one in principals.split(",") if one.strip()])
    builder = builder.valid_after(int((now - _BACKDATE).timestamp())).valid_before(int(until.timestamp()))
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1())).public_bytes().decode()
    return SshCertificate(signed_key=signed, serial_number=f"{serial:016x}")
