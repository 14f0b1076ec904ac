"""Extensions of certificates and revocation lists."""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def find_extension(
    holder: x509.Certificate | x509.CertificateRevocationList, kind: type[_Extension]
) -> _Extension | None:
    """None where it has none of this kind. Raises what cryptography raises on malformed ones (`bundle.MALFORMED`)."""
    try:
        return holder.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
