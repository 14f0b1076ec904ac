"""Bends of the name: what the certificate says who its holder is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from cryptography import x509

from broker.errors import Reason
from tests.support.corpus.case import ADMIN, ID, TRUST_DOMAIN, Bad, Make, both, named, ours
from tests.support.corpus.der import SEQUENCE, Tbs, extension, wrap

SAN = x509.SubjectAlternativeName.oid.dotted_string
URI, DNS, EMAIL, X400, DIRECTORY = 0x86, 0x82, 0x81, 0xA3, 0xA4  # tags of GeneralName (RFC 5280, section 4.2.1.6)


def raw_names(value: bytes) -> Make:
    """A name extension with these bytes inside."""

    def change(tbs: Tbs) -> None:
        tbs.extensions.append(extension(SAN, value))

    return lambda pki: pki.forged(change, uris=())


def raw_uri(*uris: bytes, tag: int = URI) -> Make:
    return raw_names(wrap(SEQUENCE, b"".join(wrap(tag, uri) for uri in uris)))


def without_uri(*names: x509.GeneralName, common_name: str = "agent") -> Make:
    return lambda pki: pki.leaf(uris=(), other_names=names, common_name=common_name)


def two_extensions(tbs: Tbs) -> None:
    tbs.extensions.append(extension(SAN, wrap(SEQUENCE, wrap(URI, ADMIN.encode()))))


def like(text: str) -> Make:
    """A name that only looks like one; encoded as UTF-8, which no builder writes."""
    return lambda pki: replace(raw_uri(text.encode())(pki), spiffe_id=text)


def no_id(make: Make) -> Bad:
    return ours(make, Reason.SPIFFE_ID_INVALID)


def foreign(uri: str) -> Bad:
    return ours(named(uri), Reason.TRUST_DOMAIN_FOREIGN)


HOST = f"spiffe://{TRUST_DOMAIN}"
PATH = "/workflow/nightly/step/load"

NAMES: dict[str, Bad] = {
    # how many, and of what kind
    "no name extension": no_id(without_uri()),
    "common name only": no_id(without_uri(common_name=ID)),
    "common name and a DNS name": no_id(without_uri(x509.DNSName("load.dev.local"), common_name=ID)),
    "DNS name only": no_id(without_uri(x509.DNSName("load.dev.local"))),
    "ID as a DNS name": no_id(without_uri(x509.DNSName(ID))),
    "mail address only": no_id(without_uri(x509.RFC822Name("load@dev.local"))),
    "address only": no_id(without_uri(x509.IPAddress(ip_address("127.0.0.1")))),
    "ID as another name": no_id(
        without_uri(x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), wrap(0x0C, ID.encode())))
    ),
    "ID as a registered id": no_id(without_uri(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))),
    "ID in a directory name": no_id(
        without_uri(x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ID[:64])])))
    ),
    "two IDs": no_id(named(ID, ADMIN)),
    "the same ID twice": no_id(named(ID, ID)),
    "an ID and another URI": no_id(named(ID, "https://dev.local/")),
    "another URI and an ID": no_id(named("https://dev.local/", ID)),
    "an ID and an empty URI": no_id(raw_uri(ID.encode(), b"")),
    "two name extensions": both(lambda pki: pki.forged(two_extensions)),
    # the bytes of the extension
    "a list of no names": no_id(raw_uri()),
    "no bytes of names": both(raw_names(b"")),
    "names cut short": both(raw_names(wrap(SEQUENCE, wrap(URI, ID.encode()))[:-4])),
    "bytes behind the names": both(raw_names(wrap(SEQUENCE, wrap(URI, ID.encode())) + b"\x05\x00")),
    "names that are a set": both(raw_names(wrap(0x31, wrap(URI, ID.encode())))),
    "ID under an unknown tag": both(raw_uri(ID.encode(), tag=0x89)),
    "ID as a constructed string": both(raw_uri(ID.encode(), tag=0xA6)),
    "an X.400 address beside the ID": ours(raw_names(wrap(SEQUENCE, wrap(URI, ID.encode()) + wrap(X400, b"\x30\x00")))),
    # bytes that are no letters
    "NUL inside the ID": no_id(named(f"{ADMIN}\0/x")),
    "NUL behind the ID": no_id(named(f"{ID}\0")),
    "NUL before the ID": no_id(named(f"\0{ID}")),
    "NUL behind the trust domain": no_id(named(f"{HOST}\0.evil.example{PATH}")),
    "NUL as the whole name": no_id(named("\0")),
    "line break behind": no_id(named(f"{ID}\n")),
    "line break inside": no_id(named(f"{HOST}/a\nb")),
    "carriage return": no_id(named(f"{ID}\r")),
    "tab": no_id(named(f"{HOST}/a\tb")),
    "escape": no_id(named(f"{HOST}/a\x1b[2K")),
    "delete": no_id(named(f"{HOST}/a\x7f")),
    "blank before": no_id(named(f" {ID}")),
    "blank behind": no_id(named(f"{ID} ")),
    "blank inside": no_id(named(f"{HOST}/work flow")),
    "byte order mark": no_id(like(f"\ufeff{ID}")),
    "bytes beyond ASCII": ours(raw_uri(f"{HOST}/\xff".encode("latin-1"))),
    # letters that look like others
    "umlaut in the path": no_id(like(f"{HOST}/w\u00f6rk")),
    "Cyrillic letter in the path": no_id(like(f"{HOST}/workfl\u043ew/nightly/step/load")),
    "Cyrillic letter in the trust domain": no_id(like(f"spiffe://d\u0435v.local{PATH}")),
    "full-width solidus": no_id(like(f"{HOST}\uff0fadmin")),
    "right-to-left override": no_id(like(f"{HOST}/\u202edaol")),
    "zero-width blank": no_id(like(f"{ID}\u200b")),
    "ideographic full stop": no_id(like(f"spiffe://dev\u3002local{PATH}")),
    "look-alike trust domain in punycode": foreign(f"spiffe://xn--dv-mlc.local{PATH}"),
    # the trust domain
    "foreign trust domain": foreign(f"spiffe://other.local{PATH}"),
    "trust domain below ours": foreign(f"spiffe://a.dev.local{PATH}"),
    "trust domain above ours": foreign(f"spiffe://local{PATH}"),
    "trust domain that ours begins": foreign(f"spiffe://dev.localhost{PATH}"),
    "trust domain that ours ends": foreign(f"spiffe://xdev.local{PATH}"),
    "full stop behind the trust domain": foreign(f"spiffe://dev.local.{PATH}"),
    "full stop before the trust domain": foreign(f"spiffe://.dev.local{PATH}"),
    "any letter for the full stop": foreign(f"spiffe://dev-local{PATH}"),
    "upper-case trust domain": no_id(named(f"spiffe://DEV.local{PATH}")),
    "no trust domain": no_id(named(f"spiffe://{PATH}")),
    "port": no_id(named(f"{HOST}:443{PATH}")),
    "user": no_id(named(f"spiffe://root@dev.local{PATH}")),
    "our trust domain as the user": no_id(named(f"{HOST}@evil.example{PATH}")),
    "trust domain in brackets": no_id(named(f"spiffe://[dev.local]{PATH}")),
    # the scheme
    "https": no_id(named(f"https://dev.local{PATH}")),
    "upper-case scheme": no_id(named(f"SPIFFE://dev.local{PATH}")),
    "scheme in front of the scheme": no_id(named(f"x:{ID}")),
    "no scheme": no_id(named(f"dev.local{PATH}")),
    "one slash": no_id(named(f"spiffe:/dev.local{PATH}")),
    "three slashes": no_id(named(f"spiffe:///dev.local{PATH}")),
    "back-slashes": no_id(named(rf"spiffe:\\dev.local{PATH}")),
    # the path
    "no path": no_id(named(HOST)),
    "path of a slash": no_id(named(f"{HOST}/")),
    "trailing slash": no_id(named(f"{ID}/")),
    "double slash": no_id(named(f"{HOST}//workflow/nightly/step/load")),
    "dot segment": no_id(named(f"{HOST}/./workflow/nightly/step/load")),
    "dot-dot segment": no_id(named(f"{HOST}/x/..{PATH}")),
    "dot-dot at the end": no_id(named(f"{ID}/..")),
    "encoded letter": no_id(named(f"{HOST}/workflow/nightly/step/lo%61d")),
    "encoded slash": no_id(named(f"{HOST}/workflow%2fnightly/step/load")),
    "encoded dots": no_id(named(f"{HOST}/x/%2e%2e{PATH}")),
    "encoded NUL": no_id(named(f"{ID}%00")),
    "query": no_id(named(f"{ID}?x=1")),
    "fragment": no_id(named(f"{ID}#x")),
    "parameter": no_id(named(f"{ID};x=1")),
    "wildcard": no_id(named(f"{HOST}/workflow/*/step/load")),
    "placeholder": no_id(named(f"{HOST}/workflow/{{workflow}}/step/load")),
    "name of 2049 bytes": no_id(named(f"{HOST}/".ljust(2049, "a"))),
    "two names in one, with a comma": no_id(named(f"{ID},{ADMIN}")),
}
