"""The panes, in the order of their keys."""

from __future__ import annotations

from stepcred.cli._top.panes.approvals import APPROVALS
from stepcred.cli._top.panes.broker import BROKER
from stepcred.cli._top.panes.guard import GUARD
from stepcred.cli._top.panes.leases import LEASES
from stepcred.cli._top.panes.revocations import REVOCATIONS
from stepcred.cli._top.panes.steps import STEPS

__all__ = ["APPROVALS", "BROKER", "GUARD", "LEASES", "PANES", "REVOCATIONS", "STEPS"]

PANES = (STEPS, LEASES, REVOCATIONS, GUARD, APPROVALS, BROKER)

__all__ = ["APPROVALS", "BROKER", "GUARD", "LEASES", "PANES", "REVOCATIONS", "STEPS"]
