"""What lint says of grants, held against `decide()` over generated maps: it never calls needless what is needed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from broker.policy.decision import AccessRequest, Allowed, Decision
from broker.policy.language.files import Memory
from broker.policy.language.load import parse
from broker.policy.lint import cover, lint
from broker.policy.lint import grants as family
from broker.policy.scope_map import ScopeMap
from tests.support.examples import examples
from tests.unit.policy.kinds import KINDS

DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]
AGENTS = {"bound": "spiffe://d/w/etl", "plain": "spiffe://d/p"}
IDS = {"bound": "spiffe://d/w/{workflow}", "plain": "spiffe://d/p"}
SCOPES = ["s", "t"]
FLOWS = ["etl", "ml"]
TIMES = [datetime(2026, 6, day, hour, tzinfo=UTC) for day in (5, 7) for hour in (0, 7, 12, 23)]
ADDRESSES = ["10.1.2.3", "10.200.0.1", "2001:db8::1", ""]


OPTIONS: dict[str, list[Any]] = {
    "workloads": [["bound"], ["plain"], ["bound", "plain"]],
    "workflows": [["*"], ["etl"], ["etl", "ml"]],
    "scopes": [["s"], ["t"], ["t", "s"]],
    "definition_digest": [None, None, DIGESTS[:1], DIGESTS],
    "attempts": [None, 1, 2],
    "approvals": [0, 1, 2],
    "max_step": ["24h", "1h"],
    "concurrent": ["refuse", "supersede"],
    "until": [None, "2026-06-06", "2026-07-01"],
    "networks": [None, ["10.0.0.0/8"], ["10.1.0.0/16"], ["10.1.0.0/16", "2001:db8::/32"]],
    "from": ["00:00", "06:00", "22:00"],
    "to": ["05:00", "12:30", "23:00"],
    "days": [None, ["fri"], ["sun", "fri"]],
    "tz": ["UTC", "UTC", "Europe/Berlin"],
    "daily": [True, False],
}
BOUNDS = ("approvals", "max_step", "concurrent")
OF_A_DENY = ("workloads", "workflows", "scopes", "definition_digest")


def entry(chosen: Mapping[str, Any], *, deny: bool = False) -> dict[str, Any]:
    daily = {key: chosen[key] for key in ("from", "to", "days", "tz") if chosen[key] is not None}
    when = {key: chosen[key] for key in ("until", "networks")} | {"daily": daily if chosen["daily"] else None}
    kept = OF_A_DENY if deny else [*list(OPTIONS)[:8], "bind"]
    said = {key: chosen[key] for key in kept if chosen[key] is not None}
    return said | {"when": {key: one for key, one in when.items() if one is not None}}


def a_universe(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Grants and denies. The later ones differ from the first in a few words, else nothing ever covers anything."""
    random = Random(seed)
    first = {key: random.choice(values) for key, values in OPTIONS.items()}
    made = [first]
    for _ in range(3):
        keys = [*random.sample(list(OPTIONS), random.randint(0, 3)), random.choice(BOUNDS)]
        made.append(first | {key: random.choice(OPTIONS[key]) for key in keys})
    made = [one | {"bind": random.choice(["identity"] * 5 + ["key"])} for one in made]
    *allowing, refusing = made
    grants = {f"g{number}": entry(one) for number, one in enumerate(allowing)}
    return grants, {"d": entry(refusing, deny=True)} if random.random() < 0.5 else {}


def written(grants: Mapping[str, Any], denies: Mapping[str, Any]) -> str:
    head = {"version": 1, "environment": "e", "trust_domain": "d"}
    workloads = {name: {"id": text} for name, text in IDS.items()}
    scopes = {name: {"fake": {"role": name}, "tier": "low"} for name in SCOPES}
    return json.dumps(head | {"workloads": workloads, "scopes": scopes, "grants": grants, "denies": denies})


def questions() -> Iterator[AccessRequest]:
    for agent, scope, workflow, now, address, attempt in itertools.product(
        AGENTS.values(), SCOPES, FLOWS, TIMES, ADDRESSES, (1, 2)
    ):
        for digest in ("", *DIGESTS):
            yield AccessRequest(
                agent=agent,
                scope=scope,
                workflow=workflow,
                run="r",
                step="s",
                now=now,
                address=address,
                attempt=attempt,
                proven=bool(digest),
                definition_digest=digest,
            )


QUESTIONS = list(questions())


def substance(decision: Decision) -> object:
    """All but the name of the rule."""
    if not isinstance(decision, Allowed):
        return None
    return [getattr(decision, one.name) for one in dataclasses.fields(decision) if one.name != "rule"]


def answers(scope_map: ScopeMap) -> list[object]:
    return [substance(scope_map.decide(question)) for question in QUESTIONS]


def findings(text: str) -> list[tuple[str, str]]:
    """Rule and grant."""
    found = lint(Memory(contents={"map": text.encode()}), "map", KINDS, datetime(2020, 1, 1, tzinfo=UTC))
    return [(one.rule.id, one.message.split()[1]) for one in found if one.message.startswith("grant ")]


def check(seed: int) -> set[str]:
    """Raises AssertionError; returns the rules that were found."""
    own, denies = a_universe(seed)
    text = written(own, denies)
    found = findings(text)
    before = answers(parse(text, "map", KINDS)) if found else []
    for rule, name in found:
        rest = {key: one for key, one in own.items() if key != name}
        if rule in ("shadowed-grant", "duplicate-grant"):
            same = answers(parse(written(rest, denies), "map", KINDS)) == before
            assert same, name  # of the lists themselves the explanation would take minutes
        if rule == "bounding-grant":
            after = answers(parse(written(rest, denies), "map", KINDS))
            same = [one is None for one in after] == [one is None for one in before]
            assert same, name
        if rule == "denied-grant":
            alone = parse(written({name: own[name]}, denies), "map", KINDS)
            assert not any(answers(alone))
        if rule == "no-launcher":  # and there is none in these maps: nothing is ever proven
            alone = parse(written({name: own[name]}, denies), "map", KINDS)
            assert not any(substance(alone.decide(one)) for one in QUESTIONS if not one.proven)
    return {rule for rule, _ in found}


SEEDS = range(examples(60, long=160))


def search() -> set[str]:
    return {rule for seed in SEEDS for rule in check(seed)}


def test_needless_and_denied_grants_really_are() -> None:
    assert search() == {"shadowed-grant", "duplicate-grant", "bounding-grant", "denied-grant", "no-launcher"}


MUTANTS = {
    "windows": (cover, "_daily_covers", lambda *_: True),
    "networks": (cover, "_networks_cover", lambda *_: True),
    "sets": (cover, "_contains", lambda *_: True),
    "bounds": (family, "_changes", lambda *_: []),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, broken = MUTANTS[mutant]
    monkeypatch.setattr(module, name, broken)

    with pytest.raises(AssertionError):
        search()
