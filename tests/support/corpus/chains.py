"""Bends of the path: who vouches for the certificate, and how far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from broker.errors import Reason
from broker.identity.authority import Authority, name_of, new_authority
from tests.support.corpus.case import ADMIN, ID, Bad, Make, Pki, Shown, both, ours, shown
from tests.support.corpus.der import ecdsa, extension, tbs_of, whole
from tests.support.corpus.keys import curve_key, rsa_key
from tests.support.corpus.leaves import UNKNOWN


def through(**bends: Any) -> Make:
    """By an intermediate that is bent; arguments are those of `Pki.intermediate`."""
    return lambda pki: pki.below(pki.intermediate(**bends))


def marked(extension: x509.ExtensionType) -> Make:
    """By an intermediate with one more extension, critical."""
    return through(extra=((extension, True),))


def constrained(*, permitted: str = "", excluded: str = "", kind: Any = x509.DNSName, dns: str = "") -> Make:
    """By an intermediate that may only vouch for some names; the leaf has a DNS name besides its ID."""
    names = x509.NameConstraints(*([kind(one)] if one else None for one in (permitted, excluded)))
    beside = (x509.DNSName(dns),) if dns else ()
    return lambda pki: pki.below(pki.intermediate(extra=((names, True),)), other_names=beside)


def directory(common_name: str) -> x509.DirectoryName:
    return x509.DirectoryName(name_of(common_name))


def stranger(pki: Pki, name: str = "stranger") -> Authority:
    return new_authority(name, now=pki.now, path_length=None)


def impostor(pki: Pki, like: Authority) -> Authority:
    """A self-made root with the name, serial number and key identifiers of a real one, and a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    tbs, own = tbs_of(like.certificate), tbs_of(stranger(pki).certificate)
    own_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tbs.public_key, tbs.algorithm = own_key, own.algorithm
    return Authority(certificate=x509.load_der_x509_certificate(whole(tbs, ecdsa(key))), key=key)


def of_impostor(pki: Pki, *, sent_along: bool) -> Shown:
    """Even the leaf's pointer to its issuer's key names the real root's."""
    false = impostor(pki, pki.deep)
    made, key = pki.ca.leaf(ID, issuer=pki.deep)
    leaf = whole(tbs_of(made), ecdsa(false.key))
    return shown(leaf, *([false.certificate] if sent_along else []), key=key)


def self_signed(pki: Pki) -> Shown:
    key = ec.generate_private_key(ec.SECP256R1())
    return pki.leaf(issuer=Authority(certificate=stranger(pki).certificate, key=key), key=key)


def signed_by_itself(pki: Pki) -> Shown:
    """Issuer and subject alike: a root without CA powers."""
    made, key = pki.ca.leaf(ID)
    tbs = tbs_of(made)
    tbs.issuer = tbs.subject
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return shown(whole(tbs, ecdsa(key)), key=key)


def below_an_agent(pki: Pki) -> Shown:
    """An agent that plays CA with its own certificate (CVE-2014-1266 and older: basic constraints not looked at)."""
    middle, key = pki.ca.leaf(ADMIN, issuer=pki.deep)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return pki.below(Authority(certificate=middle, key=key))


def deeper_than(levels: int | None) -> Make:
    """Two intermediates below one that allows `levels` below it."""

    def make(pki: Pki) -> Shown:
        first = pki.intermediate("first", constraints=x509.BasicConstraints(ca=True, path_length=levels))
        second = pki.intermediate("second", issuer=first)
        return pki.leaf(issuer=second, behind=[second, first])

    return make


def over_the_root(pki: Pki) -> Shown:
    return pki.below(pki.intermediate(issuer=pki.root))


def eleven_deep(pki: Pki) -> Shown:
    """More intermediates than a broker follows, each of them sound."""
    levels = [pki.deep]
    for number in range(10):
        levels.append(pki.intermediate(f"level {number}", issuer=levels[-1]))
    return pki.leaf(issuer=levels[-1], behind=levels[:0:-1])


def huge(pki: Pki) -> Shown:
    """A good certificate, and 70 kB of padding behind it."""
    padding = x509.UnrecognizedExtension(UNKNOWN, bytes(14_000))
    return pki.leaf(behind=[pki.intermediate(f"padding {number}", extra=((padding, False),)) for number in range(5)])


def many(pki: Pki) -> Shown:
    return pki.leaf(behind=[stranger(pki, f"stranger {number}") for number in range(9)])


def round_about(pki: Pki) -> Shown:
    """Two intermediates that sign each other, and no root."""
    first = pki.intermediate("first")
    second = pki.intermediate("second", issuer=first)
    again = pki.intermediate("first", issuer=second, key=first.key)
    return pki.leaf(issuer=second, behind=[second, again])


def namesakes(pki: Pki) -> Shown:
    """As many intermediates of one name as are looked at, none of which is the one."""
    sent = [pki.intermediate("one of many") for _ in range(8)]
    return pki.leaf(issuer=pki.intermediate("one of many", issuer=sent[0]), behind=sent)


def own_leaf_first(pki: Pki) -> Shown:
    """A self-signed leaf, and another's good one behind it."""
    mine = self_signed(pki)
    return replace(mine, chain=(*mine.chain, *pki.leaf(ADMIN).chain))


def wrong_order(pki: Pki) -> Shown:
    """The intermediate first, though with the leaf's key."""
    good = pki.below(pki.middle)
    return replace(good, chain=good.chain[::-1])


