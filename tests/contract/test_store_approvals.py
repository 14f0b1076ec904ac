"""What people have to say yes to, in every store."""

from __future__ import annotations

from broker.clock import Moment
from broker.model import StepKey
from broker.store.approvals import ApprovalState, past_approval
from broker.store.base import Store
from tests.fakes.domain import AGENT, after
from tests.unit.operators.people import approval

NOW = Moment(wall=after(100), boot=50.0, boot_id="b1")
# name: wall end, boot, elapsed end
ENDS = {
    "over-by-both": (30, "b1", 10.0),
    "over-by-wall": (20, "b1", 99.0),
    "over-just-now": (100, "b0", 1.0),
    "over-by-elapsed": (999, "b1", 50.0),
    "another-boot": (999, "b0", 1.0),
    "nameless": (999, "", 1.0),
    "to-come": (101, "b1", 51.0),
}


async def ask(store: Store, name: str, end: tuple[float, str, float]) -> None:
    wall, boot_id, boot = end
    key = StepKey(agent=AGENT, workflow="etl", run=name, step="load")
    row = approval(id=name, key=key, expires_at=after(wall), boot_id=boot_id, expires_boot=boot)
    await store.write(lambda tx: tx.insert_approval(row))


async def past(store: Store, *, now: Moment = NOW, limit: int = 100) -> list[str]:
    return [row.id for row in await store.read(lambda tx: tx.approvals_past(now, limit=limit))]


async def test_what_is_over_is_found_whichever_clock_says_so(store: Store) -> None:
    for name, end in ENDS.items():
        await ask(store, name, end)
    await store.write(
        lambda tx: tx.insert_approval(approval(id="denied", state=ApprovalState.DENIED, expires_at=after(1)))
    )
    found = await past(store)
    assert found == ["over-by-wall", "over-by-both", "over-just-now", "over-by-elapsed"]
    rows = await store.read(lambda tx: tx.approvals(ApprovalState.PENDING))
    assert {row.id for row in rows if past_approval(row, NOW).total_seconds() >= 0} == set(found)
    nameless = Moment(wall=after(100), boot=50.0, boot_id="")
    assert await past(store, now=nameless) == ["over-by-wall", "over-by-both", "over-just-now"]


async def test_those_that_were_to_end_first_come_first_however_many_are_newer(store: Store) -> None:
    for number in range(5):
        await ask(store, f"old-{number}", (10 + number, "b1", 10.0))
    for number in range(20):
        await ask(store, f"new-{number}", (9999, "b1", 9999.0))
    assert await past(store, limit=3) == ["old-0", "old-1", "old-2"]
