"""What people learn of the runaway, and who of them may let it go."""

from __future__ import annotations

import json
import time
from itertools import groupby
from typing import Any

from tests.demo.people import admin
from tests.demo.screen import WIDTH
from tests.demo.site import step_program
from tests.demo.stage import RUN_ID, Stage
from tests.support import webhooks
from tests.support.receiver import Message

TOLD_WITHIN = 15.0  # seconds until the alerts are there
DENIED = 77
WHY = "the loop is mended"


def people_decide(stage: Stage) -> None:
    """The alert; the owner who may not; the other who may; the story of the run."""
    stage.screen.chapter("people decide: ann's group owns repair, bob's does not")
    _alerts(stage)
    _reset(stage)
    _timeline(stage)


def _alerts(stage: Stage) -> None:
    screen, expected = stage.screen, {"guard-locked", "guard-held"}
    until = time.monotonic() + TOLD_WITHIN
    while not expected <= set(_told(stage)) and time.monotonic() < until:
        time.sleep(0.05)
    told = _told(stage)
    for rule in sorted(expected & set(told), reverse=True):
        screen.output([f"webhook: {rule}: {told[rule]['data']['summary']}"])
    text = "guard-locked and guard-held have reached the webhook; the signatures are the broker's"
    screen.check(text, expected <= set(told), seen=sorted(told) or f"{len(stage.receiver.messages)} messages")
    forged = [
        Message(path=one.path, headers=one.headers, body=one.body.replace(b"critical", b"harmless"))
        for one in stage.receiver.messages
        if b"critical" in one.body
    ]
    believed = [one for one in forged if _verified(stage, one)]
    screen.check("the same with one word changed: not believed", forged and not believed, seen=len(believed))


def _told(stage: Stage) -> dict[str, Any]:
    """Alerts that fire, by rule, of messages whose signature is good."""
    good = [message for one in stage.receiver.messages[:] if (message := _verified(stage, one))]
    return {one["data"]["alertname"]: one for one in good if one["type"] == "stepcred.alert.firing"}


def _verified(stage: Stage, message: Message) -> Any:
    """By the receiver's code in docs/alerts.md; None when it does not believe it."""
    try:
        return webhooks.shown()(message.headers, message.body, stage.public_key)
    except ValueError:
        return None


def _reset(stage: Stage) -> None:
    screen = stage.screen
    listed = admin(stage.site, stage.ann, "guard", "list", "--run", RUN_ID, "--step", "repair", "--json")
    keys = json.loads("\n".join(listed.lines))["keys"] if listed.code == 0 else []
    key = str(keys[0]["key"])[:12] if keys else "none"
    reset = ("guard", "reset", key, "--reason", WHY)
    refused = stage.admin(stage.ann, *reset, code=True)
    screen.output(refused.lines[-1:])
    held = refused.code == DENIED and "OWNER_MAY_NOT" in refused.last
    screen.check("its owner may not let it go", held, seconds=refused.seconds, seen=refused.last)
    opened = stage.admin(stage.bob, *reset, code=True)
    screen.output(opened.lines[-1:])
    screen.check("bob may, with a code", opened.code == 0, seconds=opened.seconds, seen=opened.last)
    played = stage.play("repair", "python repair.py --once", [*step_program("repair"), "--once"])
    screen.check(
        "repair runs again",
        (played.ran.code, len(played.tokens)) == (0, 1),
        seconds=played.ran.seconds,
        seen=played.ran.last,
    )
    stage.tokens_dead(played, "secret/data/orders")


def _timeline(stage: Stage) -> None:
    """Of the whole run; on the screen the lines of `repair`, one of those that follow each other and are alike."""
    screen = stage.screen
    told = stage.admin(stage.bob, "timeline", RUN_ID, comment="the lines of repair")
    ours = [line for line in told.lines if line.split()[1:2] == ["repair"]]
    alike = [next(lines) for _, lines in groupby(ours, key=_what)]
    screen.output(_cut(line) for line in [*told.lines[:2], *alike])
    whole = [_what(line) for line in alike]
    decisive = [what for what in whole if what in ("LOCKED", "HELD", "reset")]
    after = whole[whole.index("reset") :] if "reset" in whole else []
    text = f"one run's story, {len(told.lines) - 2} lines: locked, held, let go"
    held = told.code == 0 and decisive == ["LOCKED", "HELD", "reset"] and "minted" in after
    screen.check(text, held, seconds=told.seconds, seen=decisive or told.last)


def _cut(line: str) -> str:
    """To the screen's width."""
    most = WIDTH - 5
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _what(line: str) -> str:
    """The third word of a line: TIME, STEP, WHAT."""
    return next(iter(line.split()[2:3]), "")
