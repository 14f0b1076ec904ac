"""The command lines that act on what is shown. The view itself changes nothing.

Those that need a reason end with `--reason`: pasted as they are, they are refused and do nothing.
"""

from __future__ import annotations

import shlex

from stepcred.cli._top.model import Approval, Freeze, Key, Lease, Place, Step

_ADMIN = ("stepcred", "admin")


def for_step(step: Step) -> tuple[str, ...]:
    return (
        _line("steps", "end", *_place(step.place), "--reason"),
        _line("freeze", "--agent", step.place.agent, "--reason"),
        _timeline(step.place),
    )


def for_lease(lease: Lease) -> tuple[str, ...]:
    return (
        _line("leases", "revoke", lease.lease_id, "--reason"),
        _line("leases", "revoke", *_place(lease.place), "--reason"),
        _line("explain", lease.lease_id),
        _timeline(lease.place),
    )


def for_key(key: Key) -> tuple[str, ...]:
    reset = _line("guard", "reset", key.key, "--reason")
    if key.hour:
        return (reset,)
    return (reset, _timeline(Place(agent="", workflow=key.workflow, run=key.run, step=key.step)))


def for_approval(approval: Approval) -> tuple[str, ...]:
    return (
        _line("approvals", "approve", approval.approval_id, "--reason"),
        _line("approvals", "deny", approval.approval_id, "--reason"),
        _timeline(approval.place),
    )


def for_freeze(freeze: Freeze) -> tuple[str, ...]:
    return (_line("unfreeze", freeze.freeze_id, "--reason"),)


def _timeline(place: Place) -> str:
    return _line("timeline", place.run, "--workflow", place.workflow)


def _place(place: Place) -> tuple[str, ...]:
    return ("--workflow", place.workflow, "--run", place.run, "--step", place.step)


def _line(*words: str) -> str:
    """Quoted for a shell: the names are an agent's."""
    return shlex.join((*_ADMIN, *words))
