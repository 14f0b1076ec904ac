"""Why a condition does not hold, and the smallest change that would make it hold.

A fix is a piece of the map to paste over the same keys (`null` takes a key away), or a sentence where no change of the
map is the answer. What an agent said is always quoted in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import TypeAlias

from broker.model import MIN_LEASE_LIFE, JsonValue
from broker.policy.decision import AccessRequest
from broker.policy.problems import quote, show
from broker.policy.rules import Deny, Grant, Scope, Workload
from broker.policy.windows import EVERY_DAY, WEEK, Daily, read_address, zone_name

Fix: TypeAlias = Mapping[str, JsonValue] | str
Words: TypeAlias = tuple[str, Fix]  # message, fix

_SHOWN = 20  # entries of a list; a fix is for reading
_DAY = timedelta(days=1)
_MINUTES = 24 * 60  # of a day
_NEAR_THE_END = datetime(9999, 1, 1, tzinfo=UTC)


def render(fixes: Iterable[Fix]) -> str:
    """YAML to paste: all pieces as one, and the sentences as comments after it."""
    piece: dict[str, JsonValue] = {}
    sentences = []
    for fix in fixes:
        if isinstance(fix, str):
            sentences.append(f"# {fix}")
        else:
            _merge(piece, fix)
    return "\n".join([*_lines(piece, ""), *sentences])


def _merge(into: dict[str, JsonValue], piece: Mapping[str, JsonValue]) -> None:
    for key, value in piece.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _lines(piece: Mapping[str, JsonValue], indent: str) -> list[str]:
    lines = []
    for key, value in piece.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{quote(key)}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{quote(key)}: {_scalar(value)}")
    return lines


def _scalar(value: JsonValue) -> str:
    if isinstance(value, list):
        more = ["…"] if len(value) > _SHOWN else []
        return "[" + ", ".join([quote(item) for item in value[-_SHOWN:]] + more) + "]"
    return "null" if value is None else quote(value) if isinstance(value, str) else str(value)


def _of_grant(grant: Grant, **keys: JsonValue) -> Fix:
    return {"grants": {grant.name: keys}}


def unknown_scope(name: str) -> Words:
    """1: not declared. Anybody may ask this, so it costs next to nothing and looks at no other name."""
    return f"no scope is named {show(name)}", "declare it under scopes:, and grant it"


def no_workload(request: AccessRequest, trust_domains: Collection[str]) -> Words:
    """2: the certificate fits nothing."""
    message = "no workload's id matches this certificate"
    if request.agent.partition("://")[2].partition("/")[0] not in trust_domains:
        return message, "its trust domain is not the map's: add it to federates_with, and its id to workloads"
    grant = {"workloads": ["new-workload"], "workflows": [request.workflow], "scopes": [request.scope]}
    piece = {"workloads": {"new-workload": {"id": request.agent}}, "grants": {"new-grant": grant}}
    return message, piece


def no_grant(near: Grant | None, workload: str, request: AccessRequest) -> Words:
    """3: granted to others, or to nobody."""
    message = f"no grant gives {show(request.scope)} to workload {show(workload)}"
    if near is not None:
        return message, _of_grant(near, scopes=[*near.scopes, request.scope])
    grant = {"workloads": [workload], "workflows": [request.workflow], "scopes": [request.scope]}
    return message, {"grants": {"new-grant": grant}}


def claim_mismatch(name: str, proven: str, claimed: str) -> Words:
    """4: the step says something else than its certificate."""
    message = f"the step claims {name} {show(claimed)}, its certificate says {show(proven)}"
    return message, f"begin the step with {name} {quote(proven)}, or give it the certificate of {quote(claimed)}"


def deny_rule(deny: Deny, request: AccessRequest, *, workflow_known: bool) -> Words:
    """5: deny wins."""
    message = f"deny rule {show(deny.name)} refuses it"
    if deny.workflows is not None and request.workflow not in deny.workflows and not workflow_known:
        message += "; it names workflows, and this step's workflow is only its own claim"
        fix = f"limit denies.{quote(deny.name)} with workloads:, or let the workload's id capture {{workflow}}"
        return message, fix
    return message, f"narrow or remove denies.{quote(deny.name)}"


def workflow(grant: Grant, name: str) -> Words:
    """6: another workflow."""
    message = f"grant {show(grant.name)} does not name workflow {show(name)}"
    return message, _of_grant(grant, workflows=[*sorted(grant.workflows or ()), name])


def digest_unproven(grant: Grant) -> Words:
    """6: pinned, and nobody proved the definition."""
    message = f"grant {show(grant.name)} pins the workflow's definition, which only a launcher can prove"
    return message, f"let a launcher open the step, or remove grants.{quote(grant.name)}.definition_digest"


def digest(grant: Grant, proven: str) -> Words:
    """6: the definition has changed."""
    message = f"the workflow's definition is not one that grant {show(grant.name)} pins"
    if not proven:
        return message, "let the launcher say the definition's digest: stepcred digest FILE"
    return message, _of_grant(grant, definition_digest=[*sorted(grant.digests or ()), proven])


def over(grant: Grant, now: datetime) -> Words:
    """6: past `until`."""
    end = f"{grant.when.until:%Y-%m-%dT%H:%MZ}" if grant.when.until else ""
    return f"grant {show(grant.name)} ended at {end}", _later(grant, now)


def over_soon(grant: Grant, now: datetime) -> Words:
    """6: what is left until `until` is less than a lease's shortest life."""
    return f"less than 60s are left of grant {show(grant.name)}", _later(grant, now)


