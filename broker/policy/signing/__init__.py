"""Signed scope maps: one manifest of all files, signed by a threshold of people."""

from broker.policy.signing.envelope import (
    PAYLOAD_TYPE,
    Seen,
    Unverified,
    Verified,
    add_signature,
    read_unverified,
    sign,
    signers,
    verify,
)
from broker.policy.signing.errors import Fault, ManifestError, NotSigned
from broker.policy.signing.files import SignedFiles
from broker.policy.signing.keys import generate, load_keys, load_signer
from broker.policy.signing.manifest import Manifest, digests

__all__ = [
    "PAYLOAD_TYPE",
    "Fault",
    "Manifest",
    "ManifestError",
    "NotSigned",
    "Seen",
    "SignedFiles",
    "Unverified",
    "Verified",
    "add_signature",
    "digests",
    "generate",
    "load_keys",
    "load_signer",
    "read_unverified",
    "sign",
    "signers",
    "verify",
]
