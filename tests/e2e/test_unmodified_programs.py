"""Programs that know nothing of stepcred get credentials where they look for them, and are refused after the step's end.

The AWS CLI, boto3's default chain, `bao` and `psql`, each as it comes; on a real STS, OpenBao and PostgreSQL.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.lake import BUCKET, Lake
from tests.e2e.programs import BIN, KV_VALUE, STEPCRED, Programs, on_tmpfs
from tests.support.bao import BaoServer
from tests.support.postgres import PostgresServer
from tests.support.processes import stop, wait_until

DEAD_WITHIN = 15.0  # seconds after the step's end; Ceph takes a deny at once, AWS would need longer
AWS = BIN / "aws"
PSQL = shutil.which("psql")

# Uses boto3's default chain, waits for a line on stdin, and uses it again: the client that it has, and a new one. First it
# tells what it was given, as a thief would take it.
WITH_BOTO3 = f"""
import json, sys, boto3
def put(client):
    try:
        client().put_object(Bucket="{BUCKET}", Key="nightly-etl/boto3", Body=b"x")
    except Exception as error:
        code = getattr(error, "response", {{}}).get("Error", {{}}).get("Code")
        print("refused", code or type(error).__name__, flush=True)
    else:
        print("ok", flush=True)
session = boto3.Session()
key = session.get_credentials().get_frozen_credentials()
print(json.dumps(dict(
    AWS_ACCESS_KEY_ID=key.access_key, AWS_SECRET_ACCESS_KEY=key.secret_key, AWS_SESSION_TOKEN=key.token)), flush=True)
mine = session.client("s3")
put(lambda: mine)
sys.stdin.readline()
put(lambda: mine)
put(lambda: boto3.Session().client("s3"))
"""


@pytest.fixture(scope="module")
def programs(bao: BaoServer, pg: PostgresServer, lake: Lake) -> Iterator[Programs]:
    folder = on_tmpfs("programs")
    try:
        made = Programs(bao=bao, pg=pg, lake=lake, folder=folder)
        with made.deployment.daemon():
            yield made
    finally:
        shutil.rmtree(folder)


def aws_env(programs: Programs, **more: str) -> dict[str, str]:
    where = {"AWS_ENDPOINT_URL": programs.lake.ceph.url, "AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"}
    return programs.env(**where, **more)


@contextmanager
def with_boto3(argv: list[str], env: dict[str, str]) -> Iterator[tuple[Iterator[str], Callable[[], None]]]:
    """The program above: its lines, and what lets it go on."""
    process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as asks, process.stdout as tells:
        try:
            yield (line.strip() for line in tells), lambda: print(file=asks, flush=True)
        finally:
            process.kill()
            process.wait(10)


def until_refused(programs: Programs, argv: list[str | Path], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The program again and again, until it fails."""
    seen: list[subprocess.CompletedProcess[str]] = []

    def refused() -> bool:
        seen.append(programs.run(argv, env))
        return seen[-1].returncode != 0

    wait_until(refused, within=DEAD_WITHIN, what=f"{argv[0]} is refused")
    return seen[-1]


# --- exec: the environment ---


def test_the_aws_cli_copies_with_what_exec_put_into_its_environment(programs: Programs) -> None:
    kept = programs.folder / "kept.env"
    script = f'{AWS} s3 cp hello.txt s3://{BUCKET}/nightly-etl/hello.txt && env | grep ^AWS_ > "$0"'
    (programs.home / "hello.txt").write_text("hello")
    env = aws_env(programs)
    done = programs.run([STEPCRED, "exec", "--scope", "lake-write", "--", "sh", "-c", script, kept], env)
    assert done.returncode == 0, done.stderr
    assert "upload: ./hello.txt" in done.stdout
    stolen = dict(line.split("=", 1) for line in kept.read_text().splitlines())
    assert stolen["AWS_SESSION_TOKEN"] not in done.stdout + done.stderr
    until_refused(programs, [AWS, "s3", "ls", f"s3://{BUCKET}/"], aws_env(programs) | stolen)
    assert programs.refuses(stolen) == "AccessDenied"  # the CLI does not say so: it stumbles over Ceph's short answer


@pytest.mark.skipif(PSQL is None, reason="no psql on this machine")
def test_psql_logs_in_with_what_exec_put_into_its_environment(programs: Programs) -> None:
    kept = programs.folder / "kept-pg.env"
    script = 'psql -Atc "select current_user" && env | grep ^PG > "$0"'
    done = programs.run([STEPCRED, "exec", "--scope", "orders-db", "--", "sh", "-c", script, kept], programs.env())
    assert done.returncode == 0, done.stderr
    stolen = dict(line.split("=", 1) for line in kept.read_text().splitlines())
    assert done.stdout.strip() == stolen["PGUSER"]
    told = until_refused(programs, ["psql", "-Atc", "select 1"], programs.env() | stolen)
    assert "authentication failed" in told.stderr


