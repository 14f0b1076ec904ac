"""After a provider could end one lease only together with its like: those end too, and people are told."""

from __future__ import annotations

from broker.alert import Alert, AlertRule
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.core import Core, ref_of
from broker.log import get_logger
from broker.model import EndReason, Lease, LeaseState
from broker.providers.base import DENY_WRITTEN_AT, CutOff
from broker.store.alarms import sound
from broker.store.base import Tx

log = get_logger(__name__)


async def cut_off(core: Core, lease: Lease, cut: CutOff) -> None:
    """`lease` is the one that it was done for. Idempotent. Raises EpochLost, StoreError.

    The others' steps learn at their next heartbeat that their credential is dead, and can ask for another one.
    """
    done = await core.store.write(lambda tx: _cut(tx, core, lease, cut))
    if done:
        log.error("the like of a lease was cut off with it", lease=lease.id, what=cut.value, ended_with_it=len(done))
    core.lane.set()


def _cut(tx: Tx, core: Core, lease: Lease, cut: CutOff) -> list[Lease]:
    core.epoch.fence(tx)
    at = core.clock.now()
    # One that is being minted may have been made before it: nobody shall be given what is dead.
    like = [one for one in tx.leases_in(LeaseState.ACTIVE, LeaseState.INTENT) if one.provider == lease.provider]
    ended = [one for one in like if cut.hits(ref_of(one)) and moves.withdraw(tx, one, at=at, reason=EndReason.CUT_OFF)]
    if ended or not lease.refs.get(DENY_WRITTEN_AT):
        data = {cut.param: cut.value, "before": cut.before.isoformat(), "leases": [one.id for one in ended]}
        moves.record_lease(tx, Kind.PROVIDER_CUT_OFF, lease, at=at, reason=EndReason.CUT_OFF.value, data=data)
        summary = f"everything of {cut.value} that is older than {cut.before:%Y-%m-%dT%H:%M:%SZ} was denied at once"
        alert = Alert(rule=AlertRule.PROVIDER_CUT_OFF, summary=summary, labels={"what": cut.value})
        sound(tx, alert, at=at, agent=lease.agent, lease_id=lease.id, scope=lease.scope)
    return ended
