"""Sound certificates that nobody may be served with all the same: revoked, denied, or at another's door."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from broker.errors import Reason
from broker.identity import dev_ca
from broker.identity.authority import Authority
from tests.support.corpus.case import ID, PARTNER, TRUST_DOMAIN, Bad, Door, Make, Pki, Shown, both, ours, shown
from tests.support.corpus.der import sha256_of_key

DENIED = f"spiffe://{TRUST_DOMAIN}/denied"
OF_PARTNER = f"spiffe://{PARTNER}/workflow/nightly/step/load"
ANN = f"spiffe://{TRUST_DOMAIN}/operator/ann"


def revoked(pki: Pki) -> Shown:
    made, key = pki.ca.leaf(ID)
    pki.revoke(pki.root, made)
    return shown(made, key=key)


def revoked_by_an_intermediate(pki: Pki) -> Shown:
    made, key = pki.ca.leaf(ID, issuer=pki.middle)
    pki.revoke(pki.middle, made)
    return shown(made, pki.middle.certificate, key=key)


def below_a_revoked(pki: Pki) -> Shown:
    middle = pki.intermediate("revoked")
    pki.revoke(pki.deep, middle.certificate)
    return pki.below(middle)


def without_a_fresh_list(pki: Pki) -> Shown:
    """Whoever keeps the next list away would keep the revoked alive."""
    middle = pki.intermediate("silent")
    pki.revoke(middle, until=pki.now - timedelta(minutes=1))
    return pki.below(middle)


def denied_by(**entry: str) -> Make:
    """The entry may say {serial}, {issuer} and {key} of the certificate."""

    def make(pki: Pki) -> Shown:
        spiffe_id = entry.get("agent", ID).replace("/*", "/below")
        made, key = pki.ca.leaf(spiffe_id)
        known = {
            "serial": f"{made.serial_number:x}",
            "issuer": made.issuer.rfc4514_string(),
            "key": sha256_of_key(key.public_key()),
        }
        pki.denied.append({name: value.format(**known) for name, value in entry.items()})
        return replace(shown(made, key=key), spiffe_id=spiffe_id)

    return make


def renewed_over_a_denied_key(pki: Pki) -> Shown:
    key = ec.generate_private_key(ec.SECP256R1())
    pki.denied.append({"key": f"sha256:{sha256_of_key(key.public_key())}"})
    return pki.leaf(key=key)


def operators(pki: Pki) -> Authority:
    return dev_ca.load_authority(pki.ca.directory, "operator-ca")


def of_partner(spiffe_id: str, **overrides: Any) -> Make:
    """By the federated domain's root."""
    return lambda pki: replace(pki.leaf(spiffe_id, issuer=pki.partner.root, **overrides), spiffe_id=spiffe_id)


def operator(pki: Pki, spiffe_id: str = ANN) -> Shown:
    return replace(pki.leaf(spiffe_id, issuer=operators(pki)), spiffe_id=spiffe_id)


def at_operators(make: Make) -> Make:
    return lambda pki: replace(make(pki), door=Door.OPERATORS)


def denied_operator(pki: Pki) -> Shown:
    pki.denied.append({"agent": f"spiffe://{TRUST_DOMAIN}/operator/mallory"})
    return operator(pki, f"spiffe://{TRUST_DOMAIN}/operator/mallory")


LISTS: dict[str, Bad] = {
    "revoked": ours(revoked, Reason.CERTIFICATE_REVOKED),
    "revoked by its intermediate": ours(revoked_by_an_intermediate, Reason.CERTIFICATE_REVOKED),
    "below a revoked intermediate": ours(below_a_revoked, Reason.CERTIFICATE_REVOKED),
    "its issuer's list has run out": ours(without_a_fresh_list),
    "denied by serial number": ours(denied_by(serial="{serial}"), Reason.AGENT_DENIED),
    "denied by serial number and issuer": ours(denied_by(serial="{serial}", issuer="{issuer}"), Reason.AGENT_DENIED),
    "denied by key": ours(denied_by(key="sha256:{key}"), Reason.AGENT_DENIED),
    "renewed over a denied key": ours(renewed_over_a_denied_key, Reason.AGENT_DENIED),
    "denied by name": ours(denied_by(agent=f"{DENIED}/agent"), Reason.AGENT_DENIED),
    "denied with all below": ours(denied_by(agent=f"{DENIED}/all/*"), Reason.AGENT_DENIED),
    "our name by a federated domain": ours(of_partner(ID)),
    "a federated domain's name by our CA": ours(lambda pki: pki.leaf(OF_PARTNER)),
    "a third domain's name by a federated one": ours(
        of_partner("spiffe://third.example/a"), Reason.TRUST_DOMAIN_FOREIGN
    ),
    "an operator at the agents' door": both(operator),
    "a workload at the operators' door": both(at_operators(lambda pki: pki.leaf())),
    "a workload with an operator's name at their door": both(at_operators(lambda pki: pki.leaf(ANN))),
    "a federated domain's agent at the operators' door": both(
        at_operators(of_partner(OF_PARTNER)), Reason.TRUST_DOMAIN_FOREIGN
    ),
    "an operator denied": ours(at_operators(denied_operator), Reason.AGENT_DENIED),
    "an operator without extended key usage": ours(
        at_operators(lambda pki: pki.leaf(ANN, issuer=operators(pki), eku=None))
    ),
}

ADMITTED: dict[str, Make] = {
    "a federated domain's agent": of_partner(OF_PARTNER),
    "an operator": at_operators(operator),
    "beside a revoked one": lambda pki: pki.below(pki.middle),
}
