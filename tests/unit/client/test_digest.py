"""`stepcred digest`: any other byte, name or set of files is another definition; order is none."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcred._digest import NAMELESS, definition_digest
from stepcred.cli import _app, _definition
from tests.support.pages import blocks, page

# Golden: a change of these breaks every pinned digest there is. They are in the documentation too.
ONE = "sha256:c036ae0fda88c4723f1693cf0a57cf7a274c031b460ee8ae621d0fa42a8db74c"
TWO = "sha256:f5193c80741a7bf4f26408c22c891621c1ec82684102f662a2986b05c8e2d3c6"

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
FILES = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=5)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def digest(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stepcred", "digest", *map(str, arguments)])
        code = _app.run()
        told = capsys.readouterr()
        return code, told.out.strip(), told.err

    return digest


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_golden() -> None:
    assert definition_digest({NAMELESS: b"abcd\n"}) == ONE
    assert definition_digest({"a.yaml": b"1\n", "sub/b.sql": b""}) == TWO
    assert f"`{ONE}`" in page("definition-digest.md")
    assert f"`{TWO}`" in page("definition-digest.md")


@given(FILES, FILES)
def test_two_definitions_have_one_digest_only_when_they_are_the_same(
    one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    assert (definition_digest(one) == definition_digest(other)) == (one == other)


@given(FILES, st.data())
def test_any_change_of_a_byte_a_name_or_the_set_changes_it_and_order_does_not(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    before = definition_digest(files)
    assert definition_digest(dict(data.draw(st.permutations(list(files.items()))))) == before
    name = data.draw(st.sampled_from(sorted(files)))
    content = files[name]
    at = data.draw(st.integers(0, len(content)))
    added = content[:at] + data.draw(st.binary(min_size=1, max_size=1)) + content[at:]
    new = data.draw(NAMES.filter(lambda text: text not in files))
    rest = {key: value for key, value in files.items() if key != name}
    changed = [{**files, name: added}, {**rest, new: content}, {**files, new: b""}, {**files, new: content}]
    if content:
        flipped = bytes([content[0] ^ data.draw(st.integers(1, 255))]) + content[1:]
        changed += [{**files, name: flipped}, {**files, name: content[:-1]}]
    if rest:
        changed.append(rest)
    assert before not in map(definition_digest, changed)


@given(st.text("01:,", max_size=8), st.text("01:,", max_size=8), st.text("01:,", max_size=8))
def test_bytes_moved_between_name_and_content_or_file_and_file_change_it(one: str, two: str, three: str) -> None:
    """What the lengths are there for: these alphabets spell the separators."""
    sets = {
        json.dumps(files, sort_keys=True): files
        for files in (
            {"a" + one: two + three},
            {"a" + one + two: three},
            {"a" + one: two, "b": three},
            {"a": one, "b" + two: three},
        )
    }
    digests = {definition_digest({name: text.encode() for name, text in files.items()}) for files in sets.values()}
    assert len(digests) == len(sets)


def test_what_is_no_definition() -> None:
    nothing: tuple[dict[str, bytes], ...] = ({}, {NAMELESS: b"", "a": b""}, {"\ud800": b""})
    for files in nothing:
        with pytest.raises(ValueError):  # noqa: PT011
            definition_digest(files)


def test_one_file_has_the_same_digest_under_any_name_in_any_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, etl_yaml="abcd\n", elsewhere__other_yaml="abcd\n")
    assert run("etl.yaml") == (0, ONE, "")
    assert run(tmp_path / "elsewhere" / "other.yaml") == (0, ONE, "")
    monkeypatch.chdir("/")
    assert run(tmp_path / "etl.yaml") == (0, ONE, "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abcd\n")))
    assert run("-") == (0, ONE, "")


def test_with_a_base_among_others_or_in_a_folder_the_name_counts(run: Run, tmp_path: Path) -> None:
    write(tmp_path, etl_yaml="abcd\n", dags__etl_yaml="abcd\n")
    told = {run("--base", ".", "etl.yaml")[1], run("--base", "dags", "dags/etl.yaml")[1]}
    assert told == {definition_digest({"etl.yaml": b"abcd\n"})}
    assert run("dags")[1] == definition_digest({"dags/etl.yaml": b"abcd\n"})
    assert run("--base", "dags", "dags")[1] == definition_digest({"etl.yaml": b"abcd\n"})


def test_several_files_and_folders_in_any_order(run: Run, tmp_path: Path) -> None:
    write(tmp_path, a_yaml="1\n", sub__b_sql="")
    for given_files in (("a.yaml", "sub/b.sql"), ("sub/b.sql", "./a.yaml"), ("sub", "sub/../a.yaml"), (".",)):
        assert run(*given_files) == (0, TWO, ""), given_files
    assert json.loads(run("--json", "sub", "a.yaml")[1]) == {"digest": TWO, "files": ["a.yaml", "sub/b.sql"]}
    (tmp_path / "sub" / ".hidden").touch()
    assert run(".")[1] != TWO


def test_a_file_that_is_a_link_counts_as_what_it_leads_to(run: Run, tmp_path: Path) -> None:
    write(tmp_path, data__etl_yaml="abcd\n")
    (tmp_path / "mounted.yaml").symlink_to("data/etl.yaml")
    assert run("mounted.yaml")[1] == ONE
    assert run("--base", ".", "mounted.yaml")[1] == definition_digest({"mounted.yaml": b"abcd\n"})


def _refusals() -> dict[str, tuple[tuple[str, ...], str]]:
    return {
        "missing": (("no.yaml",), "no.yaml: No such file or directory"),
        "twice": (("a.yaml", "./a.yaml"), "a.yaml: given twice"),
        "in a folder and alone": (("sub", "sub/b.sql"), "b.sql: given twice"),
        "outside": (("--base", "sub", "a.yaml"), "a.yaml: lies outside of sub; set --base to a folder that holds all"),
        "nothing": (("",), "a FILE without a name"),
        "an empty folder": (("empty",), "empty: holds no file"),
        "a link inside": (("linked",), "link: a link inside a folder; name its target instead of the folder"),
        "a pipe": (("pipe",), "pipe: not a regular file; give a stream as -"),
        "a device": (("--base", "/", "/dev/zero"), "/dev/zero: not a regular file"),
        "stdin among others": (("-", "a.yaml"), "standard input (-) can only be a definition alone"),
        "a terminal's words": (("no\x1b[2J.yaml",), r"no\x1b[2J.yaml': No such file"),
        "not UTF-8": ((os.fsdecode(b"\xff.yaml"), "a.yaml"), "its name is not UTF-8"),
    }


@pytest.mark.parametrize("case", _refusals())
def test_what_cannot_be_used_is_one_line_and_66(run: Run, tmp_path: Path, case: str) -> None:
    write(tmp_path, a_yaml="1\n", sub__b_sql="", linked__c="1")
    (tmp_path / "linked" / "link").symlink_to("c")
    (tmp_path / "empty").mkdir()
    (tmp_path / os.fsdecode(b"\xff.yaml")).touch()
    os.mkfifo(tmp_path / "pipe")
    arguments, message = _refusals()[case]
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (66, "", 1)
    assert message in err
    assert json.loads(run("--json", *arguments)[1])["exit_code"] == 66


def test_bounded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, one="1" * 6, two="2" * 5)
    monkeypatch.setattr(_definition, "MAX_FILES", 1)
    assert "more than 1 files" in run("one", "two")[2]
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(_definition.MAX_BYTES + 1)
    assert "more than 64 MiB" in run("huge")[2]
    assert "more than 64 MiB" in run("--base", ".", "huge")[2]


def test_stdin_takes_no_base(run: Run) -> None:
    assert run("--base", ".", "-")[0] == 64
    assert run()[0] == 64


def test_the_page_s_own_implementations_agree(run: Run, tmp_path: Path) -> None:
    """What docs/definition-digest.md gives to paste computes what the command computes."""
    text = page("definition-digest.md")
    space: dict[str, Any] = {}
    exec(blocks(text, "python")[0], space)
    files = {"a.yaml": b"1\n", "sub/b.sql": b"", "Z": b"\x00\xff,1:", "ä ö": "ß".encode()}
    assert space["digest"](files) == definition_digest(files)
    assert space["digest"]({NAMELESS: b"abcd\n"}) == ONE
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks(text, "bash")[0], "digest", *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stdout.strip() == definition_digest(files) == run(*files)[1]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", ran.stdout.strip())
