"""What a restart finds: the last good map in the database, teams, serials; and what a half-written file must not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from broker.errors import StoreError
from broker.metrics import Metrics
from broker.model import ScopeKind
from broker.policy import source
from broker.policy.decision import Allowed
from broker.policy.files import Files, Memory
from broker.policy.holder import Policies
from broker.policy.load import Loaded, load_files
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.source import Signed
from broker.store.base import Store, tail
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, allowed, ask, denied

GOOD = BASE + "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders, lake]}\n"
DENYING = GOOD + "denies:\n  never-lake: {scopes: [lake]}\n"
BAD = GOOD + "typo: 1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "map.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.write(lambda tx: tx.start_epoch(replica="r", boot_id="b", expires_boot=1.0, at=FakeClock().now()))
    return store


def put(path: Path, text: str) -> None:
    path.write_text(text)


async def started(path: Path, store: Store, **settings: Any) -> Policies:
    made: dict[str, Any] = {"settle": 0, "environment": "prod"} | settings
    policies = Policies(path, made.pop("kinds", KINDS), **made)
    await policies.load_initial(store, FakeClock())
    return policies


async def journal(store: Store) -> list[dict[str, Any]]:
    bodies = await store.read(lambda tx: [json.loads(entry.body) for entry in tail(tx)])
    return [body for body in bodies if body["kind"] != "GENESIS"]


async def kinds(store: Store) -> list[str]:
    return [body["kind"] for body in await journal(store)]


def sample(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"stepcred_scope_map_{name}")


# --- the kept map


async def test_the_map_in_force_is_kept_whole_with_its_generation(path: Path, store: MemoryStore) -> None:
    policies = await started(path, store)
    kept = await store.read(lambda tx: tx.kept_map())
    assert kept is not None
    assert (kept.root, kept.contents, kept.digest) == ("map.yaml", {"map.yaml": GOOD.encode()}, policies.map.digest)
    assert (kept.generation, kept.serial, kept.signers, kept.manifest) == (1, 0, (), b"")


async def test_i7_with_a_bad_map_a_restart_goes_on_with_the_kept_one(path: Path, store: MemoryStore) -> None:
    await started(path, store)
    put(path, BAD)
    metrics = Metrics()
    policies = await started(path, store, metrics=metrics)
    assert allowed(policies.map, ask("lake"))
    assert policies.generation == 2
    assert "unknown key 'typo'" in policies.last_problem
    assert await kinds(store) == ["POLICY_LOADED", "POLICY_REFUSED", "ALERT", "POLICY_LOADED"]
    loaded = (await journal(store))[-1]["data"]
    assert (loaded["from"], loaded["generation"], loaded["plan"]) == ("database", 2, {})
    assert (sample(metrics, "refused"), sample(metrics, "load_failures_total")) == (1, 1)
    # Looked at again it is the same bad file: nothing more is said. Mended, it takes over.
    assert not await policies.look()
    put(path, GOOD)
    assert await policies.look()
    assert (sample(metrics, "refused"), policies.last_problem, policies.generation) == (0, "", 2)


@pytest.mark.parametrize(
    "today", [{"environment": "staging"}, {"trust_domain": "other.internal"}, {"kinds": {}}], ids=str
)
async def test_i7_a_kept_map_must_fit_today_s_settings(path: Path, store: MemoryStore, today: dict[str, Any]) -> None:
    await started(path, store)
    put(path, BAD)
    with pytest.raises(ScopeMapError, match="typo"):
        await started(path, store, **today)
    assert (await kinds(store))[1:] == ["POLICY_REFUSED", "ALERT"]


async def test_what_a_restart_changes_is_in_the_journal(path: Path, store: MemoryStore) -> None:
    await started(path, store)
    put(path, DENYING.replace("nightly:", "hourly:"))
    await started(path, store)
    plan = (await journal(store))[-1]["data"]["plan"]
    assert plan == {"grants": {"added": ["hourly"], "removed": ["nightly"]}, "denies": {"added": ["never-lake"]}}


async def test_a_plan_of_another_kind_can_be_plugged_in(path: Path, store: MemoryStore) -> None:
    asked: list[tuple[str | None, str]] = []

    def describe(old: Any, new: Any) -> dict[str, str]:
        asked.append((old and old.digest, new.digest))
        return {"widens": "no"}

    policies = await started(path, store, describe=describe)
    first = policies.map.digest
    put(path, DENYING)
    await policies.look()
    assert asked == [(None, first), (first, policies.map.digest)]
    assert (await journal(store))[-1]["data"]["plan"] == {"widens": "no"}


# --- said once


async def test_a_bad_map_is_journalled_once_however_often_it_is_looked_at(path: Path, store: MemoryStore) -> None:
    metrics = Metrics()
    policies = await started(path, store, metrics=metrics)
    put(path, BAD)
    assert [await policies.look() for _ in range(3)] == [True, False, False]
    assert [await policies.reload() for _ in range(3)] == [False] * 3
    assert await kinds(store) == ["POLICY_LOADED", "POLICY_REFUSED", "ALERT"]
    assert sample(metrics, "load_failures_total") == 1
    put(path, BAD.replace("typo", "tipo"))
    assert await policies.look()
    assert (await kinds(store))[3:] == ["POLICY_REFUSED", "ALERT"]


async def test_a_refusal_that_cannot_be_journalled_is_shown_and_tried_again(
    path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    policies = await started(path, store, metrics=metrics)
    put(path, BAD)

    async def full(_operation: Callable[[Any], Any]) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        for _ in range(2):
            with pytest.raises(StoreError):
                await policies.look()
    assert sample(metrics, "refused") == 1
    assert await policies.look()
    assert (await kinds(store))[1:] == ["POLICY_REFUSED", "ALERT"]


async def test_a_mistake_of_ours_is_a_refusal_too(
    path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = await started(path, store)
    put(path, DENYING)

    def bug(*_: Any, **__: Any) -> Loaded:
        raise RecursionError

    monkeypatch.setattr(source, "load_files", bug)
    assert not await policies.reload()
    assert "mistake of ours" in policies.last_problem
    assert allowed(policies.map, ask("lake"))


# --- half-written files


async def test_a_truncated_file_is_a_valid_and_wider_map(path: Path) -> None:
    """Why one reading is not enough."""
    whole, cut = DENYING, DENYING[: DENYING.index("denies:")]
    assert denied(load_files(Memory(contents={"m": whole.encode()}), "m", KINDS).map, ask("lake"))
    assert allowed(load_files(Memory(contents={"m": cut.encode()}), "m", KINDS).map, ask("lake"))


@pytest.mark.parametrize("settle", [0.2, None], ids=["settled", "mutant: one reading"])
async def test_i7_a_half_written_file_never_decides(
    path: Path, store: MemoryStore, settle: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, DENYING)
    clock = FakeClock()
    policies = Policies(path, KINDS, settle=settle or 0.2)
    if settle is None:
        monkeypatch.setattr(source.Source, "unchanged", lambda *_: True)
    start = asyncio.create_task(policies.load_initial(store, clock))
    await until_sleeping(clock)
    clock.advance(0.2)
    await start
    changed = DENYING.replace("workflows: [etl]", "workflows: [etl, other]")
    put(path, changed[: changed.index("denies:")])  # a slow editor
    load = asyncio.create_task(policies.reload())
    await until_sleeping(clock)
    put(path, changed)
    widened = []
    while not load.done():
        clock.advance(0.2)
        await asyncio.sleep(0.005)
        widened.append(isinstance(policies.map.decide(ask("lake")), Allowed))
    assert await load
    assert any(widened) is (settle is None)
    assert (denied if settle else allowed)(policies.map, ask("lake"))


async def until_sleeping(clock: FakeClock) -> None:
    while not clock.sleeping:  # noqa: ASYNC110 - a thread reads the files
        await asyncio.sleep(0.001)


async def test_i7_files_that_never_rest_are_refused(
    path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = await started(path, store)
    monkeypatch.setattr(source.Source, "unchanged", lambda *_: False)
    assert not await policies.reload()
    assert "keeps changing" in policies.last_problem
    monkeypatch.undo()
    assert await policies.look()
    assert policies.last_problem == ""


# --- teams


class Teams:
    """`load_files` as it is once teams are there: a bad one keeps its last good file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(source, "load_files", self)

    def __call__(
        self,
        files: Files,
        root: str,
        kinds: Mapping[str, ScopeKind],
        *,
        environment: str | None = None,
        trust_domain: str | None = None,
        kept: Mapping[str, bytes] | None = None,
    ) -> Loaded:
        team = files.read("team.yaml")
        refused: dict[str, tuple[Problem, ...]] = {}
        if b"bad" in team:
            refused = {"payments": (Problem(file="team.yaml", line=1, column=1, message="bad"),)}
            if kept is None:
                raise ScopeMapError(refused["payments"])
            team = kept["team.yaml"]
        contents = {root: files.read(root) + team}
        whole = load_files(Memory(contents=contents), root, kinds, environment=environment, trust_domain=trust_domain)
        return Loaded(map=whole.map, contents={root: files.read(root), "team.yaml": team}, refused=refused)


