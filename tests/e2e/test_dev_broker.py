"""`stepcred-broker dev` as people and test suites run it. One process for the orders, one for each end of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import stepcred
from broker.__main__ import main
from stepcred.testing import Broker, DevBrokerFailed, OrderRefused
from stepcred.testing._process import Process
from tests.support.waiting import until

MAP = """\
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  orders-db: {vault: {role: orders-ro, read: database/creds/orders-ro}, ttl: 10m, max_ttl: 1h, tier: low}
  lake: {aws: {role_arn: "arn:aws:iam::123456789012:role/etl", regions: [eu-west-1], statements: [{Effect: Allow, Action: "s3:PutObject", Resource: "arn:aws:s3:::lake/*"}]}, ttl: 10m, tier: low}
  api: {dev: {kind: values, values: {api_key: k}}, tier: high}
  late: {vault: {role: late}, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [orders-db, lake, api]}
"""
LOAD = "spiffe://dev.local/workflow/nightly/step/load"
SCOPES = ["orders-db", "lake", "api"]


@pytest.fixture(scope="module")
def scopes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("scopes") / "scopes.yaml", MAP)


@pytest.fixture(scope="module")
def process(scopes: Path) -> Iterator[Process]:
    with Process(scopes) as found:
        yield found


@pytest.fixture
def broker(process: Process) -> Iterator[Broker]:
    yield Broker(process)
    process.order("reset")


def put(path: Path, text: str) -> Path:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.chmod(0o600)
    return beside.rename(path)


@contextlib.contextmanager
def opened(broker: Broker, run: str = "1") -> Iterator[stepcred.Step]:
    with (
        broker.agent(LOAD, run=run),
        stepcred.connect() as client,
        client.step(scopes=SCOPES, retry=0) as step,
    ):
        yield step


# --- what a step gets ---


def test_a_step_gets_stand_ins_and_loses_them(broker: Broker) -> None:
    with opened(broker) as step:
        login, session, values = (step.issue(scope) for scope in SCOPES)
        assert isinstance(login, stepcred.UsernamePassword)
        assert isinstance(session, stepcred.AwsSession)
        assert isinstance(values, stepcred.KeyValue)
        assert values.data == {"api_key": "k"}
        assert broker.accepts(login.password)
        assert broker.alive == SCOPES
        assert broker.open_steps == ["nightly/1/load"]
    assert broker.minted == SCOPES
    assert broker.alive == ["lake"]  # tier low: of a session of AWS only its time is the end, as with the real one
    assert not broker.accepts(login.password)
    broker.expire()
    assert broker.alive == []
    assert [event.reason for event in broker.events if event.what in ("revoked", "expired")][-1] == "EXPIRED"


def test_time_passes_and_the_step_lives_on(broker: Broker) -> None:
    with opened(broker) as step:
        first = step.issue("orders-db")
        before = broker.now
        broker.advance(minutes=9)
        assert broker.alive == ["orders-db"]
        second = step.issue("orders-db", replaces=first)
        broker.advance(minutes=2)
        assert (broker.now - before).total_seconds() >= 11 * 60
        assert len(broker.alive) == 1  # the successor
        assert isinstance(second, stepcred.UsernamePassword)
        assert broker.accepts(second.password)
        broker.advance(hours=23)
        assert broker.open_steps == ["nightly/1/load"]
        broker.advance(hours=2)  # its deadline
        assert broker.open_steps == []
    assert [event.reason for event in broker.events if event.what == "end"] == ["DEADLINE"]


def test_the_clock_has_its_limits(broker: Broker) -> None:
    for asked in ({"seconds": -1}, {"seconds": 0}, {"days": 29}):
        with pytest.raises(OrderRefused, match="the clock goes forward"):
            broker.advance(**asked)
    broker.advance(days=28)
    with opened(broker) as step:  # by a certificate that is good then and now
        step.issue("orders-db")
    with pytest.raises(OrderRefused, match="nothing is alive"):
        broker.expire("orders-db")


@pytest.mark.parametrize(
    "reason", ["LOCKED", "HELD", "COOLING", "CEILING", "FROZEN", "SCOPE_REFUSED", "PROVIDER_FAILED"]
)
def test_refusals_on_order(broker: Broker, reason: str) -> None:
    with opened(broker) as step:
        step.issue("api")
        broker.refuse("orders-db", reason)
        with pytest.raises(stepcred.Refused) as refused:
            step.issue("orders-db")
        assert refused.value.reason == reason
        # What locks ends the step, with all that it has: the real guard does it.
        assert broker.open_steps == ([] if reason in ("LOCKED", "HELD") else ["nightly/1/load"])
    assert broker.minted == ["api"]
    assert ("orders-db", reason) in broker.refused
    broker.allow("orders-db")
    with opened(broker, run="2") as step:
        if reason == "HELD":  # over all runs, until an operator lets it go
            return
        step.issue("orders-db")
    assert "orders-db" in broker.minted


def test_a_refusal_that_passes(broker: Broker) -> None:
    """DRAINING is asked again by the client itself."""
    broker.refuse("orders-db", "DRAINING", times=1)
    with opened(broker) as step:
        step.issue("orders-db")
    assert broker.refused == [("orders-db", "DRAINING")]
    assert broker.minted == ["orders-db"]


def test_a_provider_that_fails(broker: Broker) -> None:
    broker.fail("orders-db", times=1, how="lost")
    broker.fail("api", how="revoke")
    with opened(broker) as step:
        with pytest.raises(stepcred.ProviderFailed):
            step.issue("orders-db")
        assert "in doubt" in [event.what for event in broker.events]
        broker.advance(minutes=1)
        assert broker.alive == []  # what nobody got was found, and ended
        step.issue("api")
    assert broker.minted == ["api"]
    dead = [(event.scope, event.reason) for event in broker.events if event.what == "revoked"]
    assert dead == [("orders-db", "SEEN_DEAD"), ("api", "ACCESS_ENDED")]


def test_orders_that_make_no_sense(broker: Broker) -> None:
    with pytest.raises(OrderRefused, match="no scope is named 'orders'; there are api, lake, late, orders-db"):
        broker.refuse("orders")
    with pytest.raises(OrderRefused, match="cannot be brought about; there are ACCESS_DENIED, "):
        broker.refuse("api", "STEP_ENDED")
    with pytest.raises(OrderRefused, match="at least 1"):
        broker.refuse("api", times=0)
    with pytest.raises(OrderRefused, match="it fails as refused, lost, revoke"):
        broker.fail("api", how="sometimes")
    with pytest.raises(OrderRefused, match="not a workload's SPIFFE ID"):
        broker.env("load")
    with pytest.raises(OrderRefused, match=r"the map's trust domain is dev\.local"):
        broker.env("spiffe://other.local/load")


def test_a_restart_is_not_noticed(broker: Broker) -> None:
    with opened(broker) as step:
        step.issue("orders-db")
        broker.restart()
        assert broker.alive == ["orders-db"]
        step.issue("api")
    assert broker.minted == ["orders-db", "api"]
    assert broker.alive == []


def test_an_operator_ends_it(broker: Broker) -> None:
    with opened(broker) as step:
        step.issue("orders-db")
        broker.end_steps()
        assert broker.alive == []
        with pytest.raises(stepcred.StepEnded):
            step.issue("api")


def test_another_map_for_one_test(broker: Broker, process: Process) -> None:
    broker.with_scopes(MAP.replace("dev.local", "test.local").replace("environment: dev", "environment: test-1"))
    with broker.agent(LOAD.replace("dev.local", "test.local")), stepcred.connect() as client:
        assert client.whoami().spiffe_id == LOAD.replace("dev.local", "test.local")
    with pytest.raises(OrderRefused, match=r"scopes\.yaml:2:14: this is a map for environment 'prod'"):
        broker.with_scopes(MAP.replace("environment: dev", "environment: prod"))
    with pytest.raises(OrderRefused, match=r"scopes\.yaml:1:1"):
        broker.with_scopes("{}")
    process.order("reset")
    with opened(broker) as step:  # as it was, and nobody was left without a broker
        step.issue("orders-db")


def test_the_environment_is_as_before(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPCRED_STEP_HANDLE", "of the launcher of these tests")
    before = dict(os.environ)
    with broker.agent(LOAD, workflow="w", run="7", step="s") as env:
        assert "STEPCRED_STEP_HANDLE" not in os.environ
        assert (os.environ["STEPCRED_WORKFLOW"], env["STEPCRED_RUN"], env["STEPCRED_STEP"]) == ("w", "7", "s")
        os.environ["STEPCRED_NEW"] = "x"
    assert dict(os.environ) == before


# --- what the endpoint for orders asks for ---


def test_no_order_without_the_token(process: Process) -> None:
    for headers in ({}, {"Authorization": "Bearer guess"}):
        request = urllib.request.Request(process.told["control"] + "state", data=b"{}", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 401
        refused.value.close()
    token = Path(process.told["control_token_file"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in json.dumps(process.told)


def test_keys_are_nobody_elses(process: Process) -> None:
    folder = Path(process.told["folder"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    readable = [path for path in folder.rglob("*") if path.is_file() and path.name.endswith("key.pem")]
    assert readable
    assert {stat.S_IMODE(path.stat().st_mode) for path in readable} == {0o600}


# --- the command ---


@contextlib.contextmanager
def running(*arguments: str | Path, seen: Path, **env: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    argv = [sys.executable, "-m", "broker", "dev", *map(str, arguments)]
    with (
        seen.open("w") as view,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=view, text=True, env=clean(**env)
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            if process.poll() is None:
                process.kill()


def clean(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STEPCRED_")} | more


def command(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "broker", "dev", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=clean(**env), check=False)


def test_what_people_see(tmp_path: Path) -> None:
    """Settings to paste, a line for each event, an edited map in force at once, and nothing left behind."""
    (tmp_path / "maps").mkdir(mode=0o700)
    (tmp_path / "tmp").mkdir(mode=0o700)
    path, seen, env_file = put(tmp_path / "maps" / "scopes.yaml", MAP), tmp_path / "view", tmp_path / "step.env"
    temporary = {"TMPDIR": str(tmp_path / "tmp")}
    asked = ("--scopes", tmp_path / "maps", "--env-file", env_file, "--value", "orders-db:password=hunter2")
    with running(*asked, seen=seen, **temporary) as (process, printed):
        first, about, export = (printed.readline() for _ in range(3))
        assert first == f"# dev broker for {path}, environment dev: stand-ins only, gone when it stops\n"
        assert about == f"# load: {LOAD}, may have api, lake, orders-db\n"
        assert export.startswith("export STEPCRED_ADDR=127.0.0.1:")
        # Pasted, they make any shell this step.
        script = f"{export}{sys.executable} -c 'import stepcred, os\n"
        script += 'with stepcred.connect() as b, b.step(scopes=["orders-db", "late"]) as s: print(s.issue("orders-db").password)\''
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, env=clean(), check=False, timeout=60
        )
        assert done.stdout == "hunter2\n", done.stderr
        # As another agent, from another terminal.
        other = command("--as", LOAD.replace("nightly", "hourly"), "--json", **temporary)
        assert json.loads(other.stdout)["STEPCRED_WORKFLOW"] == "hourly"
        assert dict(line.split("=", 1) for line in env_file.read_text().splitlines())["STEPCRED_STEP"] == "load"
        assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
        # An edit is taken over; a mistake is shown where it is, and the last good map stays.
        put(path, MAP.replace("tier: high", "tier: hihg"))
        assert until(lambda: f"{path}:9:" in seen.read_text())
        put(path, MAP.replace("[orders-db, lake, api]", "[late]"))
        assert until(lambda: seen.read_text().count("is in force, 1 grants") == 2)
        # One of production does not come in by an edit either.
        put(path, MAP.replace("environment: dev", "environment: prod"))
        assert until(lambda: "this is a map for 'prod'; the broker serves 'dev'" in seen.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    view = seen.read_text()
    for word in ("begin", "mint        orders-db  nightly/dev-1/load", "revoked     orders-db", "map refused"):
        assert word in view
    assert "refused     late  nightly/dev-1/load  ACCESS_DENIED: " in view  # with the reason that the step is not told
    assert "hunter2" not in view
    assert "Traceback" not in view
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not env_file.exists()


def test_sigterm_leaves_nothing(scopes: Path, tmp_path: Path) -> None:
    with running("--scopes", scopes, seen=tmp_path / "view", TMPDIR=str(tmp_path)) as (process, printed):
        printed.readline()
        process.terminate()
        assert process.wait(20) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["view"]


def test_what_sigkill_leaves_is_removed_by_the_next(scopes: Path, tmp_path: Path) -> None:
    with running("--scopes", scopes, "--json", seen=tmp_path / "view", TMPDIR=str(tmp_path)) as (process, printed):
        left = Path(json.loads(printed.readline())["folder"])
        process.kill()
        process.wait(20)
    assert left.exists()
    said = command("--as", LOAD, TMPDIR=str(tmp_path))
    assert (said.returncode, "no dev broker of this user runs here" in said.stderr) == (78, True)
    with running("--scopes", scopes, "--json", seen=tmp_path / "view", TMPDIR=str(tmp_path)) as (process, printed):
        printed.readline()
        assert not left.exists()
        process.terminate()
        process.wait(20)


def test_it_ends_with_the_suite_that_started_it(scopes: Path, tmp_path: Path) -> None:
    """However that ended: what holds its standard input is gone."""
    code = f"import os, pathlib, stepcred.testing._process as p; made = p.Process(pathlib.Path({str(scopes)!r})); print(made._process.pid, made.told['folder'], flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, folder = done.stdout.split()
    assert until(lambda: not Path(folder).exists(), 20)
    assert until(lambda: _is_gone(int(pid)), 20)


def _is_gone(pid: int) -> bool:
    """Or waits for whoever inherits it to look."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        (
            ("environment: dev", "environment: prod"),
            [],
            (78, "scopes.yaml:2:14: this is a map for environment 'prod'"),
        ),
        (("tier: high", "tier: hihg"), [], (78, "scopes.yaml:9:")),
        (("", ""), ["--listen", "0.0.0.0:0"], (64, "--listen must be a loopback address")),
        (("", ""), ["--value", "orders-db"], (64, "--value must be SCOPE:NAME=TEXT")),
        (("", ""), ["--value", "orders:password=x"], (64, "--value: no scope is named 'orders'")),
    ],
)
def test_what_it_refuses(  # in this process: nothing has been made yet
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    arguments: list[str],
    expected: tuple[int, str],
) -> None:
    tmp_path.chmod(0o700)
    path = put(tmp_path / "scopes.yaml", MAP.replace(*change))
    code, said = expected
    assert main(["dev", "--scopes", str(path), *arguments]) == code
    assert said in capsys.readouterr().err


