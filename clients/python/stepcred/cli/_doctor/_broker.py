"""The broker's own answer, over gRPC as a step would ask: who it takes us for, and its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import stepcred
from stepcred._errors import BrokerUnavailable, DeadlineExceeded, Refused, StepcredError, TlsRefused
from stepcred._models import Identity
from stepcred.cli._doctor._finding import Case, Finding, ok, plain, problem, warning

TIMEOUT = 10.0  # seconds, all attempts together
SKEW_WARNING = timedelta(seconds=5)
SKEW_PROBLEM = timedelta(seconds=30)  # the broker's timings.clock_skew, by default

# docs/errors.md in the form of a next step. What is not here is shown with the broker's own words.
FIXES = {
    "NO_CLIENT_CERTIFICATE": "something between here and the broker ends TLS: let STEPCRED_ADDR lead to the broker itself",
    "CERTIFICATE_INVALID": "issue one for client authentication (P-256, P-384 or RSA from 2048 bits, 90 days at most), "
    "by a CA below one of the broker's roots; put intermediates after it into STEPCRED_CERT",
    "CERTIFICATE_EXPIRED": "renew the certificate; compare the clocks with date -u",
    "CERTIFICATE_REVOKED": "it, or a CA above it, is on a revocation list: get a new one, and ask the operators why",
    "SPIFFE_ID_INVALID": "issue it with exactly one name: subjectAltName = URI:spiffe://TRUST-DOMAIN/PATH",
    "TRUST_DOMAIN_FOREIGN": "this broker is for another environment: set STEPCRED_ADDR to the one of your trust domain",
    "AGENT_DENIED": "the operators have denied this agent or certificate: ask them; their deny list says why",
    "RATE_LIMITED": "something of this agent's calls without end: stop it, then ask again",
    "DRAINING": "the broker is stopping: ask again in a minute",
    "STORE_UNAVAILABLE": "operators: the broker cannot write, see its /readyz",
    "INTERNAL": "give the operators the reference",
}


def look(case: Case, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Finding]:
    """Asks WhoAmI once the way is clear."""
    paths = {} if case.workload_api else case.paths
    try:
        files = (paths.get("cert"), paths.get("key"), paths.get("ca"))
        with stepcred.connect(case.addr, *files, timeout=TIMEOUT) as broker:
            broker.whoami()  # the handshake's time would count as a difference of the clocks
            before = clock()
            identity = broker.whoami()
            after = clock()
    except StepcredError as error:
        yield _refused(case, error)
        return
    yield from _known(identity, case.now)
    yield from _skew(identity, before, after)


def _refused(case: Case, error: StepcredError) -> Finding:
    match error:
        case Refused() | BrokerUnavailable(reason=str()) if error.reason:
            reference = f", reference {error.reference_id}" if error.reference_id else ""
            text = error.message if isinstance(error, Refused) else str(error)
            return problem(
                f"the broker refuses: {plain(text)} [{plain(error.reason)}{reference}]",
                FIXES.get(error.reason, "docs/errors.md says what it means"),
            )
        case TlsRefused():
            return problem(
                plain(str(error)), "the look at TLS above passed: is there more than one broker at this name?"
            )
        case DeadlineExceeded() | BrokerUnavailable():
            here = f"unset {' '.join(case.steered)}" if case.steered else ""
            return problem(plain(str(error)), here or "on the broker's machine: systemctl status stepcred-broker")
        case _ if case.workload_api:
            return problem(plain(str(error)), "spire-agent api fetch x509: is there an entry for this process?")
        case _:
            return problem(plain(str(error)), "is it a broker, and of this version?")


def _known(identity: Identity, now: datetime) -> Iterator[Finding]:
    if not identity.workloads:
        yield problem(
            f"{plain(identity.spiffe_id)} is no workload of the scope map ({plain(identity.environment)})",
            "operators: add it under workloads:, or stepcred-broker scopes explain",
        )
        return
    names = ", ".join(plain(name) for name in identity.workloads)
    left = identity.certificate_not_after - now if identity.certificate_not_after else None
    until = f"; certificate good for {left.days} days" if left and left.days else ""
    yield ok(f"{plain(identity.spiffe_id)} in {plain(identity.environment)}: workload {names}{until}")
    if identity.scopes:
        yield ok(f"may ask for {plain(', '.join(identity.scopes))}")
    else:
        yield warning("no grant gives this workload any scope", "operators: add one under grants:")


def _skew(identity: Identity, before: datetime, after: datetime) -> Iterator[Finding]:
    if identity.server_time is None:
        return
    # It was read somewhere between the two: only what lies outside is surely a difference.
    ahead = max(identity.server_time - after, before - identity.server_time, timedelta())
    sign = "behind" if identity.server_time > after else "ahead of"
    text = f"this clock is {ahead.total_seconds():.0f} s {sign} the broker's"
    if ahead > SKEW_PROBLEM:
        yield problem(text, "timedatectl set-ntp true, on the machine that is wrong")
    elif ahead > SKEW_WARNING:
        yield warning(text, "timedatectl set-ntp true, on the machine that is wrong")
    else:
        yield ok("the clocks agree")