def _later(grant: Grant, now: datetime) -> Fix:
    later = now.date() + 2 * _DAY if now < _NEAR_THE_END else now.date()
    return _of_grant(grant, when={"until": later.isoformat()})


def not_evaluated(grant: Grant) -> Words:
    """6: a time without a zone, or at the end of the calendar."""
    return f"the time conditions of grant {show(grant.name)} cannot be evaluated", "ask with a time that has a zone"


def outside(grant: Grant, daily: Daily, now: datetime) -> Words:
    """6: not at this time of day."""
    return f"grant {show(grant.name)} holds {daily}", _wider(grant, daily, now)


def closes_soon(grant: Grant, daily: Daily, now: datetime) -> Words:
    """6: what is left of the window is less than a lease's shortest life."""
    return f"less than 60s are left of the window of grant {show(grant.name)}", _wider(grant, daily, now)


def _wider(grant: Grant, daily: Daily, now: datetime) -> Fix:
    wider = _widened(daily, now)
    piece: JsonValue = None
    if wider is not None:
        piece = {"from": f"{wider.start:%H:%M}", "to": f"{wider.end:%H:%M}", "tz": zone_name(wider.tz)}
        piece |= {} if wider.days == EVERY_DAY else {"days": [WEEK[day] for day in sorted(wider.days)]}
    return _of_grant(grant, when={"daily": piece})


def _widened(daily: Daily, now: datetime) -> Daily | None:
    """The window moved out to the hours around `now`, on the side that is nearer; None when that is all day."""
    local = now.astimezone(daily.tz).replace(tzinfo=None)
    hour = local.replace(minute=0, second=0, microsecond=0)
    later = (hour + timedelta(hours=2)).time()
    start, end = daily.start, daily.end
    every_day = Daily(start=start, end=end, tz=daily.tz)
    if every_day.contains(now):  # the day is wrong, or the window closes within a minute
        end = later if every_day.ends(now) - now < MIN_LEASE_LIFE else end
    elif _minutes(start, local) <= -_minutes(end, local) % _MINUTES:
        start = hour.time()
    else:
        end = later
    if start == end:
        return None
    begins = local.weekday() if start < end or local.time() >= start else (local.weekday() - 1) % 7
    wider = Daily(start=start, end=end, tz=daily.tz, days=daily.days | {begins})
    return wider if wider.contains(now) else None


def _minutes(to: time, local: datetime) -> int:
    """From now forward to a time of day."""
    return (to.hour * 60 + to.minute - local.hour * 60 - local.minute) % _MINUTES


def source(grant: Grant, address: str) -> Words:
    """6: the call comes from elsewhere, or nobody knows from where."""
    found = read_address(address)
    if found is None:
        message = f"grant {show(grant.name)} holds for some networks, and the call's address is not known"
        return message, f"call from an IP address, or remove grants.{quote(grant.name)}.when.networks"
    networks = [*map(str, grant.when.networks or ()), f"{found}/{found.max_prefixlen}"]
    message = f"grant {show(grant.name)} does not hold for calls from {found}"
    return message, _of_grant(grant, when={"networks": networks})


def attempts(grant: Grant, attempt: int) -> Words:
    """6: the step was opened too often."""
    message = (
        f"this is attempt {attempt} of the step, and grant {show(grant.name)} holds for the first {grant.attempts}"
    )
    return message, _of_grant(grant, attempts=attempt)


def variable_unproven(scope: Scope, workload: Workload, name: str) -> Words:
    """6: a template needs what is only claimed."""
    message = f"scope {show(scope.name)} uses {{{name}}}, which workload {show(workload.name)} only claims"
    return message, f"capture {{{name}}} in workloads.{quote(workload.name)}.id, or let a launcher open the step"


def variable_value(scope: Scope, name: str, value: str) -> Words:
    """6: a value that must not get into a policy."""
    message = f"{name} {show(value)} must not fill {{{name}}} of scope {show(scope.name)}"
    return message, "a template's value is 1 to 64 of A-Z a-z 0-9 _ -; rename it, or do not use the variable"
