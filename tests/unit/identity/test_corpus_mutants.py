"""Each check of the Authenticator is needed: without it somebody of the corpus is served."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy

from broker.errors import BrokerError
from broker.identity import Authenticator, FrontDoor, leaf, path, spiffe, verify
from broker.identity.deny_list import DenyList
from tests.fakes.clock import FakeClock
from tests.support.certs import TestCA
from tests.support.corpus import BAD, Pki, Shown, furnish
from tests.support.corpus.case import TRUST_DOMAIN, Door
from tests.support.mutants import Mutate, rewritten

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")  # of zero, and below


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is shown, and the house that it is shown to."""

    door: FrontDoor
    clock: FakeClock
    shown: dict[str, Shown]

    def served(self) -> Iterator[str]:
        """By authenticators that remember nothing."""
        for name, one in self.shown.items():
            side = {Door.AGENTS: verify.agents, Door.OPERATORS: verify.operators}[one.door]
            authenticator = Authenticator(self.door, self.clock, side=side)
            with contextlib.suppress(BrokerError):
                authenticator.authenticate(one.leaf_pem, chain=one.chain_pem, tls_version="TLSv1.3", peer="test")
                yield name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """All bad ones but those that only a handshake can tell."""
    pki = Pki(TestCA(tmp_path_factory.mktemp("mutants"), TRUST_DOMAIN))
    shown = {name: bad.make(pki) for name, bad in BAD.items() if bad.reason is not None}
    return Corpus(door=furnish(pki, pki.ca.directory).front_door(), clock=FakeClock(pki.now), shown=shown)


def without(check: leaf.Check) -> Mutate:
    left = tuple(one for one in leaf.CHECKS if one is not check)
    return lambda patch: patch.setattr(leaf, "CHECKS", left)


def put(module: ModuleType, **values: Any) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            patch.setattr(module, name, value)

    return mutate


def grammar(pattern: str, flags: re.RegexFlag = re.ASCII) -> Mutate:
    return put(spiffe, _ID=re.compile(pattern, flags))


def of_the_name(old: str, new: str) -> Mutate:
    return rewritten(leaf, "read_spiffe_id", old, new, verify)


def of_the_path(old: str, new: str) -> Mutate:
    return rewritten(verify, "_path", old, new)


def of_the_steps(old: str, new: str) -> Mutate:
    return rewritten(Authenticator, "_verify", old, new)


def of_each_call(old: str, new: str) -> Mutate:
    return rewritten(Authenticator, "authenticate", old, new)


def of_the_deny_list(old: str) -> Mutate:
    return rewritten(DenyList, "names", old, "False")


def matching(condition: str) -> str:
    return f"next((d for known, d in self._side(trust).items() for asked in [spiffe_id.trust_domain] if {condition}), None)"


def timeless(patch: pytest.MonkeyPatch) -> None:
    """The leaf's time is checked twice, the path's once."""
    put(verify, _check_time=lambda *_: None)(patch)
    of_the_path("time(now)", "time(leaf.not_valid_before_utc)")(patch)


DOMAIN = "self._side(trust).get(spiffe_id.trust_domain)"
ANY_ROOT = """roots = tuple(root for one in self._side(trust).values() for root in one.bundle.roots)
        domain = Domain(bundle=type(domain.bundle)(roots=roots, pem=b""), crls=domain.crls)
        path = _path(leaf, intermediates, domain, now)"""
