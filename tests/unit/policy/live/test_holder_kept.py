"""What a restart finds: the last good map in the database, teams, serials; and what a half-written file must not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from broker.errors import StoreError
from broker.metrics import Metrics
from broker.policy.decision import Allowed
from broker.policy.language.files import Memory
from broker.policy.language.load import Loaded, load_files
from broker.policy.live import source
from broker.policy.live.holder import Policies
from broker.policy.live.manifests import Manifests
from broker.policy.problems import ScopeMapError
from broker.policy.signing import Manifest, add_signature, digests, sign
from broker.store.base import Store, tail
from tests.fakes.clock import START, FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, allowed, ask, denied
from tests.unit.policy.signing.people import ALICE, BOB, KEYS, MALLORY

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
    assert (loaded["from"], loaded["generation"], loaded["plan"]["rules"]) == ("database", 2, {})
    assert (sample(metrics, "refused"), sample(metrics, "load_failures_total")) == (1, 1)
    # Looked at again it is the same bad file: nothing more is said. Mended, it takes over.
    assert not await policies.look()
    put(path, GOOD)
    assert await policies.look()
    assert (sample(metrics, "refused"), policies.last_problem, policies.generation) == (0, "", 2)


async def test_the_kept_map_is_found_under_its_own_name_however_often(path: Path, store: MemoryStore) -> None:
    await started(path, store)
    for _ in range(2):
        policies = await started(path.with_name("another.yaml"), store)  # which is not there
        assert allowed(policies.map, ask("lake"))
        assert "another.yaml:1:1: does not exist" in policies.last_problem


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
    assert plan["rules"] == {
        "grants": {"added": ["hourly"], "removed": ["nightly"]},
        "denies": {"added": ["never-lake"]},
    }
    assert plan["effect"]["counts"]["lost"] == 1


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
    assert (await kinds(store))[3:] == ["POLICY_REFUSED"]  # the alert goes on


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


async def test_a_mistake_of_ours_on_the_kept_map_stops_no_start_with_good_files(
    path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(path, store)

    def bug(*_: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(source.Source, "of_kept", bug)
    policies = await started(path, store)
    assert (allowed(policies.map, ask("lake")).scope, policies.last_problem) == ("lake", "")


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
        monkeypatch.setattr(source.Source, "changed", lambda *_: frozenset())
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
    monkeypatch.setattr(source.Source, "changed", lambda _, marks: frozenset(marks))
    assert not await policies.reload()
    assert "keeps changing" in policies.last_problem
    monkeypatch.undo()
    assert await policies.look()
    assert policies.last_problem == ""


# --- teams


TEAM = "version: 1\ngrants:\n  pay: {workloads: [plain], workflows: ['*'], scopes: [payments-x]}\nscopes:\n  payments-x: {fake: {role: payments-x}, tier: low}\n"
WITH_TEAM = (
    GOOD + "teams:\n  payments: {path: team.yaml, scopes_prefix: payments-, max_tier: low, workloads: [plain]}\n"
)


async def test_a_team_s_bad_file_keeps_its_last_good_one_and_is_told_once(path: Path, store: MemoryStore) -> None:
    team = path.with_name("team.yaml")
    put(path, WITH_TEAM)
    put(team, TEAM)
    metrics = Metrics()
    policies = await started(path, store, metrics=metrics)
    paid = ask("payments-x", agent=f"spiffe://{DOMAIN}/plain")
    assert allowed(policies.map, paid)
    put(team, TEAM + "typo: 1\n")
    assert [await policies.look(), await policies.look()] == [True, False]
    assert (policies.generation, policies.last_problem, policies.teams_refused) == (1, "", frozenset({"payments"}))
    assert (sample(metrics, "refused"), sample(metrics, "teams_refused")) == (0, 1)
    assert (await kinds(store))[1:] == ["POLICY_REFUSED", "ALERT"]

    put(path, WITH_TEAM + "denies:\n  never-lake: {scopes: [lake]}\n")  # the rest goes on
    assert await policies.look()
    assert denied(policies.map, ask("lake"))
    assert allowed(policies.map, paid)
    assert (await kinds(store))[3:] == ["POLICY_LOADED"]
    kept = await store.read(lambda tx: tx.kept_map())
    assert kept is not None
    assert kept.contents["team.yaml"] == TEAM.encode()

    again = await started(path, store)  # also after a restart
    assert again.teams_refused == {"payments"}
    assert allowed(again.map, paid)
    put(team, TEAM)
    assert await policies.look()
    assert sample(metrics, "teams_refused") == 0


async def test_a_team_s_bad_file_keeps_nobody_else_from_a_first_start(path: Path, store: MemoryStore) -> None:
    put(path, WITH_TEAM)
    policies = await started(path, store)
    assert policies.teams_refused == {"payments"}
    assert allowed(policies.map, ask("lake"))
    put(path, BAD)  # and what is kept then is good without that team, too
    again = await started(path, store)
    assert allowed(again.map, ask("lake"))


class Busy(FakeClock):
    """Between any two readings these files are written again."""

    def __init__(self, *files: Path) -> None:
        super().__init__()
        self.files = files
        self.written = 0

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self.written += 1
        for file in self.files:
            file.write_text(f"{TEAM}# {self.written}\n")


def with_teams(count: int) -> str:
    entry = "  {0}: {{path: {0}.yaml, scopes_prefix: {0}-, max_tier: low, workloads: [plain]}}\n"
    return GOOD + "teams:\n" + "".join(entry.format(f"t{number}") for number in range(count))


async def test_a_team_that_never_rests_stops_nobody_else_s_reload(path: Path, store: MemoryStore) -> None:
    team = path.with_name("team.yaml")
    put(path, WITH_TEAM)
    put(team, TEAM)
    clock = Busy()
    policies = Policies(path, KINDS, settle=0)
    await policies.load_initial(store, clock)
    clock.files = (team,)
    put(path, WITH_TEAM + "denies:\n  never-lake: {scopes: [lake]}\n")
    assert await policies.look()
    assert denied(policies.map, ask("lake"))
    assert allowed(policies.map, ask("payments-x", agent=f"spiffe://{DOMAIN}/plain"))  # by its last good file
    assert (policies.teams_refused, policies.last_problem) == (frozenset({"payments"}), "")
    assert "keeps changing" in str((await journal(store))[-2:])

    needed = clock.written
    put(path, WITH_TEAM)
    assert await policies.look()
    assert allowed(policies.map, ask("lake"))
    assert clock.written == needed + 2  # it is known by now, and not waited for
    clock.files = ()
    assert await policies.look()
    assert policies.teams_refused == frozenset()


async def test_teams_that_take_turns_stop_nobody_else_s_reload(path: Path, store: MemoryStore) -> None:
    put(path, with_teams(30))
    clock = Busy()
    files = [path.with_name(f"t{number}.yaml") for number in range(30)]
    for file in files:
        put(file, "version: 1\n")
    policies = Policies(path, KINDS, settle=0)
    await policies.load_initial(store, clock)

    async def one_after_the_other(seconds: float) -> None:
        clock.files = (files[clock.written % 8],)
        await Busy.sleep(clock, seconds)

    clock.sleep = one_after_the_other  # type: ignore[method-assign]  # eight teams
    put(path, with_teams(30) + "denies:\n  never-lake: {scopes: [lake]}\n")
    assert await policies.look()
    assert denied(policies.map, ask("lake"))


async def test_a_root_file_that_never_rests_is_refused_whole(path: Path, store: MemoryStore) -> None:
    clock = Busy()
    policies = Policies(path, KINDS, settle=0)
    await policies.load_initial(store, clock)
    before = policies.current
    clock.files = (path,)
    assert not await policies.reload()
    assert f"{path}:1:1: keeps changing" in policies.last_problem
    assert policies.current is before


async def test_a_signed_map_is_refused_whole_when_a_team_never_rests(path: Path, store: MemoryStore) -> None:
    put(path, WITH_TEAM)
    team = path.with_name("team.yaml")
    put(team, TEAM)
    signed(path, 4, ALICE, BOB, also=("team.yaml",))
    clock = Busy()
    policies = Policies(path, KINDS, settle=0, verifier=manifests())
    await policies.load_initial(store, clock)
    before = policies.current
    clock.files = (team,)
    assert not await policies.reload()
    assert policies.last_problem
    assert policies.current is before


# --- signed maps


def signed(path: Path, serial: int, *signers: CryptoSigner, **changes: Any) -> None:
    """The map as it is on disk, signed."""
    manifest = Manifest(
        environment="prod",
        trust_domain=DOMAIN,
        serial=serial,
        expires=changes.get("expires", START + timedelta(days=30)),
        root="map.yaml",
        files=digests({name: path.with_name(name).read_bytes() for name in ("map.yaml", *changes.get("also", ()))}),
    )
    envelope = sign(manifest, signers[0])
    for signer in signers[1:]:
        envelope = add_signature(envelope, signer)
    path.with_name("manifest").write_bytes(envelope)


def manifests(**changes: Any) -> Manifests:
    fields: dict[str, Any] = {"threshold": 1, "threshold_high": 2, "environment": "prod", "trust_domain": DOMAIN}
    return Manifests(manifest="manifest", keys=KEYS, **(fields | changes))


async def test_serial_and_signers_are_journalled_and_kept(path: Path, store: MemoryStore) -> None:
    signed(path, 4, ALICE, BOB)
    policies = await started(path, store, verifier=manifests())
    loaded = (await journal(store))[-1]["data"]
    assert (loaded["serial"], loaded["signers"]) == (4, ["alice", "bob"])

    signed(path, 5, BOB)  # the same map, signed anew: no other generation, and no way back
    assert await policies.look()
    assert policies.generation == 1
    assert (await store.read(lambda tx: tx.control())).map_serial == 5
    assert (await journal(store))[-1]["data"]["signers"] == ["bob"]
    signed(path, 4, ALICE, BOB)
    assert not await policies.reload()
    assert "older than one" in policies.last_problem


async def test_what_is_not_signed_or_not_so_is_refused(path: Path, store: MemoryStore) -> None:
    signed(path, 4, ALICE, BOB)
    policies = await started(path, store, verifier=manifests())
    before = policies.current
    put(path, DENYING)
    assert await policies.look()
    assert "is not the file that was signed" in policies.last_problem
    signed(path, 5, MALLORY)
    assert await policies.look()
    assert "signed by fewer of the keys" in policies.last_problem
    signed(path, 5, ALICE, BOB, expires=START)
    assert await policies.look()
    assert "expired" in policies.last_problem
    path.with_name("manifest").unlink()
    assert await policies.look()
    assert "its manifest does not exist" in policies.last_problem
    assert policies.current is before
    signed(path, 5, ALICE, BOB)
    assert await policies.look()
    assert denied(policies.map, ask("lake"))


async def test_what_widens_high_needs_more_signers(path: Path, store: MemoryStore) -> None:
    signed(path, 1, ALICE, BOB)
    policies = await started(path, store, verifier=manifests())
    put(path, DENYING)  # narrower: one is enough
    signed(path, 2, ALICE)
    assert await policies.look()
    assert policies.last_problem == ""
    put(path, DENYING.replace("[orders, lake]", "[orders, lake, scratch]"))  # wider, in what is low
    signed(path, 3, ALICE)
    assert await policies.look()
    assert policies.last_problem == ""
    put(path, GOOD)  # lake is high
    signed(path, 4, ALICE)
    assert await policies.look()
    assert "widens what is of tier high: 2 must have signed it, and alice did" in policies.last_problem
    again = await started(path, store, verifier=manifests())  # at a start it is held against the map that was in force
    assert denied(again.map, ask("lake"))
    signed(path, 4, ALICE, BOB)
    assert await again.look()
    assert allowed(again.map, ask("lake"))


async def test_an_older_serial_is_refused_after_a_restart_and_the_kept_map_is_used(
    path: Path, store: MemoryStore
) -> None:
    signed(path, 5, ALICE, BOB)
    await started(path, store, verifier=manifests())
    put(path, DENYING)
    signed(path, 4, ALICE, BOB)
    policies = await started(path, store, verifier=manifests())
    assert "older than one" in policies.last_problem
    assert allowed(policies.map, ask("lake"))  # the kept one


async def test_a_kept_map_whose_manifest_has_run_out_since_goes_on(path: Path, store: MemoryStore) -> None:
    signed(path, 5, ALICE, BOB, expires=START + timedelta(hours=1))
    await started(path, store, verifier=manifests())
    later = FakeClock(START + timedelta(hours=2))
    policies = Policies(path, KINDS, settle=0, verifier=manifests())
    await policies.load_initial(store, later)
    assert "expired" in policies.last_problem
    assert allowed(policies.map, ask("lake"))
    again = Policies(path, KINDS, settle=0, verifier=manifests())
    await again.load_initial(store, later)
    assert allowed(again.map, ask("lake"))
    other = Policies(path, KINDS, settle=0, verifier=manifests(threshold=1, threshold_high=1, trust_domain="x"))
    with pytest.raises(ScopeMapError):
        await other.load_initial(store, later)


async def test_i7_once_maps_must_be_signed_an_unsigned_kept_one_is_worth_nothing(
    path: Path, store: MemoryStore
) -> None:
    await started(path, store)
    with pytest.raises(ScopeMapError, match="must be signed"):
        await started(path, store, verifier=manifests())
