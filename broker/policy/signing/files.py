"""The files of a signed map: each is what its signers saw, or it is not read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from broker.policy.language.files import Files
from broker.policy.signing.errors import NotSigned
from broker.policy.signing.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedFiles:
    """Reads through. The digest is of the very bytes that are returned, so that nothing can change in between."""

    files: Files
    manifest: Manifest  # a verified one

    def read(self, name: str) -> bytes:
        """As `Files`; NotSigned for what is not listed, or not as it was signed."""
        digest = self.manifest.files.get(name)
        if digest is None:
            raise NotSigned("is not in the signed manifest; sign the map again")
        content = self.files.read(name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise NotSigned("is not the file that was signed; put it back, or sign the map again")
        return content

    def shown(self, name: str) -> str:
        """As `Files`."""
        return self.files.shown(name)
