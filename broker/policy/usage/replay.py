"""A recorded question, asked of another map at its own time. Pure, total."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.model import RuleRef
from broker.policy import fixes
from broker.policy.decision import AccessRequest, Allowed, Denial, Denied
from broker.policy.launch import Launch
from broker.policy.problems import quote, show
from broker.policy.scope_map import ScopeMap
from broker.policy.usage.events import Outcome, Question

LAUNCHER_REFUSED = "LAUNCHER_REFUSED"  # beside the Denials: the step itself would not be opened


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the map says."""

    outcome: Outcome
    reason: str = ""  # of a refusal
    message: str = ""
    fix: str = ""  # YAML to paste, or a comment
    rule: RuleRef | None = None  # what allowed or refused it, or the nearest grant
    workload: str = ""  # of an allowed one
    launcher: RuleRef | None = None  # by which the step may be opened


def asked_of(scope_map: ScopeMap, question: Question) -> tuple[AccessRequest, RuleRef | None]:
    """As this map would be asked: what a launcher said is proven when this map lets it say so, by the rule returned."""
    asked = question.request
    if not question.launcher:
        return asked, None
    rule = scope_map.may_launch(
        Launch(
            launcher=question.launcher,
            agent=asked.agent,
            workflow=asked.workflow,
            run=asked.run,
            step=asked.step,
            definition_digest=question.said_digest,
            now=asked.now,
        )
    )
    proven = rule is not None
    return replace(asked, proven=proven, definition_digest=question.said_digest if proven else ""), rule


def replay(scope_map: ScopeMap, question: Question) -> Answer | None:
    """None when it turns on an address that the record does not tell."""
    asked, launcher = asked_of(scope_map, question)
    if question.launcher and launcher is None:
        return _not_opened(question)
    decision = scope_map.decide(asked)
    if isinstance(decision, Allowed):
        return Answer(
            outcome=Outcome.APPROVAL if decision.approvals else Outcome.ALLOWED,
            rule=decision.rule,
            workload=decision.workload,
            launcher=launcher,
        )
    if "address" in question.untold and _turns_on_address(scope_map, decision):
        return None
    return Answer(
        outcome=Outcome.REFUSED,
        reason=decision.reason.value,
        message=decision.message,
        fix=decision.smallest_fix,
        rule=decision.rule,
        launcher=launcher,
    )


def _turns_on_address(scope_map: ScopeMap, decision: Denied) -> bool:
    if decision.reason is Denial.DENY_RULE:
        return any(deny.rule == decision.rule and deny.when.networks is not None for deny in scope_map.denies.values())
    return decision.reason is Denial.SOURCE_NOT_ALLOWED


def _not_opened(question: Question) -> Answer:
    asked = question.request
    who = f"{show(question.launcher)} may not open steps of workflow {show(asked.workflow)} for {show(asked.agent)}"
    fix = f"let an entry of launchers: whose id fits {quote(question.launcher)} name its workload and workflow"
    return Answer(outcome=Outcome.REFUSED, reason=LAUNCHER_REFUSED, message=who, fix=fixes.render([fix]))
