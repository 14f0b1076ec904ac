"""The whole story of one refusal, from its journal record: what was asked, what was told, why, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from broker.errors import Reason
from broker.journal.records import Kind
from broker.model import JsonValue
from broker.policy.decision import Allowed
from broker.policy.expectations import request_for
from broker.policy.explain import Explanation, explain
from broker.policy.patterns import BINDING
from broker.policy.problems import show
from broker.policy.scope_map import ScopeMap
from broker.policy.usage.events import Outcome, Question
from broker.policy.usage.reading import instant, question, text
from broker.policy.usage.replay import LAUNCHER_REFUSED, asked_of

NEAREST = 3  # grants told
_STYLES = {"ALLOWED": "bold green", "DENIED": "bold red"}

# For operators; what agents may do about a reason is in docs/errors.md.
_TODO = {
    Reason.ACCESS_DENIED: "the handle, lease or agent is unknown to the broker, or another's: it has no rule to change",
    Reason.SCOPE_NOT_NAMED: "the step did not name this scope when it began: let it name every scope in BeginStep",
    Reason.TTL_TOO_SHORT: "under 60s were left of the step: let it ask earlier, or live longer (max_step, max_duration)",
    Reason.STEP_ENDED: "the step had ended: the journal's STEP_ENDED record of its step_id says why",
    Reason.STEP_ALIVE: "an earlier attempt was alive: it ends, or is silent; or let its grants say concurrent: supersede",
    Reason.FROZEN: "an operator had frozen minting",
    Reason.COOLING: "the guard: too many attempts for now; it ends by itself",
    Reason.LOCKED: "the guard: the step used up its attempts and was ended; find out why it asks again and again",
    Reason.HELD: "the guard: it came back after a lock; an operator who does not own the workload lets it go",
    Reason.CEILING: "the guard: too many attempts in this step's life; mend the cause, then begin another run",
    Reason.RATE_LIMITED: "the agent sends too many requests; no rule of the map limits that",
    Reason.PROVIDER_FAILED: "the provider did not mint: stepcred-broker check --live asks it again; the broker's log has more",
    Reason.NO_ROOM_TO_REVOKE: "no place for an early end: shorter ttl, more roles (docs/aws.md); check --live looks at the role",
    Reason.STORE_UNAVAILABLE: "the broker could not write: make room, or see why its database is locked",
    Reason.DRAINING: "the broker was stopping; the agent asks another, or again",
    Reason.EPOCH_LOST: "the broker had lost its right to write; the agent asks again with the same request id",
    Reason.AGENT_DENIED: "an operator has denied this agent or certificate",
    Reason.INTERNAL: "a mistake of the broker's: its log has this reference",
}
_OTHER_KEY = (
    "a certificate renewed over another key, or a handle in other hands: find out which. "
    "The step can be opened again, and is held to the key of that attempt"
)
_TOLD_ALL = (Reason.SCOPE_REFUSED.value, Reason.TTL_TOO_SHORT.value)  # where policy may tell the agent why


@dataclass(frozen=True, kw_only=True, slots=True)
class DenialStory:
    """One refusal. Has no secret."""

    record: Mapping[str, JsonValue]
    more: int | None  # further refusals under the same reference, when the journal says
    today: Explanation | None  # asked again of a map, at its own time
    file: str = ""  # of that map
    not_opened: bool = False  # that map would not let the launcher open the step
    now: Explanation | None = None  # asked of it once more, at the time of this look

    @property
    def data(self) -> Mapping[str, JsonValue]:
        """Never anything but a mapping."""
        found = self.record.get("data")
        return found if isinstance(found, Mapping) else {}

    @property
    def by_policy(self) -> bool:
        """Was it the scope map that refused?"""
        return bool(text(self.data, "denial")) or text(self.record, "reason") == Reason.NEEDS_APPROVAL.value

    def lines(self) -> Iterator[tuple[str, str]]:
        """Styled plain text. What an agent said is quoted, so that it cannot steer a terminal."""
        reference = show(text(self.record, "reference_id"))
        yield "bold", f"denial {reference}, as the journal has it"
        yield from (("", f"  {name}: {_value(value)}") for name, value in self._asked())
        yield from (("", f"  {_plain(line)}") for line in (*self._told(), *self._shared(), *self._why()))
        if self.today is None:
            return
        yield "bold", f"asked again of {self.file}, at its own time"
        for line in self._again(self.today):
            yield _STYLES.get((line.split() or [""])[0], ""), f"  {line}"

    def _asked(self) -> Iterator[tuple[str, JsonValue]]:
        """Who, what, when, where."""
        for name in ("at", "agent", "scope", *BINDING, "step_id", "lease_id", "peer", "cert_sha256"):
            if self.record.get(name):
                yield name, self.record[name]
        for name in ("method", "attempt", "address", "opened_by", "proven", "definition_digest"):
            if self.data.get(name):
                yield name, self.data[name]
        yield "reason", text(self.record, "reason")

    def _told(self) -> Iterator[str]:
        reason = text(self.record, "reason")
        if self.record.get("kind") == Kind.DENIALS_COUNTED.value:
            return
        if reason == Reason.ACCESS_DENIED.value:
            yield 'told: "access denied", and the reference; the same words as for what does not exist'
        elif self.by_policy and reason in _TOLD_ALL:
            yield f"told: {reason}: {show(text(self.data, 'why'))}, with rule and smallest change"
        else:
            yield f"told: {reason or 'nothing'}, and the reference"

    def _shared(self) -> Iterator[str]:
        if self.record.get("kind") == Kind.DENIALS_COUNTED.value:
            yield f"a storm: {self.more} refusals of this agent and reason in the minute {_value(self.data.get('minute'))}"
        elif self.data.get("aggregate"):
            many = "the journal does not say how many more" if self.more is None else f"{self.more} more"
            yield f"a storm: {many} in that minute, of the same agent and reason, were told this reference;"
            yield "  only this first one has a record, the others may have asked for something else"

    def _why(self) -> Iterator[str]:
        reason = text(self.record, "reason")
        if not self.by_policy:
            known = {one.value: todo for one, todo in _TODO.items()}
            todo = known.get(reason, "see docs/errors.md")
            if why := text(self.data, "why"):
                yield f"why: {show(why)}"
                # Of a step, not of a rule: a handle that is held to one key.
                yield f"what to do: {_OTHER_KEY if reason == Reason.ACCESS_DENIED.value else todo}"
                return
            yield "not the scope map's refusal: a changed map changes nothing about it" + (
                f" (its rule allowed: {show(text(self.record, 'rule'))})" if self.record.get("rule") else ""
            )
            yield f"what to do: {todo}"
            return
        if reason == Reason.NEEDS_APPROVAL.value:
            yield "why: a grant gives it, once operators have approved"
        else:
            yield f"why: {text(self.data, 'denial')}: {text(self.data, 'why')}"
        if self.record.get("rule"):
            yield f"rule: {text(self.record, 'rule')}"
        if fix := text(self.data, "smallest_fix"):
            yield "smallest change that would have allowed it:"
            yield from (f"  {line}" for line in fix.split("\n"))

    def _again(self, story: Explanation) -> Iterator[str]:
        if self.not_opened:
            yield f"STILL REFUSED {LAUNCHER_REFUSED}: its launcher may not open this step; as if nothing were proven:"
        elif isinstance(story.decision, Allowed):
            after = f", after {story.decision.approvals} approvals" if story.decision.approvals else ""
            yield f"would be allowed{after}" + ("" if self.by_policy else ": the map was not what refused")
        else:
            yield "would still be refused"
        yield from story.lines()
        if self.now is not None and isinstance(self.now.decision, Allowed) != isinstance(story.decision, Allowed):
            yield f"asked again at {self.now.request.now:%Y-%m-%dT%H:%MZ}, the answer is another one:"
            yield self.now.lines()[2]

    def to_json(self) -> Mapping[str, JsonValue]:
        """For `--json`; keys are stable."""
        return {
            "record": dict(self.record),
            "by_policy": self.by_policy,
            "further_refusals": self.more,
            "today": dict(self.today.to_json()) if self.today else None,
            "now": dict(self.now.to_json()) if self.now else None,
            "launcher_refused": self.not_opened,
        }


def story(record: Mapping[str, JsonValue], more: int | None, scope_map: ScopeMap | None, now: datetime) -> DenialStory:
    """With a map: asked again of it, at the time of the refusal and now, when the record names agent and scope."""
    asked = _question(record, scope_map) if scope_map else None
    if scope_map is None or asked is None:
        return DenialStory(record=record, more=more, today=None)
    request, launcher = asked_of(scope_map, asked)
    found = explain(scope_map, request)
    later, _ = asked_of(scope_map, replace(asked, request=replace(asked.request, now=now)))
    return DenialStory(
        record=record,
        more=more,
        today=replace(found, candidates=found.candidates[:NEAREST]),
        now=explain(scope_map, later),
        not_opened=bool(asked.launcher) and launcher is None,
        file=scope_map.file,
    )


def _question(record: Mapping[str, JsonValue], scope_map: ScopeMap) -> Question | None:
    """Also where the record tells no names: then what the certificate says."""
    at = instant(record.get("at"))
    agent, scope = text(record, "agent"), text(record, "scope")
    if at is None or not agent or not scope:
        return None
    claims = {name: text(record, name) or None for name in BINDING}
    filled = request_for(scope_map, agent=agent, scope=scope, now=at, claims=claims)
    data = record.get("data")
    known = {**(data if isinstance(data, Mapping) else {}), "agent": agent}
    known |= {name: getattr(filled, name) for name in BINDING}
    return question(known, record, scope, at, outcome=Outcome.REFUSED)


def _value(value: JsonValue) -> str:
    return show(value) if isinstance(value, str) else json.dumps(value)


def _plain(line: str) -> str:
    """Our own words, from a file that may be anybody's."""
    return line if line.isprintable() else show(line)