KU, EKU, AGNOSTIC = x509.KeyUsage, x509.ExtendedKeyUsage, Criticality.AGNOSTIC
A_CA = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, AGNOSTIC, None)
SEGMENTS = spiffe._ID.pattern.removeprefix("spiffe://")
MUTANTS: dict[str, Mutate] = {
    **{f"without {check.__name__}": without(check) for check in leaf.CHECKS},
    # names
    "the first of many names": of_the_name("if len(uris) != 1:", "if not uris:"),
    "a name once, however often": of_the_name("if len(uris) != 1:", "if len(set(uris)) != 1:"),
    "the last name": of_the_name("if len(uris) != 1:", "uris = uris[-1:]\n    if not uris:"),
    "the common name instead": of_the_name(
        "if len(uris) != 1:", "uris = uris or [a.value for a in leaf.subject]\n    if len(uris) != 1:"
    ),
    "DNS names too": of_the_name(
        "if len(uris) != 1:",
        "uris = uris or names and names.get_values_for_type(x509.DNSName) or []\n    if len(uris) != 1:",
    ),
    "cut at NUL": of_the_name("parse_spiffe_id(uris[0])", r"parse_spiffe_id(uris[0].split('\0')[0])"),
    "trimmed": of_the_name("parse_spiffe_id(uris[0])", "parse_spiffe_id(uris[0].strip())"),
    "lower case": of_the_name("parse_spiffe_id(uris[0])", "parse_spiffe_id(uris[0].lower())"),
    "decoded": of_the_name(
        "parse_spiffe_id(uris[0])", "parse_spiffe_id(__import__('urllib.parse').parse.unquote(uris[0]))"
    ),
    "without a slash at the end": of_the_name("parse_spiffe_id(uris[0])", "parse_spiffe_id(uris[0].rstrip('/'))"),
    "any trust domain": of_the_steps(DOMAIN, "next(iter(self._side(trust).values()))"),
    "trust domains below": of_the_steps(DOMAIN, matching("asked.endswith('.' + known)")),
    "what begins like the trust domain": of_the_steps(DOMAIN, matching("asked.startswith(known)")),
    "trust domain as a pattern": of_the_steps(DOMAIN, matching("__import__('re').fullmatch(known, asked)")),
    "upper case": grammar(rf"spiffe://{SEGMENTS}", re.ASCII | re.IGNORECASE),
    "the beginning alone": grammar(rf"spiffe://{SEGMENTS}.*", re.ASCII | re.DOTALL),
    "a line break at the end": grammar(rf"spiffe://{SEGMENTS}$\n?"),
    "letters beyond ASCII": grammar(r"spiffe://([\w.-]+)((?:/[\w.-]+)+)", re.UNICODE),
    "dot segments": grammar(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9._-]+)+)"),
    "empty segments": grammar(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9._-]*)+)"),
    "no path": grammar(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9_-]+)*)"),
    "more letters": grammar(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9._%*{};,-]+)+)"),
    "a user": grammar(r"spiffe://(?:[a-z]+@)?([a-z0-9._-]+)((?:/[A-Za-z0-9_-]+)+)"),
    "a port": grammar(r"spiffe://([a-z0-9._-]+)(?::\d+)?((?:/[A-Za-z0-9_-]+)+)"),
    "another scheme": grammar(rf"[a-z]+://{SEGMENTS}"),
    "names of any length": put(spiffe, MAX_BYTES=1 << 20),
    # sizes, time, path
    "certificates of any size": put(verify, MAX_PEM_BYTES=1 << 20),
    "chains of any size": put(verify, MAX_CHAIN_BYTES=1 << 20),
    "chains of any length": put(verify, MAX_INTERMEDIATES=100),
    "at any time": timeless,
    "any issuer": of_the_path('raise _invalid("no valid path', 'return [leaf]  # ("no valid path'),
    "a CA that does not sign certificates": put(
        verify, CA_POLICY=A_CA.may_be_present(EKU, AGNOSTIC, path._issues_clients)
    ),
    "a CA for servers": put(verify, CA_POLICY=A_CA.may_be_present(KU, AGNOSTIC, path._signs_certificates)),
    "roots that the client sends": of_the_path(
        "Store(list(domain.bundle.roots))", "Store([*domain.bundle.roots, *intermediates])"
    ),
    "any domain's root": of_the_steps("path = _path(leaf, intermediates, domain, now)", ANY_ROOT),
    "one door for all": of_the_steps(DOMAIN, "{**trust.agents, **trust.operators}.get(spiffe_id.trust_domain)"),
    # lists
    "without revocation": of_the_steps("if standing.revoked:", "if False:"),
    "revocation of the leaf alone": of_the_steps("domain.crls.standing(path)", "domain.crls.standing(path[:2])"),
    "lists that have run out": of_each_call("self._policy.refuse_stale_crl and", "False and"),
    "without a deny list": of_each_call("if verified.denied:", "if False:"),
    "no names denied": of_the_deny_list("spiffe_id in self.agents"),
    "no keys denied": of_the_deny_list("certificate.spki_sha256 in self.keys"),
    "no serial numbers denied": of_the_deny_list('(certificate.serial_number, "") in self.serials'),
    "no serial numbers of an issuer denied": of_the_deny_list(
        "(certificate.serial_number, certificate.issuer) in self.serials"
    ),
    "nobody denied with all below": of_the_deny_list(
        "any(spiffe_id[:end] in self.below for end in _slashes(spiffe_id))"
    ),
}


def test_nobody_is_served_without_a_mutant(corpus: Corpus) -> None:
    assert list(corpus.served()) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_serves_somebody(mutant: str, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant](monkeypatch)
    assert next(corpus.served(), None) is not None
