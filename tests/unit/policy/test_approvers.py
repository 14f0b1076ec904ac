"""Who may approve under a map: its signers, and the owners of workloads and launchers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.model import Tier
from broker.policy.analysis import launching
from broker.policy.analysis.plan import plan
from broker.policy.language.files import Memory
from broker.policy.language.load import load_files
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, a_map

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWNED = BASE.replace('step/load"}', 'step/load", owners: [ann, "group:data"]}')
KEEPS, LETS = "approvals: {signers: refuse}\n", "approvals: {signers: allow}\n"
GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [lake]}\n"
AIR = f"spiffe://{DOMAIN}/air"


def launcher(owners: str, *, name: str = "air") -> str:
    return f'launchers:\n  {name}: {{id: "{AIR}", workloads: [load], workflows: [etl]{owners}}}\n'


def of(old: str, new: str) -> list[str]:
    return plan(a_map(old), a_map(new), NOW).lines()


def test_signers_may_approve_unless_the_map_says_otherwise() -> None:
    assert a_map().signers_may_approve
    assert a_map("approvals: {}\n").signers_may_approve
    assert a_map(LETS).signers_may_approve
    assert not a_map(KEEPS).signers_may_approve


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("approvals: {signers: never}\n", "signers is one of allow, refuse"),
        ("approvals: {signer: refuse}\n", "unknown key 'signer'; did you mean 'signers'?"),
        ("approvals: refuse\n", "expected a mapping, found text"),
        (launcher(", owners: ann"), "expected a list, found text"),
        (launcher(", owners: ['a b']"), "not a name"),
    ],
)
def test_mistakes_are_said(section: str, said: str) -> None:
    with pytest.raises(ScopeMapError, match=said):
        a_map(section)


def test_to_let_signers_approve_widens_and_takes_those_who_sign_for_high() -> None:
    found = plan(a_map(KEEPS), a_map(), NOW)
    assert found.lines() == ["loosened: signers refuse → allow (approvals (map.yaml:1:1))"]
    assert found.widens_tier(Tier.HIGH)
    assert of("", KEEPS) == ["tightened: signers allow → refuse (approvals (map.yaml:1:1))"]
    assert of(LETS, "") == []


def test_an_owner_less_of_a_launcher_widens_whatever_it_is_called() -> None:
    before, after = launcher(", owners: [ann, eve]") + GRANT, launcher(", owners: [ann]", name="other") + GRANT
    (line,) = of(before, after)
    assert line.startswith("loosened: owners of launcher other ann, eve → ann (launchers.other (map.yaml:")
    assert plan(a_map(before), a_map(after), NOW).widens_tier(Tier.HIGH)
    (line,) = of(after, before)
    assert line.startswith("tightened: owners of launcher air ann → ann, eve")
    assert of(before, before) == []


def extended(patch: str, base: str) -> None:
    files = {"map.yaml": f"extends: base.yaml\n{patch}", "base.yaml": base}
    load_files(Memory(contents={name: text.encode() for name, text in files.items()}), "map.yaml", KINDS)


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("approvals: null", "it lets its signers approve under it"),
        (LETS, "it lets its signers approve under it"),
        ("launchers: {air: {owners: [eve]}}", "it takes owner 'ann' from the launcher"),
        ("launchers: {air: {owners: null}}", "it takes owner 'ann' from the launcher"),
    ],
)
def test_a_map_that_extends_takes_neither_away(patch: str, said: str) -> None:
    base = BASE + KEEPS + launcher(", owners: [ann]")
    with pytest.raises(ScopeMapError, match=said):
        extended(patch, base)
    extended("launchers: {air: {owners: [ann, eve]}}\n" + KEEPS, base)


def test_owners_are_those_of_the_workload_and_of_its_launcher() -> None:
    found = a_map(launcher(", owners: [eve]"), base=OWNED)
    assert found.owners_of("load", "") == {"ann", "group:data"}
    assert found.owners_of("load", AIR) == {"ann", "group:data", "eve"}
    assert found.owners_of("load", AIR + "/x") == {"ann", "group:data"}
    assert found.owners_of("gone", AIR) == {"eve"}
    assert found.owners_of("plain", "") == frozenset()


def test_a_launcher_that_fits_two_entries_has_the_owners_of_both() -> None:
    two = (
        launcher(", owners: [eve]")
        + f'  wide: {{id: "spiffe://{DOMAIN}/{{any}}", owners: [bob], workloads: [load], workflows: [etl]}}\n'
    )
    assert a_map(two).owners_of("plain", AIR) == {"eve", "bob"}
    assert {*map(len, launching.launcher_owners(a_map(two)).values())} == {2}
