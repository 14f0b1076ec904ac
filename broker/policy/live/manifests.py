"""Maps that count only with a manifest which enough of the configured keys have signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from broker.config import Guard
from broker.policy.language.files import Files, why_not
from broker.policy.live.changes import widens_high
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap
from broker.policy.signing import ManifestError, Seen, SignedFiles, verify

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """What a manifest vouches for."""

    files: Files  # gives what the manifest names, with the digest that it names, and nothing else
    seen: Seen  # this manifest
    signers: frozenset[str]
    envelope: bytes


class Verifier(Protocol):
    """Checks signed maps."""

    @property
    def manifest(self) -> str:
        """Its file, named as the map's others."""
        ...

    def check(self, files: Files, root: str, *, now: datetime, seen: Seen | None) -> Signed:
        """Before anything of the map is read. `seen`: the newest manifest that was ever in force. Raises ScopeMapError."""
        ...

    def must_allow(self, signed: Signed, *, old: ScopeMap | None, new: ScopeMap, now: datetime) -> None:
        """Do its signers suffice for this change? `old`: the map in force, None when there is none. Raises ScopeMapError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """`Verifier` by the keys of the config."""

    manifest: str
    keys: Mapping[str, SSlibKey]  # name → key
    threshold: int
    threshold_high: int
    environment: str
    trust_domain: str
    site: Guard = field(default_factory=Guard)  # what a tier is allowed where the map says nothing

    def check(self, files: Files, root: str, *, now: datetime, seen: Seen | None) -> Signed:
        """As the protocol says."""
        try:
            envelope = files.read(self.manifest)
            found = verify(
                envelope,
                self.keys,
                self.threshold,
                environment=self.environment,
                trust_domain=self.trust_domain,
                root=root,
                now=now,
                seen=seen,
            )
        except ManifestError as error:
            raise self._refusal(files.shown(self.manifest), str(error)) from None
        except OSError as error:
            why = f"the map must be signed, and its manifest {why_not(error)}"
            raise self._refusal(files.shown(self.manifest), why) from None
        return Signed(
            files=SignedFiles(files=files, manifest=found.manifest),
            seen=Seen(serial=found.manifest.serial, digest=found.manifest.digest),
            signers=found.signers,
            envelope=envelope,
        )

    def must_allow(self, signed: Signed, *, old: ScopeMap | None, new: ScopeMap, now: datetime) -> None:
        """As the protocol says."""
        if len(signed.signers) < self.threshold_high and widens_high(old, new, now, self.site):
            names = ", ".join(sorted(signed.signers))
            message = f"widens what is of tier high: {self.threshold_high} must have signed it, and {names} did"
            raise self._refusal(new.file, message)

    def _refusal(self, file: str, message: str) -> ScopeMapError:
        return ScopeMapError([Problem(file=file, line=1, column=1, message=message)])
