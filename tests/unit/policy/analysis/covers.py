"""Is a question within an answer of `who_can` or `what_can`? From what the answer says, without asking `decide`.

So an entry that is missing, or a deny that is not told as its exception, shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker.policy.analysis.reach import Entry, Reach
from broker.policy.analysis.times import concerns, usable
from broker.policy.decision import AccessRequest
from broker.policy.patterns import BINDING, Pattern
from broker.policy.rules import Deny
from broker.policy.templates import VALUE

_ANY = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255}"
_LONGEST = 2048  # bytes, SPIFFE-ID 2.3


def covers(reach: Reach, asked: AccessRequest) -> bool:
    """Does the answer say that this is allowed? For questions from its `since` on."""
    return bool(covering(reach, asked))


def covering(reach: Reach, asked: AccessRequest) -> list[Entry]:
    """The entries that say so."""
    if asked.now < reach.since or (reach.region is not None and taken(reach.region, asked.agent) is None):
        return []
    fits = {
        workload.name: captures
        for workload in reach.scope_map.workloads.values()
        if (captures := taken(workload.pattern, asked.agent)) is not None
    }
    for captures in fits.values():
        if any(captures.get(name, getattr(asked, name)) != getattr(asked, name) for name in BINDING):
            return []
    return [entry for entry in reach.entries if _allows(entry, fits, asked)]


def taken(pattern: Pattern, agent: str) -> Mapping[str, str] | None:
    """What the captures of a pattern take of a SPIFFE ID; None: it does not fit."""
    parts = [re.escape(one) if isinstance(one, str) else f"({_ANY})" for one in pattern.segments]
    expression = f"spiffe://{re.escape(pattern.trust_domain)}/{'/'.join(parts)}"
    found = re.fullmatch(expression, agent, re.ASCII) if len(agent) <= _LONGEST else None
    return None if found is None else dict(zip(pattern.captures, found.groups(), strict=True))


def _allows(entry: Entry, fits: Mapping[str, Mapping[str, str]], asked: AccessRequest) -> bool:
    grant = entry.grant
    if entry.scope.name != asked.scope or entry.workload.name not in fits:
        return False
    proven = {name: getattr(asked, name) for name in BINDING} if asked.proven else {}
    values = {**proven, **fits[entry.workload.name]}
    return (
        (entry.workflows is None or asked.workflow in entry.workflows)
        and (grant.workflows is None or asked.workflow in grant.workflows)
        and (asked.proven or not entry.needs_launcher)
        and (grant.digests is None or (asked.proven and asked.definition_digest in grant.digests))
        and (grant.attempts is None or asked.attempt <= grant.attempts)
        and usable(grant.when, asked.now)
        and bool(grant.when.reaches(asked.address))
        and all(VALUE.fullmatch(values.get(name, "")) for name in entry.scope.variables)
        and not any(_excepts(deny, fits, asked) for deny in entry.exceptions)
    )


def _excepts(deny: Deny, fits: Mapping[str, Mapping[str, str]], asked: AccessRequest) -> bool:
    known = asked.proven or any("workflow" in captures for captures in fits.values())
    return (
        (deny.workloads is None or not deny.workloads.isdisjoint(fits))
        and (deny.scopes is None or asked.scope in deny.scopes)
        and (deny.workflows is None or not known or asked.workflow in deny.workflows)
        and (
            deny.digests is None
            or asked.definition_digest in deny.digests
            or not (asked.proven and asked.definition_digest)
        )
        and deny.when.reaches(asked.address) is not False
        and concerns(deny.when, asked.now)
    )
