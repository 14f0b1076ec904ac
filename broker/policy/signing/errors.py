"""Why a signed map is not believed."""

from __future__ import annotations

from enum import Enum

from broker.policy.language.files import NotTrusted


class Fault(Enum):
    """Stable words, for programs; `TEXTS` has what people are told."""

    KEYS = "KEYS"
    TOO_LARGE = "TOO_LARGE"
    MALFORMED = "MALFORMED"
    PAYLOAD_TYPE = "PAYLOAD_TYPE"
    TOO_FEW_KEYS = "TOO_FEW_KEYS"
    ENVIRONMENT = "ENVIRONMENT"
    TRUST_DOMAIN = "TRUST_DOMAIN"
    ROOT = "ROOT"
    SERIAL_OLDER = "SERIAL_OLDER"
    SERIAL_REUSED = "SERIAL_REUSED"
    EXPIRED = "EXPIRED"


TEXTS = {
    Fault.KEYS: "a threshold from 1 to the number of distinct keys is needed",
    Fault.TOO_LARGE: "the manifest is larger than 1 MiB",
    Fault.MALFORMED: "the manifest is not one that `scopes sign` makes",
    Fault.PAYLOAD_TYPE: "the envelope holds something else than a manifest of a scope map",
    Fault.TOO_FEW_KEYS: "the manifest is signed by fewer of the keys than are needed",
    Fault.ENVIRONMENT: "the manifest is for another environment",
    Fault.TRUST_DOMAIN: "the manifest is for another trust domain",
    Fault.ROOT: "the manifest is for a map whose root file has another name",
    Fault.SERIAL_OLDER: "the manifest is older than one that was loaded before",
    Fault.SERIAL_REUSED: "another manifest with this serial was loaded before",
    Fault.EXPIRED: "the manifest has expired",
}


class ManifestError(Exception):
    """A refusal. `message` is constant for its fault; `detail` holds numbers, times and names of the config, or nothing."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        self.fault = fault
        self.message = TEXTS[fault]
        self.detail = detail
        super().__init__(f"{self.message}: {detail}" if detail else self.message)


class NotSigned(NotTrusted):
    """A file that the manifest does not vouch for."""
