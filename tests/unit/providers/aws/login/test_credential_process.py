"""The program that prints the broker's AWS keys: real ones, that behave badly."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.providers.aws.login.credential_process import MOST_OUTPUT, environment, fetch
from broker.providers.aws.login.identity import NoKeys

SECRET = "throwAwaySecretKeyOfTheBroker"
GOOD = {
    "Version": 1,
    "AccessKeyId": "ASIAEXAMPLE",
    "SecretAccessKey": SECRET,
    "SessionToken": "throwAwayToken",
    "Expiration": "2026-11-28T12:00:00Z",
}


def program(folder: Path, code: str) -> list[str]:
    path = folder / "helper.py"
    path.write_text(code)
    return [sys.executable, "-I", "-S", str(path)]


def prints(folder: Path, text: str) -> list[str]:
    (folder / "out").write_text(text)
    return ["/bin/cat", str(folder / "out")]


def refused(argv: list[str], capfd: pytest.CaptureFixture[str], seconds: float = 10) -> str:
    """Why there are no keys; with nothing of the program in it, in the traceback, or on our own streams."""
    with pytest.raises(NoKeys) as none:
        fetch(argv, seconds)
    told = "".join(traceback.format_exception(none.value)) + "".join(capfd.readouterr())
    assert SECRET not in told
    assert (none.value.__context__ is None) or none.value.__suppress_context__
    return none.value.why


def test_the_keys_of_one_that_works(tmp_path: Path) -> None:
    keys = fetch(prints(tmp_path, json.dumps(GOOD)), 10)
    assert keys.access_key_id == "ASIAEXAMPLE"
    assert keys.secret_access_key.reveal() == SECRET
    assert keys.session_token is not None
    assert keys.session_token.reveal() == "throwAwayToken"
    assert keys.ends_at == datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert SECRET not in repr(keys)


def test_keys_of_a_user_have_neither_token_nor_end(tmp_path: Path) -> None:
    told = {name: GOOD[name] for name in ("Version", "AccessKeyId", "SecretAccessKey")}
    keys = fetch(prints(tmp_path, json.dumps(told)), 10)
    assert (keys.session_token, keys.ends_at) == (None, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not print JSON"),
        (f"error: {SECRET}", "does not print JSON"),
        ("[" * 50_000, "does not print JSON"),
        ("\xff\xfe", "does not print JSON"),
        (json.dumps([GOOD]), "one JSON object"),
        (json.dumps(GOOD) * 2, "does not print JSON"),
        (json.dumps({**GOOD, "Version": 2}), '"Version": 1'),
        (json.dumps({**GOOD, "AccessKeyId": ""}), "no AccessKeyId"),
        (json.dumps({**GOOD, "SecretAccessKey": None}), "no AccessKeyId and SecretAccessKey"),
        (json.dumps({**GOOD, "SecretAccessKey": SECRET + "\n"}), "no AccessKeyId and SecretAccessKey"),
        (json.dumps({**GOOD, "SessionToken": "a\r\nX-Header: b"}), "SessionToken that is no text"),
        (json.dumps({**GOOD, "SessionToken": {"x": SECRET}}), "SessionToken that is no text"),
        (json.dumps({**GOOD, "Expiration": "soon"}), "Expiration"),
        (json.dumps({**GOOD, "Expiration": "2026-11-28T12:00:00"}), "Expiration"),  # of which zone?
        (json.dumps({**GOOD, "Expiration": 1795867200}), "Expiration"),
        (json.dumps(GOOD) + " " * MOST_OUTPUT, "prints too much"),
    ],
)
def test_what_it_prints_must_be_keys(text: str, why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert why in refused(prints(tmp_path, text), capfd)


def test_one_that_fails_tells_nothing_of_what_it_writes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = f"import sys; print({json.dumps(GOOD)!r}); print({SECRET!r}, file=sys.stderr); sys.exit(1)"
    assert "run it by hand" in refused(program(tmp_path, code), capfd)


def test_what_it_writes_to_stderr_goes_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = f"import sys; print({SECRET!r}, file=sys.stderr); print({json.dumps(GOOD)!r})"
    assert fetch(program(tmp_path, code), 10).access_key_id == "ASIAEXAMPLE"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/etc/passwd"], ["/bin/ec\0ho"]])
def test_one_that_cannot_be_started(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert "cannot be started" in refused(argv, capfd)


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 60",
        "exec sleep 60 >&-",  # as if it had ended
        "while :; do echo x; sleep 0.01; done",
    ],
)
def test_one_that_hangs_is_killed(script: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "pid"
    why = refused(["/bin/sh", "-c", f"echo $$ > {mark}; {script}"], capfd, seconds=0.7)
    assert "took longer than 0.7 s" in why
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_its_children_are_killed_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "pid"  # it ends itself, and the child keeps the pipe open
    why = refused(["/bin/sh", "-c", f"sleep 60 & echo $! > {mark}"], capfd, seconds=0.7)
    assert "took longer than" in why
    assert _gone(int(mark.read_text()))


def test_it_reads_nothing_and_gets_no_variable_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("STEPCRED_BROKER_CONFIG", SECRET)
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    code = (
        "import json, os, sys\n"
        f"good = {GOOD!r}\n"
        "good['SessionToken'] = ','.join(sorted(os.environ)) + ';' + sys.stdin.read() + os.getcwd()\n"
        "print(json.dumps(good))\n"
    )
    with standard_input(SECRET):
        keys = fetch(program(tmp_path, code), 10)
    assert keys.session_token is not None
    names, where = keys.session_token.reveal().split(";")
    assert set(names.split(",")) <= {"PATH", "LANG", "LC_CTYPE", *environment(os.environ)}
    assert "HTTPS_PROXY" in names
    assert where == "/"
    assert SECRET not in names + where


def test_its_path_is_not_ours() -> None:
    got = environment({"PATH": "/home/mallory/bin", "HOME": "/h", "AWS_PROFILE": "x", "http_proxy": "x"})
    assert got == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/h",
    }


@contextlib.contextmanager
def standard_input(text: str) -> Iterator[None]:
    """Of this process."""
    before, (there, here) = os.dup(0), os.pipe()
    os.write(here, text.encode())
    os.close(here)
    os.dup2(there, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        for descriptor in (before, there):
            os.close(descriptor)


def _gone(pid: int) -> bool:
    """Killed; whoever inherits it reaps it in a moment."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False
