"""The story of one decision, for an operator: what was looked at, what refused, what would change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.model import Bind, JsonValue, RuleRef
from broker.policy.decide import Candidate, candidates, distance
from broker.policy.decision import AccessRequest, Allowed, Decision
from broker.policy.durations import format_duration
from broker.policy.patterns import BINDING
from broker.policy.problems import did_you_mean, show
from broker.policy.rules import Match
from broker.policy.scope_map import ScopeMap

_SHOWN = 10  # candidate grants in a story


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A decision with everything that led to it. Has no secret."""

    request: AccessRequest
    decision: Decision
    matches: tuple[Match, ...]
    candidates: tuple[Candidate, ...]
    hint: str = ""  # a scope's name that may have been meant; too dear for the decision itself

    def lines(self) -> list[str]:
        """Plain text, most important first. What an agent said is quoted, so that it cannot steer a terminal."""
        asked = self.request
        head = [
            f"{show(asked.agent)} asks for {show(asked.scope)} at {asked.now.isoformat(timespec='minutes')}",
            "claims: " if not asked.proven else "proven by a launcher: ",
        ]
        head[1] += ", ".join(f"{name} {show(getattr(asked, name))}" for name in BINDING)
        return [*head, *self._verdict(), *self._looked_at()]

    def _verdict(self) -> list[str]:
        decision = self.decision
        if isinstance(decision, Allowed):
            until = f", until {decision.until.isoformat(timespec='minutes')}" if decision.until else ""
            kind = f"{decision.provider}, tier {decision.tier.value}, {decision.revocability.value}"
            held = ", to the key of the step's first call only" if decision.bind is Bind.KEY else ""
            return [f"ALLOWED by {decision.rule}", f"  {kind}, ttl {format_duration(decision.ttl)}{until}{held}"]
        lines = [f"DENIED {decision.reason.value}: {decision.message}{self.hint}"]
        if decision.rule is not None:
            lines.append(f"  rule: {decision.rule}")
        if decision.smallest_fix:
            lines += ["  smallest change that would allow it:", *_indent(decision.smallest_fix)]
        if not decision.known:
            lines.append("  (the agent itself is told none of this: no grant gives it this scope)")
        return lines

    def _looked_at(self) -> list[str]:
        lines = []
        for match in self.matches:
            taken = ", ".join(f"{name}={value}" for name, value in match.captures.items())
            lines.append(f"certificate fits {match.workload.rule}" + (f" with {taken}" if taken else ""))
        for candidate in self.candidates:
            lines.append(
                f"grant {candidate.grant.rule}: " + ("matches" if not candidate.failures else "does not match")
            )
            lines += [f"  {failure.reason.value}: {failure.message}" for failure in candidate.failures]
        return lines

    def to_json(self) -> Mapping[str, JsonValue]:
        """For `--json`; keys are stable."""
        decision = self.decision
        result: dict[str, JsonValue] = {
            "agent": self.request.agent,
            "scope": self.request.scope,
            "at": self.request.now.isoformat(),
            "allowed": isinstance(decision, Allowed),
            "rule": _rule(decision.rule),
            "workloads": [{"name": match.workload.name, "captures": dict(match.captures)} for match in self.matches],
            "grants": [
                {"rule": _rule(one.grant.rule), "failures": [failure.reason.value for failure in one.failures]}
                for one in self.candidates
            ],
        }
        if isinstance(decision, Allowed):
            result["bind"] = decision.bind.value
        else:
            result |= {
                "reason": decision.reason.value,
                "message": decision.message + self.hint,
                "known": decision.known,
            }
            result["smallest_fix"] = decision.smallest_fix
        return result


def explain(scope_map: ScopeMap, request: AccessRequest) -> Explanation:
    """Decide, and keep what was looked at. Pure, total."""
    matches = scope_map.index.matches(request.agent)
    scope = scope_map.scopes.get(request.scope)
    found = candidates(scope_map.index, scope, request, matches) if scope else []
    once = {(one.grant.name, one.match.workload.name): one for one in found}
    nearest = sorted(once.values(), key=distance)
    return Explanation(
        request=request,
        decision=scope_map.decide(request),
        matches=matches,
        candidates=tuple(nearest[:_SHOWN]),
        hint="" if scope else did_you_mean(request.scope, scope_map.scopes),
    )


def _rule(rule: RuleRef | None) -> JsonValue:
    return None if rule is None else {"name": rule.name, "file": rule.file, "line": rule.line}


def _indent(text: str) -> list[str]:
    return ["    " + line for line in text.split("\n")]
