"""`stepcred aws-credential-process`: many short calls, one keeper, one lease, and an end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stepcred
from stepcred.cli._aws_process import _client, _place, _start
from stepcred.cli._sidecar._watch import start_time
from tests.fakes.broker_server import STEP_ENDED, UNAVAILABLE, FakeBroker, Refusal
from tests.support.processes import wait_until

PROCESS = [sys.executable, "-c", "from stepcred.cli import main; main()", "aws-credential-process"]
KEEPER = b"stepcred.cli._aws_process._keeper"


class User:
    """A program that wants credentials for as long as it lives: a shell, which calls us as often as we like."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and what it printed."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{shlex.join([*PROCESS, *arguments])} 2>&1; c=$?; echo; echo code=$c\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith("code="):
                return int(line[5:]), "".join(lines).strip()
            lines.append(line)
        raise AssertionError("the shell has ended")

    def exits(self) -> None:
        self._shell.kill()
        self._shell.communicate()


def keepers(home: Path) -> list[int]:
    """Those whose socket lies there."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if KEEPER in words and words[-2].startswith(str(home).encode()):
                found.append(int(process.name))
    return found


@pytest.fixture
def home(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the keepers of this test are; none of them outlives it. Short: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="keepers-", dir="/tmp") as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made)
        yield Path(made)
        for pid in keepers(Path(made)):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not keepers(Path(made)), within=20, what="keepers gone")


@pytest.fixture
def user_of() -> Iterator[Callable[[], User]]:
    """With the environment as it is by then."""
    made: list[User] = []

    def make() -> User:
        made.append(User())
        return made[-1]

    yield make
    for one in made:
        one.exits()


@pytest.fixture
def user(home: Path, user_of: Callable[[], User]) -> User:
    return user_of()


def test_calls_of_a_program_share_one_lease_that_dies_with_it(fake: FakeBroker, home: Path, user: User) -> None:
    code, printed = user.call("lake-write", "--linger=0s")
    assert code == 0, printed
    answer = json.loads(printed)
    assert answer.pop("Expiration").endswith("Z")
    assert answer == {
        "Version": 1,
        "AccessKeyId": "ASIATEST",
        "SecretAccessKey": "s3cret-lease-1",
        "SessionToken": "s3cret-session",
    }
    assert json.loads(user.call("lake-write", "--linger", "0s")[1])["SecretAccessKey"] == "s3cret-lease-1"
    assert len(fake.requests("BeginStep")) == len(fake.requests("IssueCredential")) == 1
    (keeper,) = keepers(home)
    assert os.getsid(keeper) == keeper  # out of our session: no Ctrl-C, no hang-up
    assert not fake.only_step().ended
    user.exits()
    assert fake.wait_for(lambda: fake.only_step().ended)
    wait_until(lambda: not keepers(home), within=20, what="keeper gone")
    left = sorted(path.suffix for path in (home / "stepcred").iterdir())
    assert left == [".log"]
    assert "1 credential dead, proven in 41 ms" in next((home / "stepcred").glob("*.log")).read_text()


def test_many_first_calls_at_once_start_one_keeper_and_mint_once(fake: FakeBroker, home: Path) -> None:
    fake.delay["IssueCredential"] = 0.3
    asked = _place.Asked(scope="lake-write", also=[], names=("nightly-etl", "42", "load"), handle="", linger="30s")
    answers: list[tuple[int, str]] = []

    def call() -> None:
        answers.append(_client._answer(asked))

    threads = [threading.Thread(target=call) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {code for code, _ in answers} == {0}
    assert {json.loads(text)["SecretAccessKey"] for _, text in answers} == {"s3cret-lease-1"}
    assert len(keepers(home)) == 1
    assert len(fake.requests("BeginStep")) == len(fake.requests("IssueCredential")) == 1


def test_a_keeper_that_was_killed_is_replaced_and_its_step_ended(fake: FakeBroker, home: Path, user: User) -> None:
    assert user.call("lake-write")[0] == 0
    (keeper,) = keepers(home)
    os.kill(keeper, signal.SIGKILL)
    code, printed = user.call("lake-write")
    assert code == 0, printed
    assert json.loads(printed)["SecretAccessKey"] == "s3cret-lease-2"
    first, second = fake.steps.values()
    assert first.ended  # or the broker would refuse the next attempt until the silence bound
    assert not second.ended


def test_another_step_and_another_set_of_scopes_are_other_keepers(fake: FakeBroker, home: Path, user: User) -> None:
    assert user.call("lake-write")[0] == 0
    assert user.call("lake-write", "--run", "43")[0] == 0
    assert user.call("lake-write", "--run", "44", "--also", "orders-read")[0] == 0
    assert len(keepers(home)) == 3
    assert sorted(step.name.run for step in fake.steps.values()) == ["42", "43", "44"]


def test_the_brokers_reason_is_on_stderr_and_is_not_asked_for_again(fake: FakeBroker, home: Path, user: User) -> None:
    for _ in range(3):
        code, printed = user.call("out-of-hours")
        assert code == 77
        assert printed.startswith("stepcred: out-of-hours: refused [SCOPE_REFUSED]")
        assert "would fix" in printed
    assert len(fake.requests("BeginStep")) == 1


def test_a_step_that_the_broker_ended_is_not_opened_again(fake: FakeBroker, home: Path, user: User) -> None:
    fake.heartbeat = 0.1
    assert user.call("lake-write")[0] == 0
    ended = Refusal(
        code=STEP_ENDED.code, message=STEP_ENDED.message, reason="STEP_ENDED", metadata=(("ended_by", "OPERATOR"),)
    )
    fake.script("Heartbeat", ended)
    wait_until(lambda: user.call("lake-write")[0] != 0, within=20, what="the keeper has heard of it")
    for _ in range(2):
        code, printed = user.call("lake-write")
        assert code == 77
        assert "OPERATOR" in printed
    assert len(fake.requests("BeginStep")) == 1


def test_a_broker_that_is_away_is_69_and_asked_again_by_a_later_call(fake: FakeBroker, home: Path, user: User) -> None:
    fake.script("BeginStep", *[UNAVAILABLE] * 4)
    assert user.call("lake-write")[0] == 69
    assert user.call("lake-write")[0] == 69  # from memory
    assert len(fake.requests("BeginStep")) == 4
    wait_until(lambda: user.call("lake-write")[0] == 0, within=20, what="asked again")


def test_a_broker_is_waited_for_as_the_settings_say(
    fake: FakeBroker, home: Path, user_of: Callable[[], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPCRED_WAIT_BROKER", "30s")
    fake.script("BeginStep", *[UNAVAILABLE] * 5)
    assert user_of().call("lake-write")[0] == 0
    assert len(fake.requests("BeginStep")) == 6
    monkeypatch.setenv("STEPCRED_WAIT_BROKER", "2y")
    code, printed = user_of().call("lake-write")
    assert (code, "STEPCRED_WAIT_BROKER must be a time" in printed) == (78, True)


def test_a_step_that_a_launcher_opened_has_one_keeper_for_all_of_its_scopes(
    fake: FakeBroker, home: Path, user_of: Callable[[], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.scopes["lake-read"] = fake.scopes["lake-write"]
    with stepcred.connect() as broker:
        launched = broker.launch(scopes=["lake-read", "lake-write"], on_behalf_of="spiffe://test/x")
    for name in ("WORKFLOW", "RUN", "STEP"):
        monkeypatch.delenv(f"STEPCRED_{name}")
    monkeypatch.setenv("STEPCRED_STEP_HANDLE", launched.handle)
    user = user_of()
    for number, scope in enumerate(("lake-read", "lake-write"), 1):
        code, printed = user.call(scope, "--linger", "0s")
        assert code == 0, printed
        assert json.loads(printed)["SecretAccessKey"] == f"s3cret-lease-{number}"
    assert len(keepers(home)) == 1
    user.exits()
    assert fake.wait_for(lambda: fake.only_step().ended)


def test_names_from_a_scheduler_take_the_long_way(
    fake: FakeBroker, home: Path, user_of: Callable[[], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORKFLOW", "RUN", "STEP"):
        monkeypatch.delenv(f"STEPCRED_{name}")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "nightly-etl")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "scheduled__2026-11-28T00:00:00+00:00")
    monkeypatch.setenv("AIRFLOW_CTX_TASK_ID", "load")
    code, printed = user_of().call("lake-write")
    assert code == 0, printed
    assert fake.only_step().name.workflow == "nightly-etl"


def test_a_scope_that_is_no_aws_session_says_so(fake: FakeBroker, home: Path, user: User) -> None:
    code, printed = user.call("orders-read")
    assert code == 64
    assert "VaultToken is no AWS session" in printed


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_may_enter_is_refused(home: Path, mode: int) -> None:
    (home / "stepcred").mkdir()
    (home / "stepcred").chmod(mode)
    with pytest.raises(_place.Trouble, match="yours alone"):
        _place.folder()


def test_a_link_in_place_of_the_folder_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (home / "stepcred").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(_place.Trouble, match="yours alone"):
        _place.folder()


def test_nobody_has_the_sdks_pipes_once_a_call_is_over(fake: FakeBroker, home: Path) -> None:
    """As botocore does it: read until the end of both pipes. A keeper that held them would hang it for ever."""
    done = subprocess.run([*PROCESS, "lake-write"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["Version"] == 1


def test_a_call_imports_nothing_that_it_does_not_need(fake: FakeBroker, home: Path, user: User) -> None:
    assert user.call("lake-write")[0] == 0
    heavy = ("grpc", "typer", "rich", "aiohttp", "asyncio", "dataclasses", "typing", "json", "re", "logging", "pathlib")
    program = (
        "import sys; before = set(sys.modules); sys.argv[1:] = ['aws-credential-process', 'lake-write']\n"
        "from stepcred.cli import main\n"
        "try: main()\n"
        f"finally: print([m for m in {heavy!r} if m in sys.modules and m not in before], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["Version"] == 1
    assert len(keepers(home)) == 1


def test_the_user_is_the_program_not_a_shell_in_between() -> None:
    """As SDKs do that start it through `sh -c`, whose shell is gone when the call is over."""
    ask = shlex.join([sys.executable, "-c", "from stepcred.cli._aws_process._client import _user; print(*_user())"])
    through = ["sh", "-c", f": aws-credential-process; {ask}; true"]
    told = subprocess.run(through, capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(os.getpid()), str(start_time(os.getpid()))]


def test_of_two_who_wait_for_the_lock_of_a_keeper_that_ends_one_has_it(tmp_path: Path) -> None:
    base, inside, most = str(tmp_path / "x"), 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(200):
            with _start.locked(base):
                inside += 1
                most = max(most, inside)
                inside -= 1
                Path(f"{base}.lock").unlink()  # last, as the keeper does

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_keeper_whose_socket_was_cleaned_away_leaves_the_next_ones_alone(
    fake: FakeBroker, home: Path, user: User
) -> None:
    assert user.call("lake-write")[0] == 0
    (first,) = keepers(home)
    (home / "stepcred").glob("*.sock").__next__().unlink()
    assert user.call("lake-write")[0] == 0
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: first not in keepers(home), within=20, what="the first keeper gone")
    left = {path.suffix for path in (home / "stepcred").iterdir()}
    assert left == {".sock", ".lock", ".log", ".handle"}
    steps = len(fake.requests("BeginStep"))
    assert user.call("lake-write")[0] == 0
    assert len(fake.requests("BeginStep")) == steps


@pytest.mark.parametrize("arguments", [["\udcff"], ["lake-write", "--run", "a\nb"], ["lake-write", "--also", "\udc80"]])
def test_a_name_that_is_none_starts_no_keeper(home: Path, arguments: list[str]) -> None:
    done = subprocess.run([*PROCESS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "is no name" in done.stderr
    assert keepers(home) == []


def test_a_foreign_or_silent_caller_gets_nothing(fake: FakeBroker, home: Path, user: User) -> None:
    assert user.call("lake-write")[0] == 0
    (path,) = (home / "stepcred").glob("*.sock")
    for question in (b"\n" * 4, b"lake-write\nx\ny\n10s\n", b"x" * 5000 + b"\n", b"\xff\n1\n1\n\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(question)
            answer = b""
            try:
                while part := client.recv(4096):
                    answer += part
            except ConnectionError:
                pass
            assert b"s3cret" not in answer
    assert user.call("lake-write")[0] == 0
