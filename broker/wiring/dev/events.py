"""What steps do, from the journal: as one line for people, and as fields for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from broker.journal.chain import Entry
from broker.journal.records import Kind
from broker.model import JsonValue
from broker.policy.problems import show
from broker.store.base import Store

_AT_ONCE = 500
_WORDS = {
    Kind.POLICY_LOADED: "map",
    Kind.POLICY_REFUSED: "map refused",
    Kind.STEP_BEGUN: "begin",
    Kind.STEP_ENDED: "end",
    Kind.DENIED: "refused",
    Kind.DENIALS_COUNTED: "refused",
    Kind.LEASE_ACTIVE: "mint",
    Kind.LEASE_IN_DOUBT: "in doubt",
    Kind.LEASE_REVOKED: "revoked",
    Kind.LEASE_EXPIRED: "expired",
    Kind.LEASE_VOID: "not minted",
    Kind.GUARD_LOCKED: "locked",
    Kind.GUARD_HELD: "held",
    Kind.FROZEN: "frozen",
}
_NAMED = ("workflow", "run", "step", "scope", "agent", "reason", "reference_id", "lease_id", "step_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened. Has no secret, for the journal has none."""

    at: str  # RFC 3339, by the dev broker's clock
    what: str  # one of the words above
    workflow: str = ""
    run: str = ""
    step: str = ""
    scope: str = ""
    agent: str = ""
    reason: str = ""  # of a refusal; of an end; the evidence of a death
    why: str = ""  # the rule, what would change it, the mistakes of a map
    reference_id: str = ""
    lease_id: str = ""
    step_id: str = ""

    def to_json(self) -> dict[str, str]:
        """What is empty is left out."""
        return {name: value for name, value in asdict(self).items() if value}

    def lines(self) -> list[str]:
        """For a terminal: what agents and files say is quoted."""
        where = "/".join(_plain(part) for part in (self.workflow, self.run, self.step) if part)
        about = "  ".join(part for part in (_plain(self.scope), where, self.reason) if part)
        first, *more = [line for line in self.why.split("\n") if line] or [""]
        head = f"{self.at[11:19]}  {self.what:<11} " + ": ".join(part for part in (about, first) if part)
        return [head.rstrip(), *(f"{'':23}{line}" for line in more)]


def _plain(text: str) -> str:
    return show(text)[1:-1]


class Reading:
    """The journal from where it was read last. A database that was begun anew is read from its beginning."""

    def __init__(self) -> None:
        self._after: tuple[int, int] | None = None
        self._steps: dict[str, Mapping[str, str]] = {}  # records of leases name their step by its id only

    def restart(self) -> None:
        """There is another database."""
        self._after = None
        self._steps.clear()

    async def more(self, store: Store) -> list[Event]:
        """What has come since."""
        found: list[Event] = []
        while True:
            after = self._after
            page: list[Entry] = await store.read(lambda tx, after=after: tx.journal(after=after, limit=_AT_ONCE))  # type: ignore[misc]
            if not page:
                return found
            self._after = (page[-1].chain, page[-1].seq)
            found += self._told(page)

    def _told(self, page: list[Entry]) -> Iterator[Event]:
        for entry in page:
            body = json.loads(entry.body)
            word = _WORDS.get(Kind(body["kind"]))
            named = {name: str(body[name]) for name in _NAMED if name in body}
            step_id = named.get("step_id", "")
            if "workflow" in named and step_id:
                self._steps[step_id] = {name: named.get(name, "") for name in ("workflow", "run", "step")}
            if word is not None:
                named = {**self._steps.get(step_id, {}), **named}
                yield Event(at=body["at"], what=word, why=_why(body), **named)


def _why(body: Mapping[str, JsonValue]) -> str:
    data = body.get("data", {})
    match Kind(body["kind"]):
        case Kind.POLICY_REFUSED:
            return "\n" + "\n".join(data["problems"])
        case Kind.POLICY_LOADED:
            return f"{data['file']} is in force, {data['grants']} grants"
        case Kind.DENIED:
            parts = [str(data.get("why", "")), f"rule {body['rule']}" if body.get("rule") else ""]
            fix = str(data.get("smallest_fix", ""))
            told = ", ".join(part for part in parts if part)
            return told + (f"\nwould allow it: {fix}".replace("\n", "\n  ").removeprefix("  ") if fix else "")
        case Kind.DENIALS_COUNTED:
            return f"{data['count']} times within a minute"
        case Kind.LEASE_VOID:
            return str(data.get("problem", ""))
        case _:
            return ""
