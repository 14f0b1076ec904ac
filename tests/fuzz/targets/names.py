"""Request ids, names, scopes, handles, digests: what is accepted is exactly what was said, all else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from broker.errors import BrokerError
from broker.leases.core import check_name, check_request_id, check_scopes
from broker.leases.issuing import asking
from broker.leases.opening import opening
from broker.model import DEFINITION_DIGEST, NAME, Agent
from broker.rpc import servicer
from tests.fakes.clock import START
from tests.fuzz.target import Check, Draw, Target

AGENT = Agent(spiffe_id="spiffe://dev.local/a", trust_domain="dev.local", cert_sha256="c" * 64, not_after=START)
UUID = "0b0e7a4e-6f3c-4b0e-9d5a-1f2e3d4c5b6a"


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        draw = Draw(data)
        text = draw.text(surrogates=True)
        for reader in (lambda one: check_name("name", one), check_request_id, servicer._handle):
            try:
                assert reader(text) == text
            except BrokerError as refused:
                assert text not in refused.message or len(text) < 100
        try:
            scopes = check_scopes([draw.text(surrogates=True) for _ in range(draw.number(70))])
            assert len(set(scopes)) == len(scopes) and all(map(NAME.fullmatch, scopes))
        except BrokerError:
            pass
        _open(draw, text)
        with suppress(BrokerError):
            asking(request_id=UUID, scope=text, replaces=draw.text(surrogates=True), public_input=text)

    yield check


def _open(draw: Draw, text: str) -> None:
    names = [draw.choose((text, "nightly", draw.text(surrogates=True))) for _ in range(3)]
    seconds = draw.choose((None, float(draw.wide()), draw.wide() / 1e9))
    digest = draw.choose(("", "sha256:" + "0" * 64, text))
    behalf = draw.choose(("", "spiffe://dev.local/b", text))
    try:
        made = opening(
            agent=AGENT,
            request_id=draw.choose((UUID, text)),
            workflow=names[0],
            run=names[1],
            step=names[2],
            scopes=["plain", text],
            seconds=seconds,
            on_behalf_of=behalf,
            definition_digest=digest,
        )
    except BrokerError:
        return
    assert [made.key.workflow, made.key.run, made.key.step] == names
    assert made.key.agent == (behalf or AGENT.spiffe_id)
    assert not digest or (made.launched and DEFINITION_DIGEST.fullmatch(digest))


def seeds() -> Iterator[bytes]:
    for text in ("nightly", "a" * 250, "..", "a/b", UUID, UUID.upper(), "{" + UUID + "}", "n\n", "\u0661"):
        raw = text.encode()
        yield bytes([len(raw)]) + raw + b"\2\5plain\5other" + bytes(12)


TARGET = Target(ready=ready, seeds=seeds, words=(UUID.encode(), b"sha256:", b"spiffe://dev.local/"), max_bytes=2048)
