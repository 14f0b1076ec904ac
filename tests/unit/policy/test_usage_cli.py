"""`scopes simulate`, `suggest` and `explain`: over a database of the real store, and over its export."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.cli.scopes import app
from broker.journal.records import Kind
from broker.wiring import adapters
from tests.unit.policy.journals import Journal
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD

GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
SCHEDULER = f"spiffe://{DOMAIN}/airflow"
DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def fake_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "scope_kinds", lambda: KINDS)


@pytest.fixture(params=["database", "export"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def written(tmp_path: Path, rules: str = GRANT) -> Path:
    path = tmp_path / "map.yaml"
    path.write_text(BASE + rules)
    return path


def stored(tmp_path: Path, journal: Journal, form: str) -> Path:
    path = tmp_path / f"journal.{form}"
    return journal.database(path) if form == "database" else journal.export(path)


def test_simulate_exits_1_when_somebody_is_answered_differently(tmp_path: Path, form: str) -> None:
    journal = Journal()
    journal.whole()
    file = stored(tmp_path, journal, form)
    same = run("simulate", written(tmp_path), "--journal", file)
    assert same.exit_code == 0
    assert "2 requests replayed, 2 answered as they were; 0 minutes of journal" in same.stdout
    changed = run("simulate", written(tmp_path, GRANT.replace("[etl]", "[ml]")), "--journal", file)
    assert changed.exit_code == 1
    assert "newly denied: 'orders' to 'load', workflow 'etl'" in changed.stdout
    told = parsed(run("simulate", tmp_path / "map.yaml", "--journal", file, "--json"))
    assert (told["replayed"], told["same"], told["never_used"]["launchers"]) == (2, 0, [])
    (one,) = told["differences"]
    assert (one["change"], one["widens"], one["asked"], one["named"]) == ("newly denied", False, 1, 1)
    assert one["smallest_fix"] == "grants:\n  nightly:\n    workflows: [ml, etl]"


def test_a_journal_longer_than_a_page_is_read_to_its_end(tmp_path: Path, form: str) -> None:
    journal = Journal()
    for number in range(300):
        journal.whole(run=f"r{number}")
    assert len(journal.records) > 1000
    told = parsed(run("simulate", written(tmp_path), "--journal", stored(tmp_path, journal, form), "--json"))
    assert (told["replayed"], told["same"]) == (600, 600)
    assert told["journal"]["records"] >= len(journal.records)


def test_simulate_takes_a_period(tmp_path: Path) -> None:
    journal = Journal()
    journal.whole()
    journal.wait(days=2)
    journal.whole()
    file, new = journal.database(tmp_path / "j.db"), written(tmp_path)
    assert parsed(run("simulate", new, "--journal", file, "--since", "2026-06-02", "--json"))["replayed"] == 2
    assert parsed(run("simulate", new, "--journal", file, "--until", "2026-06-01", "--json"))["replayed"] == 0
    wrong = run("simulate", new, "--journal", file, "--since", "yesterday")
    assert (wrong.exit_code, wrong.stderr[:15]) == (64, "error: --since:")


def test_suggest_prints_yaml_and_exits_1_when_there_is_something(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names are cut at 80 characters
    tmp_path = Path()
    journal = Journal()
    journal.whole()
    file = stored(tmp_path, journal, form)
    nothing = run("suggest", written(tmp_path), "--journal", file)
    assert nothing.exit_code == 0
    assert "# nothing to narrow, by 0 minutes of journal" in nothing.stdout
    wide = written(tmp_path, GRANT + "  spare: {workloads: [plain], workflows: [etl], scopes: [orders]}\n")
    result = run("suggest", wide, "--journal", file)
    assert result.exit_code == 1
    assert f"# {wide}: paste over the same keys; null takes a key away\ngrants:\n  # never used in" in result.stdout
    told = parsed(run("suggest", wide, "--journal", file, "--json"))
    assert [(one["path"], one["value"]) for one in told["suggestions"]] == [(["grants", "spare"], None)]
    assert told["yaml"][str(wide)].endswith("\n  spare: null")
    assert len(told["cautions"]) == 1


@pytest.mark.parametrize("command", ["simulate", "suggest"])
def test_what_is_no_journal_exits_78(tmp_path: Path, command: str) -> None:
    new, odd = written(tmp_path), tmp_path / "odd"
    result = run(command, new, "--journal", odd)
    assert (result.exit_code, result.stderr) == (78, f"error: {odd}: no such file\n")
    for content in ("hello\n", '{"record": 1}\n', "[" * 100_000, "[]\n", '{"chain": 1}\n', "\x00\xff\n"):
        odd.write_text(content)
        result = run(command, new, "--journal", odd)
        assert result.exit_code == 78
        assert result.stderr == f"error: {odd}:1: neither a broker's database nor a line of `audit export`\n"
    odd.write_bytes(b"SQLite format 3\0 and then nothing of the kind")
    assert run(command, new, "--journal", odd).exit_code == 78


def test_a_denial_by_policy_is_told_whole(tmp_path: Path, form: str) -> None:
    journal = Journal()
    data = {"method": "IssueCredential", "denial": "WORKFLOW_NOT_GRANTED", "why": "grant 'nightly' does not name it"}
    data |= {"smallest_fix": "grants:\n  nightly:\n    workflows: [ml, etl]"}
    reference = journal.deny("SCOPE_REFUSED", scope="orders", rule="nightly (map.yaml:14:3)", data=data)
    file = stored(tmp_path, journal, form)
    result = run("explain", "--denial", reference, "--database", file)
    assert result.exit_code == 1
    for line in (
        f"  agent: '{LOAD}'",
        "  told: SCOPE_REFUSED: \"grant 'nightly' does not name it\", with rule and smallest change",
        "  why: WORKFLOW_NOT_GRANTED: grant 'nightly' does not name it",
        "  rule: nightly (map.yaml:14:3)",
        "  smallest change that would have allowed it:",
        "      workflows: [ml, etl]",
        "with --map FILE: the nearest grants, and whether today's map would still refuse it",
    ):
        assert f"{line}\n" in result.stdout
    now = run("explain", "--denial", reference, "--journal", file, "--map", written(tmp_path))
    assert "would be allowed\n" in now.stdout
    assert "ALLOWED by nightly (map.yaml:14:3)" in now.stdout


def test_today_s_map_shows_the_three_nearest_grants_with_all_that_fails(tmp_path: Path) -> None:
    journal = Journal()
    reference = journal.deny(scope="orders", data={"denial": "GRANT_OVER", "attempt": 3})
    rules = "grants:\n" + "".join(
        f"  g{number}: {{workloads: [load], workflows: [w{number}], scopes: [orders], attempts: 2}}\n"
        for number in range(5)
    )
    result = run(
        "explain",
        "--denial",
        reference,
        "--database",
        journal.database(tmp_path / "j"),
        "--map",
        written(tmp_path, rules),
    )
    assert "  would still be refused\n" in result.stdout
    assert result.stdout.count("does not match") == 3
    assert result.stdout.count("ATTEMPTS_EXHAUSTED: this is attempt 3") == 3
    assert "        attempts: 3\n" in result.stdout


def test_a_denial_that_policy_did_not_make_says_who_did_and_what_to_do(tmp_path: Path, form: str) -> None:
    journal = Journal()
    guard = journal.deny("HELD", scope="orders", rule="nightly (map.yaml:14:3)", data={"method": "IssueCredential"})
    handle = journal.deny("ACCESS_DENIED", scope="", data={"method": "Heartbeat"}, workflow="", run="", step="")
    file, today = stored(tmp_path, journal, form), written(tmp_path)
    result = run("explain", "--denial", guard, "--database", file, "--map", today)
    assert "not the scope map's refusal: a changed map changes nothing about it" in result.stdout
    assert "what to do: the guard: it came back after a lock; an operator who does not own" in result.stdout
    assert "would be allowed: the map was not what refused" in result.stdout
    result = run("explain", "--denial", handle, "--database", file, "--map", today)
    assert 'told: "access denied", and the reference' in result.stdout
    assert "what to do: the handle, lease or agent is unknown to the broker, or another's" in result.stdout
    assert parsed(run("explain", "--denial", handle, "--database", file, "--json"))["by_policy"] is False


def test_a_denial_for_another_key_says_so_to_operators(tmp_path: Path, form: str) -> None:
    journal = Journal()
    data = {"method": "Heartbeat", "why": "bind: key, and the step began with another key"}
    result = run(
        "explain",
        "--denial",
        journal.deny("ACCESS_DENIED", scope="", data=data),
        "--database",
        stored(tmp_path, journal, form),
    )
    assert "why: 'bind: key, and the step began with another key'" in result.stdout
    assert "what to do: a certificate renewed over another key, or a handle in other hands" in result.stdout


def test_what_a_provider_refused_is_not_taken_for_another_key(tmp_path: Path, form: str) -> None:
    journal = Journal()
    data = {"method": "IssueCredential", "why": "AWS refused AssumeRole: there is no such role"}
    failed, full = (
        journal.deny(reason, scope="orders", data=data) for reason in ("PROVIDER_FAILED", "NO_ROOM_TO_REVOKE")
    )
    file = stored(tmp_path, journal, form)
    told = run("explain", "--denial", failed, "--database", file).stdout
    assert "why: 'AWS refused AssumeRole: there is no such role'" in told
    assert "what to do: the provider did not mint" in told
    assert "what to do: no place for an early end" in run("explain", "--denial", full, "--database", file).stdout


def test_a_storm_s_reference_tells_how_many_shared_it(tmp_path: Path, form: str) -> None:
    journal = Journal()
    data = {"method": "IssueCredential", "denial": "NO_GRANT", "aggregate": True}
    reference, unfinished = journal.deny(data=data), journal.deny(data=data)
    journal.wait(seconds=70)
    counted = {"count": 41, "minute": "2026-06-01T12:00:00+00:00"}
    journal.add(Kind.DENIALS_COUNTED, agent=LOAD, reason="ACCESS_DENIED", reference_id=reference, data=counted)
    file = stored(tmp_path, journal, form)
    told = run("explain", "--denial", reference, "--database", file).stdout
    assert "a storm: 40 more in that minute, of the same agent and reason, were told this reference;" in told
    assert parsed(run("explain", "--denial", reference, "--database", file, "--json"))["further_refusals"] == 40
    told = run("explain", "--denial", unfinished, "--database", file).stdout
    assert "a storm: the journal does not say how many more in that minute" in told


def test_a_storm_whose_first_record_is_gone_is_told_by_its_number(tmp_path: Path, form: str) -> None:
    journal = Journal()
    counted = {"count": 41, "minute": "2026-06-01T12:00:00+00:00"}
    journal.add(Kind.DENIALS_COUNTED, reason="ACCESS_DENIED", reference_id="ref-x", data=counted)
    told = run(
        "explain", "--denial", "ref-x", "--database", stored(tmp_path, journal, form), "--map", written(tmp_path)
    )
    assert "a storm: 41 refusals of this agent and reason in the minute '2026-06-01T12:00:00+00:00'" in told.stdout


def test_a_refused_launcher_s_step_is_told_with_it(tmp_path: Path) -> None:
    journal = Journal()
    data = {"denial": "GRANT_OVER", "proven": True, "opened_by": SCHEDULER, "definition_digest": DIGEST}
    reference = journal.deny(scope="orders", data=data)
    file = journal.database(tmp_path / "j.db")
    pinned = GRANT.replace("scopes:", f"definition_digest: ['{DIGEST}'], scopes:")
    launcher = f"launchers:\n  airflow: {{id: '{SCHEDULER}', workloads: [load], workflows: [etl]}}\n"
    allowed = run("explain", "--denial", reference, "--database", file, "--map", written(tmp_path, pinned + launcher))
    assert "would be allowed" in allowed.stdout
    refused = run("explain", "--denial", reference, "--database", file, "--map", written(tmp_path, pinned))
    assert "STILL REFUSED LAUNCHER_REFUSED: its launcher may not open this step" in refused.stdout
    assert "NEEDS_LAUNCHER" in refused.stdout


def test_what_has_changed_with_time_alone_is_said(tmp_path: Path) -> None:
    journal = Journal(at=datetime(2020, 6, 1, tzinfo=UTC))
    reference = journal.deny(scope="orders", data={"denial": "NO_GRANT"})
    over = written(tmp_path, GRANT.replace("scopes:", "when: {until: 2021-01-01}, scopes:"))
    told = run("explain", "--denial", reference, "--database", journal.database(tmp_path / "j"), "--map", over).stdout
    assert "ALLOWED by nightly" in told
    assert "the answer is another one:\n  DENIED GRANT_OVER: grant 'nightly' ended at 2021-01-01T00:00Z\n" in told


def test_an_unknown_reference_says_so(tmp_path: Path, form: str) -> None:
    file = stored(tmp_path, Journal(), form)
    result = run("explain", "--denial", "ref-9", "--database", file)
    assert (result.exit_code, result.stderr) == (1, f"error: no denial 'ref-9' in {file}\n")


def test_words_of_an_export_cannot_steer_the_terminal(tmp_path: Path) -> None:
    journal = Journal()
    bad = "\x1b[2J"
    data = {"denial": bad, "why": bad, "smallest_fix": f"{bad}\n{bad}", "method": bad, "aggregate": True}
    reference = journal.deny(bad, scope=bad, rule=bad, data=data)
    file = journal.export(tmp_path / "j")
    told = run("explain", "--denial", reference, "--database", file, "--map", written(tmp_path)).stdout
    assert all(line.isprintable() for line in told.split("\n"))


def test_explain_asks_as_a_launcher_s_step_from_an_address_at_an_attempt(tmp_path: Path) -> None:
    rules = GRANT.replace(
        "scopes:", f"definition_digest: ['{DIGEST}'], attempts: 2, when: {{networks: [10.0.0.0/8]}}, scopes:"
    )
    asked = ("explain", LOAD, "orders", "--map", written(tmp_path, rules))
    good = ("--proven", "--definition-digest", DIGEST, "--address", "10.1.1.1", "--attempt", 2)
    assert run(*asked, *good).exit_code == 0
    told = run(*asked, "--attempt", 3, "--address", "192.0.2.1")
    assert told.exit_code == 1
    for reason in ("NEEDS_LAUNCHER", "SOURCE_NOT_ALLOWED", "ATTEMPTS_EXHAUSTED"):
        assert f"  {reason}: " in told.stdout


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--definition-digest", DIGEST), "give --proven, too"),
        (("--proven", "--definition-digest", "sha256:x"), "a digest is sha256:"),
        (("--address", "localhost"), "is no IP address"),
    ],
)
def test_explain_asked_about_what_cannot_be_exits_64(tmp_path: Path, wrong: tuple[str, ...], words: str) -> None:
    result = run("explain", LOAD, "orders", "--map", written(tmp_path), *wrong)
    assert result.exit_code == 64
    assert words in result.stderr