def test_a_file_of_somebody_else_is_neither_written_nor_removed(scopes: Path, tmp_path: Path) -> None:
    theirs = tmp_path / ".env"
    theirs.write_text("STEPCRED_ADDR=old\nDJANGO_KEY=x\n")
    done = command("--scopes", scopes, "--env-file", theirs)
    assert (done.returncode, done.stdout) == (64, "")
    assert f"--env-file {theirs}: holds something else than the settings of a step" in done.stderr
    assert "DJANGO_KEY=x" in theirs.read_text()
    left = tmp_path / "step.env"  # by one that was killed
    left.write_text("STEPCRED_ADDR=old\n")
    asked = ("--scopes", scopes, "--env-file", left, "--agent", "spiffe://prod.acme/x")
    assert command(*asked).returncode == 78
    assert not left.exists()


def test_it_stays_out_of_a_real_daemons_shell(
    scopes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPCRED_BROKER_VAULT__ADDRESS", "https://vault.acme")
    assert main(["dev", "--scopes", str(scopes)]) == 78
    assert "STEPCRED_BROKER_VAULT__ADDRESS: settings of a real daemon" in capsys.readouterr().err


def test_a_start_that_fails_leaves_nothing(scopes: Path, tmp_path: Path) -> None:
    done = command("--scopes", scopes, "--agent", "spiffe://prod.acme/x", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.endswith("'spiffe://prod.acme/x': the map's trust domain is dev.local\n")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_settings_file_that_cannot_be_written_is_said(scopes: Path, tmp_path: Path) -> None:
    done = command("--scopes", scopes, "--env-file", tmp_path / "none" / "step.env", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.endswith("step.env: cannot be written: No such file or directory\n")
    assert list(tmp_path.iterdir()) == []


def test_a_suite_is_told_why_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(DevBrokerFailed, match=r"exit code 78\):\nerror: .*does not exist"):
        Process(tmp_path / "none")


def test_it_says_when_the_extra_is_missing(scopes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError(\"No module named 'aiohttp'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(DevBrokerFailed, match=r'pip install "stepcred\[testing\]"'):
        Process(scopes)
    assert time.monotonic() - begun < 50  # not by the time limit of the start
