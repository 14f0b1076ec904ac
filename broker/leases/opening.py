"""What BeginStep asks for: a step of the caller's own, or as a launcher one for a workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from broker.errors import BrokerError, Reason, access_denied
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.leases.core import (
    check_name,
    check_request_id,
    check_scopes,
)
from broker.model import DEFINITION_DIGEST, MIN_LEASE_LIFE, Agent, StepKey

MAX_STEP = timedelta(hours=24)  # DESIGN section 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What BeginStep asks for."""

    request_id: str
    key: StepKey
    scopes: tuple[str, ...]
    max_duration: timedelta | None
    opened_by: str  # SPIFFE ID of the caller
    address: str  # the agent's own; "" while only its launcher has called
    definition_digest: str = ""

    @property
    def launched(self) -> bool:
        """Asked for by a launcher."""
        return self.opened_by != self.key.agent

    @property
    def payload(self) -> tuple[str | Sequence[str], ...]:
        """What a replay must repeat exactly."""
        key = self.key
        said = (key.agent, self.definition_digest) if self.launched else ()
        return (key.workflow, key.run, key.step, list(self.scopes), str(self.max_duration), *said)


def opening(
    *,
    agent: Agent,
    request_id: str,
    workflow: str,
    run: str,
    step: str,
    scopes: Sequence[str],
    seconds: float | None,
    on_behalf_of: str = "",
    definition_digest: str = "",
) -> Opening:
    """Check everything that needs no state. Raises BrokerError."""
    if seconds is not None and not MIN_LEASE_LIFE.total_seconds() <= seconds <= MAX_STEP.total_seconds():
        raise BrokerError(Reason.INVALID_ARGUMENT, "max_duration must be between 60 seconds and 24 hours")
    return Opening(
        request_id=check_request_id(request_id),
        key=StepKey(
            agent=_workload(agent, on_behalf_of) if on_behalf_of else agent.spiffe_id,
            workflow=check_name("workflow", workflow),
            run=check_name("run", run),
            step=check_name("step", step),
        ),
        scopes=check_scopes(scopes),
        max_duration=timedelta(seconds=seconds) if seconds is not None else None,
        opened_by=agent.spiffe_id,
        address="" if on_behalf_of else agent.address,
        definition_digest=_digest(definition_digest, launched=bool(on_behalf_of)),
    )


def _workload(launcher: Agent, on_behalf_of: str) -> str:
    """Not the launcher itself: nobody proves what it says of itself. Whose workload it is, the map says."""
    try:
        workload = parse_spiffe_id(on_behalf_of)
    except SpiffeIdError as error:
        raise BrokerError(Reason.INVALID_ARGUMENT, f"on_behalf_of: {error}") from None
    if on_behalf_of == launcher.spiffe_id:
        raise not_theirs(on_behalf_of)
    return str(workload)


def _digest(text: str, *, launched: bool) -> str:
    if text and not launched:
        raise BrokerError(
            Reason.INVALID_ARGUMENT, "definition_digest is for launchers, who name the workload in on_behalf_of"
        )
    if text and DEFINITION_DIGEST.fullmatch(text) is None:
        raise BrokerError(
            Reason.INVALID_ARGUMENT, "definition_digest must be sha256: and 64 lower-case hexadecimal digits"
        )
    return text


def not_theirs(workload: str) -> BrokerError:
    """A workload that does not exist, one of another launcher, one of another trust domain: one and the same answer."""
    error = access_denied()
    error.about = {"on_behalf_of": workload}
    return error
