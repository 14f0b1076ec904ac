"""A scope that is dangerous enough to ask people: two of them say yes, and the step gets one credential."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.demo.commands import Running
from tests.demo.people import admin
from tests.demo.site import spiffe_id, step_program
from tests.demo.stage import RUN_ID, Stage

ASKED_WITHIN = 10.0  # seconds until the request is there
WHY = "pay day, ticket FIN-311"


def approval(stage: Stage) -> str:
    """The step waits, ann and bob say yes, each with a code. Returns the id of what it asks for next, and nobody decides."""
    screen = stage.screen
    screen.chapter("payout: a scope with `approvals: 2`", spiffe_id("payout"))
    screen.command("python payout.py &")
    with stage.begun("payout", step_program("payout")) as running:
        waits = _request(stage, running)
        name = str(waits.get("approval_id", "none"))
        state = (waits.get("state"), waits.get("needed"), len(stage.leases("payout")))
        screen.check("the step waits for two people, and nothing is minted", state == ("PENDING", 2, 0), seen=state)
        for operator in (stage.ann, stage.bob):
            ran = stage.admin(operator, "approvals", "approve", name, "--reason", WHY, code=True)
            screen.output(ran.lines[-1:])
        screen.check("ann and bob said yes, each with a code of a second factor", "APPROVED" in ran.last, seen=ran.last)
        played = stage.ended("payout", running)
    screen.check(
        "it gets ONE credential; a second one would need another approval",
        (played.ran.code, len(played.tokens), played.copy.get("second")) == (0, 1, "NEEDS_APPROVAL"),
        seconds=played.ran.seconds,
        seen=f"{len(played.tokens)} credentials; {played.ran.last}",
    )
    stage.journal_says("payout", rule="nightly-payout")
    stage.tokens_dead(played, "secret/data/payments")
    return str(played.copy.get("waits", "none"))


def _request(stage: Stage, running: Running) -> dict[str, Any]:
    """What waits for operators; {} when the step has ended without asking."""
    until = time.monotonic() + ASKED_WITHIN
    found: list[dict[str, Any]] = []
    while not found and not running.over and time.monotonic() < until:
        ran = admin(stage.site, stage.ann, "approvals", "list", "--run", RUN_ID, "--json")
        found = json.loads("\n".join(ran.lines))["approvals"] if ran.code == 0 else []
    return found[0] if found else {}
