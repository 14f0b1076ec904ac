"""Domain values → wire: whatever a provider answered and the store holds, it can be said, and reads back the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from broker.errors import BrokerError, Reason
from broker.leases.beginning import ScopeAnswer
from broker.leases.committing import Delivered
from broker.leases.engine import Ended
from broker.leases.outcomes import Outcome
from broker.model import (
    AwsSession,
    Credential,
    Evidence,
    KeyValue,
    LeaseState,
    Revocability,
    RuleRef,
    SshCertificate,
    Tier,
    UsernamePassword,
    VaultToken,
    Verdict,
    X509Certificate,
)
from broker.policy.decision import AccessRequest, Allowed, Concurrent, Denial, Denied
from broker.rpc import convert, status
from broker.secret import Secret
from tests.fakes import domain
from tests.fuzz.target import Check, Draw, Target

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        draw = Draw(data)
        credential = _credential(draw)
        states, kinds = tuple(LeaseState), tuple(Revocability)
        row = domain.lease(
            scope=draw.text(),
            tier=draw.choose(tuple(Tier)),
            state=draw.choose(states),
            revocability=draw.choose(kinds),
            intent_at=_time(draw),
            active_at=_time(draw),
            expires_at=_time(draw),
        )
        made = convert.issued(Delivered(lease=row, credential=credential))
        assert type(made).FromString(made.SerializeToString()) == made
        assert len(made.credential.ListFields()) == 1, "a credential of two kinds, or of none"
        assert made.lease.expires_at.ToDatetime(UTC) == row.expires_at
        outcome = Outcome(
            lease_id=row.id,
            scope=row.scope,
            state=row.state,
            revocability=row.revocability,
            evidence=draw.choose((None, *Evidence)),
            time_to_dead=draw.choose((None, _span(draw))),
            exposed_until=draw.choose((None, _time(draw))),
        )
        ended = convert.ended(Ended(outcomes=(outcome,) * draw.number(3)))
        assert type(ended).FromString(ended.SerializeToString()) == ended
        _verdict(draw)
        _refusal(draw)

    yield check


def _credential(draw: Draw) -> Credential:
    def secret() -> Secret:
        return Secret(draw.text())

    text = draw.text
    match draw.number(6):
        case 0:
            return VaultToken(token=secret(), address=text(), namespace=text())
        case 1:
            return UsernamePassword(username=text(), password=secret(), attributes={text(): text()})
        case 2:
            return AwsSession(
                access_key_id=text(),
                secret_access_key=secret(),
                session_token=secret(),
                region=text(),
                endpoint_url=text(),
                session_expires_at=_time(draw),
            )
        case 3:
            return KeyValue(data={text(): secret() for _ in range(draw.number(4))}, version=draw.wide())
        case 4:
            key = draw.choose((None, secret()))
            return X509Certificate(
                certificate_pem=text(), chain_pem=[text()], serial_number=text(), private_key_pem=key
            )
        case _:
            return SshCertificate(signed_key=text(), serial_number=text())


def _verdict(draw: Draw) -> None:
    rule = RuleRef(name=draw.text(), file=draw.text(), line=draw.number(256), column=draw.number(256))
    asked = AccessRequest(agent="a", workflow="w", run="r", step="s", scope=draw.text(), now=_time(draw))
    known = draw.number(2) == 1
    denied = Denied(
        reason=draw.choose(tuple(Denial)), message="m", known=known, rule=rule, smallest_fix="fix-" + draw.text()
    )
    made = convert.verdict(ScopeAnswer(asked=asked, decision=denied, reference_id=draw.text()))
    assert type(made).FromString(made.SerializeToString()) == made
    if not known:
        assert (made.rule, made.position, made.smallest_fix, made.reason) == ("", "", "", "ACCESS_DENIED")
    allowed = Allowed(
        scope=asked.scope,
        provider="p",
        params={},
        tier=draw.choose(tuple(Tier)),
        revocability=draw.choose(tuple(Revocability)),
        ttl=_span(draw),
        max_ttl=_span(draw),
        max_step=_span(draw),
        until=None,
        concurrent=Concurrent.REFUSE,
        rule=rule,
        workload="w",
        captures={},
        fits=(("w", {}),),
        approvals=draw.number(3),
    )
    told = convert.verdict(ScopeAnswer(asked=asked, decision=allowed))
    assert type(told).FromString(told.SerializeToString()) == told


def _refusal(draw: Draw) -> None:
    error = BrokerError(
        draw.choose(tuple(Reason)),
        draw.text(),
        retry_after=draw.choose((None, _span(draw))),
        verdict=draw.choose((None, *Verdict)),
        metadata={draw.text(): draw.text()},
    )
    error.reference_id = draw.text()
    found = status.status_of(error)
    assert type(found).FromString(found.SerializeToString()) == found
    assert found.code == status.code_of(error).value[0]
    assert found.code, "a refusal that looks like success"
    assert dict(status.trailers_of(error))[status.PUSHBACK]


def _time(draw: Draw) -> datetime:
    """Any that a Timestamp can say."""
    return FIRST + timedelta(microseconds=abs(draw.wide()) % ((LAST - FIRST) // timedelta(microseconds=1)))


def _span(draw: Draw) -> timedelta:
    return timedelta(microseconds=draw.wide() % 2**56)


def seeds() -> Iterator[bytes]:
    for kind in range(6):
        yield bytes([kind]) + b"\4text" * 12
        yield bytes([kind]) + bytes(64)


TARGET = Target(ready=ready, seeds=seeds, words=(b"\xff" * 8, b"\x80" + b"\0" * 7), max_bytes=1024)
