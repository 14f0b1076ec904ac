"""Where the chapters play: the screen, the servers, and how a step is run and its credential tried afterwards."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from tests.demo.commands import Ran, Running, started
from tests.demo.people import Operator, admin, shown
from tests.demo.screen import Screen, Stopwatch
from tests.demo.site import BUCKET, Site
from tests.demo.stories import LeaseStory, lease_stories
from tests.support.bao import BaoServer
from tests.support.moto import MotoServer
from tests.support.receiver import Receiver

RUN_ID = "run-42"  # a scheduler's name of this run
LOOKUP_SELF = "auth/token/lookup-self"  # every live token of a step may
DENY_WITHIN = 10.0  # seconds for the deny to be written; moto itself obeys at once


@dataclass(frozen=True, kw_only=True)
class Played:
    """A step that has ended. `copy`: what a thief took of it, and what it was told; {} when it died before."""

    ran: Ran
    copy: Mapping[str, Any]

    @property
    def tokens(self) -> list[str]:
        found: list[str] = self.copy.get("tokens", [])
        return found


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that a chapter needs."""

    screen: Screen
    site: Site
    bao: BaoServer
    moto: MotoServer
    ann: Operator
    bob: Operator
    receiver: Receiver  # of the alerts
    public_key: str  # that it verifies them with
    secrets: list[str] = field(default_factory=list, repr=False)  # of every copy

    def play(self, step: str, shown: str, argv: Sequence[str | Path], *, comment: str = "") -> Played:
        """Run one step as a process of its own, and show what it prints."""
        self.screen.command(shown, comment)
        with self.begun(step, argv) as running:
            return self.ended(step, running)

    @contextlib.contextmanager
    def begun(self, step: str, argv: Sequence[str | Path]) -> Iterator[Running]:
        """The same beside us, for others to act while it runs."""
        program, *arguments = argv
        env = {**self.site.environment(step, RUN_ID), "DEMO_COPY": str(self._copy(step))}
        with started(str(program), *arguments, env=env) as running:
            yield running

    def ended(self, step: str, running: Running) -> Played:
        """Wait for its end, and show what it has printed."""
        ran, copy = running.wait(), self._copy(step)
        self.screen.output(ran.lines)
        taken = json.loads(copy.read_text()) if copy.exists() else {}
        copy.unlink(missing_ok=True)
        secret = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        self.secrets.extend(taken.get("tokens", []))
        self.secrets.extend(taken["aws"][name] for name in secret if "aws" in taken)
        return Played(ran=ran, copy=taken)

    def _copy(self, step: str) -> Path:
        return self.site.folder / f"{step}.copy.json"

    def admin(self, operator: Operator, *arguments: str, code: bool = False, comment: str = "") -> Ran:
        """What an operator types; `code`: with one of its second factor."""
        self.screen.command(shown(*arguments), f"{operator.name}: {comment}" if comment else operator.name)
        return admin(self.site, operator, *arguments, code=code)

    def leases(self, step: str) -> list[LeaseStory]:
        """What the journal says of a step's leases."""
        return lease_stories(self.site.journal(), run_id=RUN_ID, step=step)

    def journal_says(self, step: str, *, rule: str, leases: int = 1) -> None:
        """Check: that many leases, by that rule, each seen dead."""
        found = self.leases(step)
        right = [one for one in found if one.rule.startswith(f"{rule} (") and one.evidence == "SEEN_DEAD"]
        told = str(found[0]) if found else "no lease"
        slowest = max((one.dead_in for one in found), default=0.0)
        text = f"journal: {told}" if leases == 1 else f"journal, {leases} leases: {told}"
        self.screen.check(text, len(right) == len(found) == leases, seconds=slowest, seen=f"{len(found)} leases")

    def tokens_dead(self, played: Played, path: str) -> None:
        """Check by use: each copied token is refused what it could read, and root is told that there is no such token."""
        watch = Stopwatch()
        used = [self.bao.call("GET", what, token=token) for token in played.tokens for what in (path, LOOKUP_SELF)]
        asked = [self.bao.call("POST", "auth/token/lookup", {"token": token}) for token in played.tokens]
        seen = sorted({answer.status for answer in used})
        known = [answer for answer in asked if (answer.status, answer.body.get("errors")) != (403, ["bad token"])]
        who = "a copy of the token" if len(played.tokens) == 1 else f"copies of all {len(played.tokens)} tokens"
        text = f"{who}, used now: HTTP 403; root asks OpenBao for it: bad token"
        self.screen.check(text, seen == [403] and not known, seconds=watch.seconds, seen=seen or "no copy")

    def session_dead(self, played: Played) -> None:
        """Check by use: the copied AWS session is refused, as soon as the deny is written."""
        watch = Stopwatch()
        seen = self.put(played.copy)
        while seen == "done" and watch.seconds < DENY_WITHIN:
            time.sleep(0.05)
            seen = self.put(played.copy)
        text = "a copy of the session, used now: PutObject AccessDenied"
        self.screen.check(text, seen == "AccessDenied", seconds=watch.seconds, seen=seen)

    def put(self, copy: Mapping[str, Any]) -> str:
        """Try to write with a copied session: "done", or AWS's error code."""
        if "aws" not in copy:
            return "no copy"
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        s3 = self.moto.client("s3", **{name.lower(): copy["aws"][name] for name in names})
        try:
            s3.put_object(Bucket=BUCKET, Key="nightly-etl/stolen", Body=b"")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "done"
