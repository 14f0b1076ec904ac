"""A file that changes under a running daemon: what is taken, when, and what never is (I7)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.identity import source
from broker.identity.source import FileSource


def parse(contents: Sequence[bytes], _old: str | None) -> str:
    text = b"+".join(contents).decode()
    if "bad" in text:
        raise ConfigError([f"words: {text}"])
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("one")
    return path


def of(*paths: Path) -> FileSource[str]:
    return FileSource("words", paths, parse, max_bytes=20)


def looks(words: FileSource[str], times: int = 2) -> str | None:
    """What is taken into force."""
    for _ in range(times):
        if found := words.look():
            words.adopt(found)
            return found.value
    return None


def test_what_two_looks_saw_is_taken(path: Path) -> None:
    words = of(path)
    path.write_text("two")
    assert words.look() is None, "it may be half of what is being written"
    assert looks(words, 1) == "two"
    assert words.value == "two"
    assert looks(words, 12) is None


def test_what_goes_on_changing_is_not(path: Path) -> None:
    words = of(path)
    for number in range(12):
        path.write_text(f"half {number}")
        assert words.look() is None
    assert words.value == "one"
    assert looks(words) == "half 11"


def test_a_change_of_equal_length_within_one_tick_of_the_clock_is_seen(path: Path) -> None:
    words = of(path)
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    words._marks = words._look_at()  # as if every time of the file had stayed
    assert looks(words) == "two"


def test_a_file_at_rest_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = of(path)
    looks(words, source._RESTLESS)
    monkeypatch.setattr(source, "_read", None)
    assert looks(words, 3) is None


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words").write_text(name)
    (tmp_path / "now").symlink_to("a")
    words = of(tmp_path / "now" / "words")
    looks(words, source._RESTLESS)
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").rename(tmp_path / "now")
    assert looks(words) == "b"


@pytest.mark.parametrize("broken", ["bad", "absent", "too long", "writable by all", "folder", "pipe"])
def test_i7_what_is_bad_is_told_once_and_the_last_good_one_stays(path: Path, broken: str) -> None:
    words = of(path)
    path.unlink()
    match broken:
        case "bad" | "too long":
            path.write_text("bad" if broken == "bad" else "x" * 21)
        case "writable by all":
            path.write_text("two")
            path.chmod(0o666)
        case "folder":
            path.mkdir()
        case "pipe":  # read, it would hang for ever
            os.mkfifo(path)
    assert words.look() is None
    with pytest.raises(ConfigError) as told:
        words.look()
    assert all(problem.startswith("words") for problem in told.value.problems)
    words.refuse(told.value.problems)
    assert looks(words, 12) is None
    assert (words.value, bool(words.problems)) == ("one", True)
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text("one")
    assert looks(words) is None, "it is what is in force"
    assert not words.problems
    path.write_text("bad")
    with pytest.raises(ConfigError):
        of(path)


def refusals(words: FileSource[str], times: int) -> int:
    """How often what is there is judged, and refused."""
    count = 0
    for _ in range(times):
        try:
            assert words.look() is None
        except ConfigError as error:
            count += words.refuse(error.problems)
    return count


def test_i7_the_same_mistake_made_again_is_told_again(path: Path) -> None:
    words = of(path)
    for _ in range(2):
        path.write_text("bad")
        assert refusals(words, 12) == 1
        assert words.problems
        path.write_text("one")
        assert looks(words) is None
        assert not words.problems


def test_what_is_refused_is_judged_again_now_and_then_and_told_once(tmp_path: Path, path: Path) -> None:
    """A certificate may have become valid since."""
    valid = tmp_path / "valid"

    def parse_later(contents: Sequence[bytes], _old: str | None) -> str:
        return contents[0].decode() if valid.exists() else parse([contents[0].replace(b"two", b"bad")], None)

    words = FileSource("words", [path], parse_later, max_bytes=20)
    path.write_text("two")
    assert refusals(words, 3 * source._AGAIN) == 1
    valid.touch()
    assert looks(words, source._AGAIN) == "two"


def test_files_that_are_read_together_are_one_thing(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for each in paths:
        each.write_text("1")
    words = of(*paths)
    paths[1].write_text("2")
    assert looks(words) == "1+2"
    paths[0].unlink()
    words.look()
    with pytest.raises(ConfigError, match="does not exist"):
        words.look()
    assert words.value == "1+2"


def test_what_was_refused_is_judged_again_when_something_else_has_changed(path: Path) -> None:
    words = of(path)
    path.write_text("two")
    words.look()
    assert words.look()
    words.refuse(["not together with the others"])
    assert looks(words, 12) is None
    words.again()
    assert looks(words) == "two"
    words.again()
    assert looks(words, 12) is None
