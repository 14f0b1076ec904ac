"""A step that does not stop asking for something powerful; and what is left to look at in the end."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.demo.commands import run
from tests.demo.site import spiffe_id, step_program
from tests.demo.stage import Played, Stage

BUDGET = 3  # of tier `high`, for a step's whole life


def runaway(stage: Stage) -> None:
    """Locked, its credentials dead; held when it comes back."""
    screen = stage.screen
    screen.chapter("repair runs away: tier `high`, again and again", spiffe_id("repair"))
    first = stage.play("repair", "python repair.py", step_program("repair"))
    screen.check(
        f"after {BUDGET} credentials the step is LOCKED, and ended",
        (len(first.tokens), first.copy.get("stopped")) == (BUDGET, "LOCKED"),
        seconds=first.ran.seconds,
        seen=_told(first),
    )
    stage.journal_says("repair", rule="nightly-repair", leases=BUDGET)
    stage.tokens_dead(first, "secret/data/orders")
    renewed = stage.site.certificate("repair")
    again = stage.play("repair", "python repair.py", step_program("repair"), comment="again, with a new certificate")
    screen.check(
        "HELD: nothing more until an operator who does not own the workload lets it go",
        (renewed.code, again.tokens, again.copy.get("stopped")) == (0, [], "HELD"),
        seconds=again.ran.seconds,
        seen=_told(again),
    )


def _told(played: Played) -> str:
    stopped = played.copy.get("stopped")
    return f"{len(played.tokens)} credentials, then {stopped}" if stopped else played.ran.last


def audit(stage: Stage) -> None:
    """The journal, the backend and the files."""
    screen, site = stage.screen, stage.site
    screen.chapter("afterwards")
    verified = run("stepcred-broker", "audit", "verify", "--database", site.database)
    text = "stepcred-broker audit verify: " + verified.last.partition(";")[0]
    screen.check(text, verified.code == 0, seconds=verified.seconds)
    found = run("stepcred-broker", "audit", "verify", "--database", _tampered(site.database))
    text = "the same with one word changed in a copy of the database: found"
    screen.check(text, found.code == 1 and "broken" in found.last, seconds=found.seconds, seen=found.last)
    alive = stage.bao.live_tokens()
    of_leases = [token for token in alive if "lease_id" in (token["meta"] or {})]
    text = f"OpenBao lists {len(alive)} live tokens, none of them of a lease"
    screen.check(text, not of_leases, seen=f"{len(of_leases)} are")
    files = [path for path in site.folder.glob("broker.*") if path.is_file()]
    leaked = [path.name for path in files for secret in stage.secrets if secret.encode() in path.read_bytes()]
    text = f"none of the {len(stage.secrets)} tokens, keys and second factors is in database, journal or log"
    screen.check(text, stage.secrets and not leaked, seen=leaked)


def _tampered(database: Path) -> Path:
    """A copy in which somebody made a lock look like a mere success."""
    copy = database.with_name("tampered.db")
    with sqlite3.connect(database) as old, sqlite3.connect(copy) as new:
        old.backup(new)
        new.execute("DROP TRIGGER journal_is_never_changed")
        new.execute("UPDATE journal SET body = replace(body, 'GUARD_LOCKED', 'STEP_ENDED')")
    return copy
