"""The files of a broker that the corpus is shown to: bundles, revocation lists, deny list, from what the entries left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from broker.identity import FrontDoor
from tests.support import doors
from tests.support.corpus.case import PARTNER, TRUST_DOMAIN, Pki


@dataclass(frozen=True, kw_only=True)
class House:
    """Where they are."""

    bundle: Path
    operators: Path
    partner: Path
    crl: Path
    deny: Path

    def front_door(self) -> FrontDoor:
        """In this process."""
        return doors.door(
            self.bundle,
            TRUST_DOMAIN,
            crls=[self.crl],
            federated={PARTNER: self.partner},
            operators=self.operators,
            deny=self.deny,
        )

    def sections(self, tls: dict[str, str], operators_listen: str) -> dict[str, Any]:
        """Of a daemon's config; `tls` names its own certificate and key."""
        lists = {"crl_files": [str(self.crl)], "deny_file": str(self.deny)}
        return {
            "tls": {**tls, "client_ca_file": str(self.bundle), **lists},
            "federation": {PARTNER: {"client_ca_file": str(self.partner)}},
            "operators": {"client_ca_file": str(self.operators), "listen": operators_listen},
        }


def furnish(pki: Pki, folder: Path) -> House:
    """Write them, once all entries are made."""
    house = House(
        bundle=folder / "agents.pem",
        operators=pki.ca.operator_root_path,
        partner=pki.partner.root_path,
        crl=folder / "agents.crl",
        deny=folder / "denied.toml",
    )
    house.bundle.write_bytes(pki.bundle)
    house.crl.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in pki.revocation_lists()))
    entries = ("\n".join(f"{key} = {json.dumps(value)}" for key, value in entry.items()) for entry in pki.denied)
    house.deny.write_text("".join(f"[[denied]]\n{entry}\n\n" for entry in entries))
    return house
