"""Who holds every session that STS ever made, and tries it: the daemon is believed in nothing.

Its own words are looked at only to be held against what the sessions can do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from broker.model import Lease, LeaseState
from broker.providers.base import DENY_WRITTEN_AT
from tests.crash.aws.front import ROLE_CHARACTERS, SLOWEST_SPREAD, AwsFront, Session
from tests.crash.aws.load import Known
from tests.crash.aws.site import TTL, Site
from tests.support.s3 import Lister

AT_ONCE = 4  # sessions that are tried
REFUSED = "AccessDenied"
BOUND_SLACK = 3.0  # seconds: whole ones, and Ceph lets the bound's own second pass (measured)
STALE = 15.0  # seconds past its bound: seen often enough
ENDS_WITHIN = 30.0 + SLOWEST_SPREAD  # seconds after a step's end, or the daemon's start
SPREADS_WITHIN = SLOWEST_SPREAD + 2.0  # seconds after a deny is claimed to be written
LATE_UNDOES = 75.0  # seconds: what a late write took away is written again a minute later
TOO_LATE = 60.0 + 5.0  # seconds of its life left: no deny is written then
CROWDED = ROLE_CHARACTERS - 250  # characters: no room for another list, or another name


@dataclass
class Findings:
    """Kind → what was found, each thing once."""

    of: dict[str, set[str]] = field(default_factory=dict)

    def add(self, kind: str, what: str) -> None:
        self.of.setdefault(kind, set()).add(what)

    @property
    def any(self) -> bool:
        return bool(self.of)

    def __str__(self) -> str:
        return ", ".join(f"{len(what)} {kind}" for kind, what in sorted(self.of.items())) or "nothing found"


class Judge:
    """Looks. Each rule is in `_must_be_dead`, `_tried`, or by its name below."""

    def __init__(self, site: Site, known: Known, findings: Findings) -> None:
        self._site = site
        self._front: AwsFront = site.front
        self._lister: Lister = site.lister
        self._known = known
        self._findings = findings
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._claimed: dict[str, float] = {}  # lease id → monotonic: when the deny was first said to be written
        self._full_at: dict[str, float] = {}  # role → monotonic: last seen without room
        self._one = threading.Lock()
        self.tried = 0

    def close(self) -> None:
        self._threads.shutdown()

    def look(self, since: float | None) -> int:
        """Blocks. `since`: when the daemon that lives now was ready (monotonic).

        How many sessions work that should soon end.
        """
        with self._one:
            return self._look(since)

    def _look(self, since: float | None) -> int:
        made = list(self._front.sessions)  # before the rows: each has its row from before its mint
        rows = self._rows()
        now, wall = time.monotonic(), time.time()
        self._look_at_roles(now)
        for row in rows.values():
            if DENY_WRITTEN_AT in row.refs:
                self._claimed.setdefault(row.id, now)
        living = set(self._known.living)
        alive = [one for one in made if wall < one.asked_at + self._ttl(one) + STALE]
        answers = list(self._threads.map(lambda one: self._lister.tries(one.keys), alive))
        self.tried += len(alive)
        waiting = 0
        for session, answer in zip(alive, answers, strict=True):
            if session.bound > session.asked_at + self._ttl(session) + BOUND_SLACK:
                self._findings.add("without its bound", self._told(session, rows.get(session.lease_id)))
            should_live = session.lease_id in living
            if answer == "":
                if not should_live and since is not None:
                    waiting += self._due(session, since, now, wall) is not None
                lease = rows.get(session.lease_id)
                for kind in self._must_be_dead(session, lease, since, now, wall):
                    self._findings.add(kind, self._told(session, lease))
            elif should_live:
                self._look_at_living(session, answer)
        return waiting

    def at_the_end(self) -> None:
        """What was written, and what is on disk. The daemon is dead, or idle."""
        self._findings.of |= {"twice": twice} if (twice := self._twice()) else {}
        for role in self._site.roles.values():
            held = self._front.ceph.role_policies(role)
            if held.keys() != self._front.policies[role].keys():
                self._findings.add("front", f"{role} holds {sorted(held)}")
        for session in self._front.sessions:
            if session.lease_id in self._known.taken and self._site.scope_of(session.role) != "crowded":
                self._findings.add("taken though its step lives", self._told(session, None))
        for where in self._secrets():
            self._findings.add("secret told", where)

    # --- rules ---

    def _must_be_dead(
        self, session: Session, lease: Lease | None, since: float | None, now: float, wall: float
    ) -> Iterator[str]:
        """Of a session that works."""
        if lease is not None and lease.state.terminal:
            yield "dead but works"
        if lease is None:
            yield "unknown"
        if wall > session.asked_at + self._ttl(session) + BOUND_SLACK:
            yield "past its bound"
        if now > self._claimed.get(session.lease_id, now) + SPREADS_WITHIN:
            yield "denied but works"
        if since is not None and (due := self._due(session, since, now, wall)) is not None and now > due:
            yield "not ended"

    def _due(self, session: Session, since: float, now: float, wall: float) -> float | None:
        """When its end must be seen (monotonic); None: nothing is known, or only its bound ends it."""
        over = self._known.over.get(session.lease_id)
        if over is None and session.lease_id in self._known.delivered:
            return None
        asked = now - (wall - session.asked_at)
        begun = max(since, asked if over is None else over)
        if session.bound - (wall - now + begun) < TOO_LATE:
            return None
        if now - self._full_at.get(session.role, float("-inf")) < LATE_UNDOES:
            return None
        late = self._front.late_at.get(session.role, float("-inf"))
        if late > asked and session.bound - (wall - now + late) < TOO_LATE + LATE_UNDOES:
            return None  # a dead daemon's list may have lost it: seen a minute later, with less than a minute left
        return max(begun + ENDS_WITHIN, late + LATE_UNDOES)

    def _look_at_living(self, session: Session, answer: str) -> None:
        """Only what nobody ended meanwhile counts; a crowded role's sessions may all be cut off."""
        known = session.lease_id in self._known.living and session.lease_id not in self._known.over
        if known and self._site.scope_of(session.role) != "crowded" and time.time() < session.bound - BOUND_SLACK:
            self._findings.add("killed though its step lives", f"{self._told(session, None)}: {answer}")

    def _look_at_roles(self, now: float) -> None:
        for role in self._site.roles.values():
            size = self._front.characters(role)
            if size > CROWDED:
                self._full_at[role] = now
            if size > ROLE_CHARACTERS:
                self._findings.add("too large", role)

    def _twice(self) -> set[str]:
        """One lease is one AssumeRole at most, and one credential."""
        asked = Counter(session.lease_id for session in self._front.sessions)
        return {lease_id for lease_id, count in asked.items() if count > 1} | self._known.two

    def _secrets(self) -> Iterator[str]:
        deployment = self._site.deployment
        for path in (deployment.log, *deployment.database.parent.glob(f"{deployment.database.name}*")):
            content = path.read_bytes()
            for session in self._front.sessions:
                told = (session.keys.secret_access_key.encode(), session.keys.session_token.encode())
                if any(one in content for one in told):
                    yield f"{path.name}: of lease {session.lease_id}"

    # --- what they look at ---

    def open_leases(self) -> Mapping[str, Lease]:
        """Those that have not ended."""
        return {lease_id: lease for lease_id, lease in self._rows().items() if not lease.state.terminal}

    def _rows(self) -> Mapping[str, Lease]:
        with self._site.deployment.store() as store:
            return {lease.id: lease for lease in store.read(lambda tx: tx.leases_in(*LeaseState))}

    def _ttl(self, session: Session) -> float:
        return float(TTL[self._site.scope_of(session.role)])

    def _told(self, session: Session, lease: Lease | None) -> str:
        state = f"{lease.state.value} {lease.last_problem or ''}" if lease else "no row"
        how = "delivered" if session.lease_id in self._known.delivered else "lost"
        return f"{session.lease_id} of {session.role}, {how}: {state}"