def borrowed_signature(pki: Pki) -> Shown:
    """Signed by the root, but as another certificate."""
    made, key = pki.ca.leaf(ADMIN)
    other, _ = pki.ca.leaf(ID)
    return shown(whole(tbs_of(made), lambda _: other.signature), key=key)


def changed(pki: Pki) -> Shown:
    """Signed as one workload, changed to another."""
    good = pki.leaf()
    return replace(good, chain=(good.chain[0].replace(b"/step/load", b"/step/LOAD"),))


def key_exchanged(pki: Pki) -> Shown:
    """A good certificate with one's own key put into it."""
    made, _ = pki.ca.leaf(ID)
    key = ec.generate_private_key(ec.SECP256R1())
    tbs = tbs_of(made)
    tbs.public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return shown(whole(tbs, lambda _: made.signature), key=key)


def stolen(pki: Pki) -> Shown:
    """Another's certificate without its key."""
    return replace(pki.leaf(ADMIN), key=ec.generate_private_key(ec.SECP256R1()), spiffe_id=ADMIN)


def nothing(_: Pki) -> Shown:
    """The message that holds the certificates, with none inside."""
    return Shown(chain=(), key=ec.generate_private_key(ec.SECP256R1()))


def two_constraints(pki: Pki) -> Shown:
    """By an intermediate with two basic constraints: no CA, and a CA."""
    middle = pki.intermediate(constraints=x509.BasicConstraints(ca=False, path_length=None))
    tbs = tbs_of(middle.certificate)
    tbs.extensions.append(extension("2.5.29.19", bytes.fromhex("30030101ff"), critical=True))
    leaf = pki.leaf(issuer=middle)
    made = whole(tbs, ecdsa(pki.deep.key))
    return replace(leaf, chain=(*leaf.chain, made))


CHAINS: dict[str, Bad] = {
    "no certificate": both(nothing, Reason.NO_CLIENT_CERTIFICATE),
    # another root
    "self-signed": both(self_signed),
    "self-signed, issuer and subject alike": both(signed_by_itself),
    "another CA": both(lambda pki: pki.leaf(issuer=stranger(pki))),
    "another CA, sent along": both(lambda pki: pki.below(stranger(pki))),
    "another CA with the root's name and key identifier": both(lambda pki: of_impostor(pki, sent_along=False)),
    "the same, sent along": both(lambda pki: of_impostor(pki, sent_along=True)),
    "another CA's intermediate": both(lambda pki: pki.below(pki.intermediate(issuer=stranger(pki)))),
    "a root that has expired": both(lambda pki: pki.leaf(issuer=pki.old)),
    # the intermediates
    "intermediate not sent": both(lambda pki: pki.leaf(issuer=pki.middle)),
    "expired intermediate": both(through(days=(-9, -1))),
    "intermediate not valid yet": both(through(days=(1, 9))),
    "intermediate without CA flag": both(through(constraints=x509.BasicConstraints(ca=False, path_length=None))),
    "intermediate without basic constraints": both(through(constraints=None)),
    "intermediate without keyCertSign": both(through(usages=("crl_sign",))),
    "intermediate for servers alone": both(through(extra=((x509.ExtendedKeyUsage([Eku.SERVER_AUTH]), False),))),
    "intermediate with an unknown critical extension": both(marked(x509.UnrecognizedExtension(UNKNOWN, b"\x05\0"))),
    "intermediate with critical policy constraints": both(marked(x509.PolicyConstraints(0, None))),
    "intermediate with a weak key": ours(lambda pki: pki.below(pki.intermediate(key=rsa_key(1024)))),
    "intermediate on an odd curve": both(lambda pki: pki.below(pki.intermediate(key=curve_key(ec.SECP256K1)))),
    "intermediate with two basic constraints": both(two_constraints),
    "issued by an agent": both(below_an_agent),
    "over the root's path length": ours(over_the_root),
    "over an intermediate's path length": both(deeper_than(0)),
    "eleven deep": ours(eleven_deep),
    "70 kB of chain": ours(huge),
    "a chain of nine strangers": ours(many),
    "intermediates that sign each other": both(round_about),
    "eight namesakes of the intermediate": both(namesakes),
    "intermediate before the leaf": both(wrong_order),
    "another's good certificate behind a self-signed one": both(own_leaf_first),
    # what they may vouch for
    "DNS name outside of the permitted": both(constrained(permitted="other.local", dns="load.dev.local")),
    "DNS name among the excluded": both(constrained(excluded="dev.local", dns="load.dev.local")),
    "URI permitted elsewhere": both(constrained(permitted="other.local", kind=x509.UniformResourceIdentifier)),
    "URI of the trust domain excluded": both(constrained(excluded="dev.local", kind=x509.UniformResourceIdentifier)),
    # cryptography has no constraint on URIs; what cannot be evaluated is against the agent
    "URI of the trust domain permitted": ours(constrained(permitted="dev.local", kind=x509.UniformResourceIdentifier)),
    "directory name among the excluded": both(constrained(excluded="agent", kind=directory)),
    # signatures
    "signature of another certificate": both(borrowed_signature),
    "changed after signing": both(changed),
    "key exchanged after signing": both(key_exchanged),
    "another's certificate without its key": Bad(make=stolen, reason=None, tls=True),
}
