"""Requests that wait for people, or were approved and not used yet."""

from __future__ import annotations

from datetime import datetime

from stepcred.cli._top import advice
from stepcred.cli._top.model import Approval, Snapshot
from stepcred.cli._top.panes.common import ago, at_home, by_time, ends, tone, whose
from stepcred.cli._top.table import Cell, Column, Pane, Row, Tone
from stepcred.cli._top.words import clock, short


def rows(snapshot: Snapshot) -> list[Row]:
    domain = at_home(snapshot)
    return [_row(approval, domain, snapshot.at) for approval in snapshot.approvals]


def _row(approval: Approval, domain: str, now: datetime) -> Row:
    given = sum(vote.approve for vote in approval.votes)
    return Row(
        key=approval.approval_id,
        cells=(
            Cell(approval.state, tone(approval.state)),
            Cell(approval.scope),
            Cell(approval.tier),
            Cell(f"{given}/{approval.needed}"),
            Cell(ago(approval.requested_at, now)),
            ends(approval.expires_at, now),
            Cell(short(approval.place.agent, domain)),
            Cell(approval.place.run),
            Cell(f"no: {approval.you_may_not}", Tone.ASIDE) if approval.you_may_not else Cell("yes"),
        ),
        orders=(
            by_time(approval.requested_at),
            by_time(approval.expires_at),
            (approval.scope, by_time(approval.requested_at)),
        ),
        details=(
            ("approval", approval.approval_id),
            ("state", approval.state),
            *whose(approval.place),
            ("scope", approval.scope),
            ("tier", approval.tier),
            ("rule", approval.rule),
            ("votes", f"{given} of {approval.needed}"),
            *((one.operator, f"{'approves' if one.approve else 'denies'}: {one.reason}") for one in approval.votes),
            ("asked at", clock(approval.requested_at)),
            ("waits until", clock(approval.expires_at)),
            ("digest", approval.digest),
            ("may you?", f"no: {approval.you_may_not}" if approval.you_may_not else "yes"),
        ),
        commands=advice.for_approval(approval),
    )


APPROVALS = Pane(
    name="Approvals",
    columns=(
        Column(title="STATE", least=8, most=8),
        Column(title="SCOPE", least=12, most=36),
        Column(title="TIER", least=8, most=8),
        Column(title="VOTES", least=5, most=5, right=True),
        Column(title="AGE", least=5, most=6, right=True),
        Column(title="ENDS", least=5, most=6, right=True),
        Column(title="AGENT", least=11, most=50, keep_end=True),
        Column(title="RUN", least=8, most=40, keep_end=True),
        Column(title="MAY YOU", least=9, most=60),
    ),
    orders=("oldest", "ends next", "scope"),
    rows=rows,
    nothing="nothing waits for an approval",
)
