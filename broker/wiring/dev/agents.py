"""Which agents a scope map speaks of, so that each can be given a certificate to begin with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from broker.model import NAME
from broker.policy.decision import Allowed
from broker.policy.expectations import request_for
from broker.policy.patterns import BINDING, Capture, Pattern
from broker.policy.scope_map import ScopeMap

MOST = 32  # certificates made unasked
RUN = "dev-1"  # where nothing says which


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """An agent by its SPIFFE ID, and what a step of it is called."""

    id: str
    workloads: tuple[str, ...] = ()
    launchers: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()  # that this step may have now
    step: Mapping[str, str] = field(default_factory=dict)  # workflow, run, step, as far as they are known

    @property
    def title(self) -> str:
        """For people."""
        return (
            ", ".join((*self.workloads, *(f"launcher {name}" for name in self.launchers))) or "no workload of the map"
        )


def agents_of(found: ScopeMap, now: datetime) -> list[Named]:
    """Those that the map's tests are asked as, and those whose captures the map itself fills. Each once.

    Those that may have something come first.
    """
    ids = [test.agent for test in found.tests]
    ids += [text for pattern, workload in _patterns(found) for text in _filled(found, workload, pattern)]
    named = (describe(found, one, now) for one in dict.fromkeys(ids[:MOST]))
    return sorted((one for one in named if one.workloads or one.launchers), key=lambda one: not one.scopes)


def open_patterns(found: ScopeMap, given: Iterable[Named]) -> list[str]:
    """Patterns that none of these agents has: somebody must say what their captures are."""
    names = {name for one in given for name in (*one.workloads, *one.launchers)}
    return [pattern.text for pattern, name in _patterns(found) if name not in names]


def describe(found: ScopeMap, spiffe_id: str, now: datetime) -> Named:
    """What the map says of it; nothing of a stranger."""
    fits = found.workloads_of(spiffe_id)
    launchers = tuple(launcher.name for launcher in found.launchers.of(spiffe_id))
    captures = {key: value for _, taken in fits for key, value in taken.items() if key in BINDING}
    workflows = _workflows(found, [name for name, _ in fits])
    step = {"run": RUN} | ({"workflow": workflows[0]} if workflows else {}) | captures
    step.setdefault("step", spiffe_id.rsplit("/", 1)[-1])
    known = {name: step[name] for name in BINDING if name in step and NAME.fullmatch(step[name])}
    return Named(
        id=spiffe_id,
        workloads=tuple(name for name, _ in fits),
        launchers=launchers,
        scopes=tuple(name for name in found.scopes_of(spiffe_id) if _may(found, spiffe_id, name, known, now)),
        step=known if fits else {},
    )


def _may(found: ScopeMap, spiffe_id: str, scope: str, step: Mapping[str, str], now: datetime) -> bool:
    asked = request_for(found, agent=spiffe_id, scope=scope, now=now, claims=step)
    return isinstance(found.decide(replace(asked, address="127.0.0.1")), Allowed)


def _patterns(found: ScopeMap) -> list[tuple[Pattern, str]]:
    workloads = [(one.pattern, one.name) for one in found.workloads.values()]
    return workloads + [(one.pattern, one.name) for one in found.launchers.all]


def _workflows(found: ScopeMap, workloads: list[str]) -> list[str]:
    """That grants name for these workloads."""
    grants = [one for one in found.grants.values() if not set(workloads).isdisjoint(one.workloads)]
    return sorted({name for one in grants for name in one.workflows or ()})


def _filled(found: ScopeMap, name: str, pattern: Pattern) -> Iterator[str]:
    """The ids that this pattern means where `{workflow}` is all that is open, or nothing is."""
    open_names = set(pattern.captures)
    if not open_names:
        yield pattern.text
    elif open_names == {"workflow"}:
        for workflow in _workflows(found, [name]):
            filled = [workflow if isinstance(one, Capture) else one for one in pattern.segments]
            yield f"spiffe://{pattern.trust_domain}/{'/'.join(filled)}"