@pytest.mark.skipif(PSQL is None, reason="no psql on this machine")
def test_psql_logs_in_with_a_pgpass_file_that_is_gone_afterwards(programs: Programs) -> None:
    kept = programs.folder / "kept-pgpass"
    script = 'psql -Atc "select current_user" && cp "$PGPASSFILE" "$0" && printf %s "$PGUSER $PGPASSFILE"'
    scope = [
        *("--file", "PGPASSFILE=orders-db:pgpass", "--env", "PGUSER=orders-db:username"),
        *(
            "--env",
            "PGHOST=orders-db:attributes.host",
            "--env",
            "PGPORT=orders-db:attributes.port",
            "--env",
            "PGDATABASE=orders-db:attributes.database",
        ),
    ]
    done = programs.run([STEPCRED, "exec", *scope, "--", "sh", "-c", script, kept], programs.env())
    assert done.returncode == 0, done.stderr
    logged_in, user_and_file = done.stdout.splitlines()
    user, file = user_and_file.split()
    assert logged_in == user
    assert not Path(file).exists()
    kept.chmod(0o600)
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(programs.pg.port), "PGDATABASE": programs.pg.database}
    stolen = programs.env(PGPASSFILE=str(kept), PGUSER=user, **where)
    assert "authentication failed" in until_refused(programs, ["psql", "-Atc", "select 1"], stolen).stderr


# --- the sidecar: an endpoint, a token sink, files ---


def test_boto3_finds_the_sidecars_endpoint_and_is_refused_when_the_sidecar_has_ended(programs: Programs) -> None:
    token, variables = programs.folder / "aws-token", programs.folder / "aws.env"
    env = aws_env(programs)
    args = ["--aws", "lake-write", "--listen", "127.0.0.1:0", "--token-file", str(token), "--env-file", str(variables)]
    with programs.sidecar(env, *args, ready=variables) as sidecar:
        argv = ["sh", "-c", f'. {variables}; exec "$@"', "sh", sys.executable, "-c", WITH_BOTO3]
        with with_boto3(argv, env) as (said, go_on):
            stolen = json.loads(next(said))
            assert next(said) == "ok"
            assert programs.refuses(stolen) == ""
            assert stop(sidecar, signal.SIGTERM, within=30) == 0
            assert not token.exists()
            wait_until(lambda: programs.refuses(stolen) == "AccessDenied", within=DEAD_WITHIN, what="denied")
            go_on()
            assert next(said).startswith("refused")
            assert next(said).startswith("refused")


def test_bao_reads_with_the_token_that_the_sidecar_keeps_where_bao_looks_for_it(programs: Programs) -> None:
    sink, kept = programs.home / ".vault-token", programs.folder / "kept-token"
    env = programs.env()
    get: list[str | Path] = [BIN / "bao", "kv", "get", "-field=password", f"secret/{programs.name}"]
    with programs.sidecar(env, "--vault-token-file", f"{sink}=app-token", ready=sink) as sidecar:
        done = programs.run(get, env)
        assert done.stdout.strip() == KV_VALUE, done.stderr
        assert sink.stat().st_mode & 0o777 == 0o600
        kept.write_text(sink.read_text())
        assert stop(sidecar, signal.SIGTERM, within=30) == 0
    assert not sink.exists()
    told = programs.run(get, env | {"BAO_TOKEN": kept.read_text()})
    assert told.returncode != 0
    assert "403" in told.stderr


@pytest.mark.skipif(PSQL is None, reason="no psql on this machine")
def test_psql_finds_a_service_that_the_sidecar_filled_into_a_template(programs: Programs) -> None:
    template, service = programs.folder / "services.tpl", programs.folder / "services.conf"
    template.write_text(
        "[orders]\nhost=${orders-db:attributes.host}\nport=${orders-db:attributes.port}\ndbname=${orders-db:attributes.database}\n"
        "user=${orders-db:username}\npassword=${orders-db:password}\n"
    )
    env = programs.env(PGSERVICEFILE=str(service))
    ask: list[str | Path] = ["psql", "service=orders", "-Atc", "select 1"]
    with programs.sidecar(env, "--template", f"{template}={service}", ready=service) as sidecar:
        assert programs.run(ask, env).stdout.strip() == "1"
        kept = service.read_text()
        assert stop(sidecar, signal.SIGTERM, within=30) == 0
    assert not service.exists()
    service.write_text(kept)
    assert "authentication failed" in until_refused(programs, ask, env).stderr


# --- credential_process ---


def test_boto3_and_the_aws_cli_ask_through_credential_process(programs: Programs) -> None:
    config = programs.folder / "aws-config"
    config.write_text(
        f"[default]\nregion = eu-west-1\ncredential_process = {STEPCRED} aws-credential-process lake-write --linger 1s\n"
    )
    env = aws_env(programs, AWS_CONFIG_FILE=str(config), XDG_RUNTIME_DIR=str(programs.folder))
    (programs.home / "hello.txt").write_text("hello")
    done = programs.run([AWS, "s3", "cp", "hello.txt", f"s3://{BUCKET}/nightly-etl/again.txt"], env)
    assert done.returncode == 0, done.stderr
    with with_boto3([sys.executable, "-c", WITH_BOTO3], env) as (said, go_on):
        stolen = json.loads(next(said))
        assert next(said) == "ok"
        # Through a shell of its own: whoever calls it is waited for, and this test lives on.
        ask = f"{STEPCRED} aws-credential-process lake-write --linger 1s"
        again = programs.run(["sh", "-c", "$ASK; exit $?"], env | {"ASK": ask})
        shown = json.loads(again.stdout)
        assert shown["Version"] == 1
        assert shown["SessionToken"] == stolen["AWS_SESSION_TOKEN"]  # one lease, whoever asks
        go_on()
        assert [next(said), next(said)] == ["ok", "ok"]
    wait_until(lambda: programs.refuses(stolen) == "AccessDenied", within=DEAD_WITHIN, what="denied")