async def test_a_team_s_bad_file_keeps_its_last_good_one_and_is_told_once(
    path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Teams(monkeypatch)
    team = path.with_name("team.yaml")
    team.write_text("# good\n")
    metrics = Metrics()
    policies = await started(path, store, metrics=metrics)
    team.write_text("# bad\n")
    assert [await policies.look(), await policies.look()] == [True, False]
    assert (policies.generation, policies.last_problem, policies.teams_refused) == (1, "", frozenset({"payments"}))
    assert (sample(metrics, "refused"), sample(metrics, "teams_refused")) == (0, 1)
    assert (await kinds(store))[1:] == ["POLICY_REFUSED", "ALERT"]

    put(path, DENYING)  # the rest goes on
    assert await policies.look()
    assert denied(policies.map, ask("lake"))
    assert (await kinds(store))[3:] == ["POLICY_LOADED"]
    kept = await store.read(lambda tx: tx.kept_map())
    assert kept is not None
    assert kept.contents["team.yaml"] == b"# good\n"

    again = await started(path, store)  # also after a restart
    assert again.teams_refused == {"payments"}
    team.write_text("# good\n")
    assert await policies.look()
    assert sample(metrics, "teams_refused") == 0


# --- signed maps


class Signs:
    """A `Verifier`: the manifest's text is `serial:signer`."""

    manifest = "manifest"

    def check(self, files: Files, root: str, *, now: datetime, highest_serial: int) -> Signed:
        try:
            raw = files.read(self.manifest)
        except OSError:
            raise ScopeMapError([Problem(file=self.manifest, line=1, column=1, message="not signed")]) from None
        serial, signer = raw.decode().split(":")
        if int(serial) < highest_serial:
            raise ScopeMapError([Problem(file=self.manifest, line=1, column=1, message="older than one before")])
        return Signed(files=files, serial=int(serial), signers=(signer,), manifest=raw)


async def test_serial_and_signers_are_journalled_and_kept(path: Path, store: MemoryStore) -> None:
    manifest = path.with_name("manifest")
    manifest.write_text("4:alice")
    policies = await started(path, store, verifier=Signs())
    loaded = (await journal(store))[-1]["data"]
    assert (loaded["serial"], loaded["signers"]) == (4, ["alice"])

    manifest.write_text("5:bob")  # the same map, signed anew: no other generation, and no way back
    assert await policies.look()
    assert policies.generation == 1
    assert (await store.read(lambda tx: tx.control())).map_serial == 5
    assert (await journal(store))[-1]["data"]["signers"] == ["bob"]
    manifest.write_text("4:alice")
    assert not await policies.reload()
    assert "older" in policies.last_problem


async def test_an_older_serial_is_refused_after_a_restart_and_the_kept_map_is_used(
    path: Path, store: MemoryStore
) -> None:
    manifest = path.with_name("manifest")
    manifest.write_text("5:bob")
    await started(path, store, verifier=Signs())
    put(path, DENYING)
    manifest.write_text("4:alice")
    policies = await started(path, store, verifier=Signs())
    assert "older" in policies.last_problem
    assert allowed(policies.map, ask("lake"))  # the kept one


async def test_i7_once_maps_must_be_signed_an_unsigned_kept_one_is_worth_nothing(
    path: Path, store: MemoryStore
) -> None:
    await started(path, store)
    with pytest.raises(ScopeMapError, match="not signed"):
        await started(path, store, verifier=Signs())
