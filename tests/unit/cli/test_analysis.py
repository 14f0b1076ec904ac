"""`stepcred-broker scopes who-can | what-can | plan`: on files and on git revisions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.cli import revisions
from broker.cli.plan_text import code
from broker.cli.revisions import GitError, open_revision
from broker.cli.scopes import app
from broker.policy.analysis.cells import TooManyCombinations, Walker
from broker.policy.language.files import MAX_BYTES, NotTrusted
from broker.wiring import adapters
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, LOAD

GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
WIDER = GRANT.replace("[orders]", "[orders, lake]")


@pytest.fixture(autouse=True)
def fake_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "scope_kinds", lambda: KINDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text(BASE + GRANT)
    (tmp_path / "new.yaml").write_text(BASE + WIDER)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def git(at: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(at), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(folder: Path) -> Path:
    """Two commits; the map extends a base in another folder, and has a team."""
    maps = folder / "maps" / "prod"
    maps.mkdir(parents=True)
    teams = "teams:\n  pay: {path: ../pay.yaml, scopes_prefix: pay-, max_tier: low, workloads: [load]}\n"
    (folder / "maps" / "base.yaml").write_text(BASE + WIDER + teams)
    (folder / "maps" / "pay.yaml").write_text("version: 1\nscopes: {pay-x: {fake: {role: pay-r}, tier: low}}\n")
    (maps / "map.yaml").write_text(
        "extends: ../base.yaml\ngrants: {nightly: {scopes: [orders]}}\nteams: {pay: {path: ../pay.yaml}}\n"
    )
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (maps / "map.yaml").write_text("extends: ../base.yaml\nteams: {pay: {path: ../pay.yaml}}\n")
    git(folder, "commit", "-qam", "second")
    return folder


def test_a_plan_that_widens_exits_1_and_says_what(folder: Path) -> None:
    result = run("plan", "old.yaml", "new.yaml")
    assert result.exit_code == 1
    assert "gained: lake for load" in result.stdout
    assert "otherwise NO_GRANT" in result.stdout
    assert "widens: 1 gained" in result.stdout
    result = run("plan", "new.yaml", "old.yaml")
    assert (result.exit_code, "only narrows: 1 lost" in result.stdout) == (0, True)
    result = run("plan", folder / "old.yaml", folder / "old.yaml")
    assert (result.exit_code, result.stdout) == (0, "nobody gains or loses anything\n")


def test_a_plan_as_json_and_markdown(folder: Path) -> None:
    for arguments in (("--json",), ("--format", "json")):
        told = parsed(run("plan", "old.yaml", "new.yaml", *arguments))
        assert (told["widens"], told["changes"][0]["scope"]) == (True, "lake")
    result = run("plan", "old.yaml", "new.yaml", "--format", "markdown")
    assert result.stdout.startswith("### ⚠ Scope map: widens: 1 gained\n\n#### ⚠ More than before\n\n| | scope |")
    assert "| gained | `lake` | `load` `spiffe://" in result.stdout
    assert result.stdout == run("plan", "old.yaml", "new.yaml", "--format", "markdown").stdout
    narrow = run("plan", "new.yaml", "old.yaml", "--format", "markdown").stdout
    assert narrow.startswith("### Scope map: only narrows: 1 lost\n\n#### Less than before")


@pytest.mark.parametrize(
    "text", ["a|b", "`x` <img src=x>", "a\n# b", "\\|", "\u202eabc", "x" * 1000, "[a](http://b)", "<!--"]
)
def test_nothing_ends_a_code_span_or_a_cell(text: str) -> None:
    shown = code(text)
    assert shown[0] == shown[-1] == "`"
    assert not set(shown[1:-1]) & set("`|\\\n\r\u202e")
    assert len(shown) < 310


def test_a_name_of_a_file_cannot_write_into_the_comment(folder: Path) -> None:
    hostile = folder / "a`|<b>.yaml"
    hostile.write_text(BASE + WIDER)
    shown = run("plan", "old.yaml", hostile, "--format", "markdown").stdout
    assert "a`|" not in shown
    assert all(line.count("|") == 7 for line in shown.splitlines() if line.startswith("| gained"))


def test_a_plan_between_two_revisions_reads_all_files_of_each(repository: Path) -> None:
    result = run("plan", "HEAD~1:maps/prod/map.yaml", "HEAD:maps/prod/map.yaml")
    assert result.exit_code == 1, result.output
    assert "gained: lake for load" in result.stdout
    assert "(nightly (base.yaml:14:3))" in result.stdout
    assert run("plan", "main:maps/prod/map.yaml", "maps/prod/map.yaml").exit_code == 0


def test_a_path_from_this_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository / "maps")
    assert run("plan", "HEAD:./prod/map.yaml", "HEAD:maps/prod/map.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("old", "code_", "message"),
    [
        ("none.yaml", 78, "none.yaml: no such file"),
        ("nowhere:old.yaml", 78, "there is no revision 'nowhere'"),
        ("--output=x:old.yaml", 64, ""),
        ("HEAD:none.yaml", 78, "HEAD:none.yaml:1:1: does not exist"),
        ("HEAD:maps", 78, "HEAD:maps:1:1: is a folder"),
        ("HEAD:../x.yaml", 78, "lies outside of the repository"),
        (":old.yaml", 64, "expected a file, or REV:PATH"),
        ("HEAD:", 64, "expected a file, or REV:PATH"),
    ],
)
def test_what_cannot_be_compared_says_why(repository: Path, old: str, code_: int, message: str) -> None:
    result = run("plan", old, "new.yaml")
    assert result.exit_code == code_ or (result.exit_code, old) == (2, "--output=x:old.yaml")  # typer's own, alone
    assert message in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "old.yaml", "new.yaml"),
        ("who-can", "lake", "--map", "new.yaml"),
        ("what-can", LOAD, "--map", "new.yaml"),
    ],
)
def test_what_cannot_be_answered_exactly_is_not_answered(
    folder: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Walker, "_count", too_many)
    result = run(*command)
    assert (result.exit_code, "too many combinations" in result.stderr) == (78, True)


def too_many(_walker: Walker) -> None:
    raise TooManyCombinations


def test_a_map_that_does_not_load_exits_78(folder: Path) -> None:
    (folder / "new.yaml").write_text(BASE + GRANT.replace("orders", "odrers"))
    assert run("plan", "old.yaml", "new.yaml").exit_code == 78


def test_outside_of_a_repository_and_with_a_git_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    with pytest.raises(GitError, match="is in no git repository"):
        open_revision("HEAD", "x", folder)
    (folder / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(revisions, "_TIMEOUT_S", 0.2)
    with pytest.raises(GitError, match="did not answer"):
        open_revision("HEAD", "x", folder)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitError, match="git cannot be run"):
        open_revision("HEAD", "x", folder)


def test_a_file_of_a_revision_is_bounded_and_stays_inside(repository: Path) -> None:
    (repository / "large.yaml").write_bytes(b"#" * (MAX_BYTES * 2))
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "large")
    files, name = open_revision("HEAD", "large.yaml", repository)
    assert len(files.read(name)) == MAX_BYTES + 1
    with pytest.raises(NotTrusted):
        files.read("../../etc/passwd")


def test_who_can(folder: Path) -> None:
    result = run("who-can", "lake", "--map", "new.yaml")
    assert result.exit_code == 0
    assert "lake for load spiffe://" in result.stdout
    assert "tier high, ttl 5m, max_ttl 1h" in result.stdout
    assert "1 way to have it" in result.stdout
    told = parsed(run("who-can", "lake", "--map", "new.yaml", "--json"))
    assert (told["entries"][0]["workflows"], told["never"]) == (["etl"], [])
    assert "nobody" in run("who-can", "scratch", "--map", "new.yaml").stdout
    assert told["entries"][0]["bind"] == "identity"
    (folder / "held.yaml").write_text(
        (folder / "new.yaml").read_text().replace("[orders, lake]", "[orders, lake], bind: key")
    )
    assert "to the key of the step's first call only" in run("who-can", "lake", "--map", "held.yaml").stdout
    result = run("who-can", "lkae", "--map", "new.yaml")
    assert (result.exit_code, "did you mean 'lake'" in result.stderr) == (64, True)


def test_what_can(folder: Path) -> None:
    result = run("what-can", LOAD, "--map", "new.yaml")
    assert result.exit_code == 0
    assert "2 ways to have it" in result.stdout
    scopes = [entry["scope"] for entry in parsed(run("what-can", LOAD, "--map", "new.yaml", "--json"))["entries"]]
    assert scopes == ["lake", "orders"]
    result = run("what-can", "load", "--map", "new.yaml")
    assert (result.exit_code, "expected spiffe://" in result.stderr) == (64, True)
