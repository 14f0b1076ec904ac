from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker import keyring
from broker.__main__ import main
from broker.cli.root import COMMANDS
from broker.journal.records import Kind, Record
from broker.store.base import Tx
from broker.store.sqlite import open_store
from tests.support.certs import TestCA
from tests.support.cli import Done, broker_cli

SCOPES = """
version: 1
environment: dev
trust_domain: test.local
workloads:
  load: {id: "spiffe://test.local/workflow/{workflow}/step/load", owners: ["group:data"]}
scopes:
  orders: {vault: {role: orders-ro}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [etl], scopes: [orders], max_step: 2h}
"""

# Stands for the composition root, so that what `serve` hands over can be seen without a daemon.
WITHOUT_THE_EXTRA = """
import sys
sys.modules["structlog"] = None
from broker.entry import main
sys.exit(main())
"""

SERVE = """
import sys
from broker.cli import life
from broker.__main__ import main

async def serve(config, *, on_stop):
    {body}

life.serve = serve
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str, code: str = "", env: dict[str, str] | None = None) -> Done:
    """`code` is run instead of the program, in a process of its own."""
    if not code:
        return broker_cli(*arguments, env=env)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(env or {})},
    )
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    ca = TestCA(tmp_path)
    cert, key = ca.server()
    (tmp_path / "scopes.yaml").write_text(SCOPES)
    (tmp_path / "token").touch(mode=0o600)
    file = tmp_path / "broker.toml"
    file.write_text(f"""
environment = "dev"
trust_domain = "test.local"
tls = {{ cert_file = "{cert}", key_file = "{key}", client_ca_file = "{ca.root_path}" }}
store = {{ path = "broker.db", mint_key_file = "mint.key" }}
scopes.file = "scopes.yaml"
vault = {{ address = "http://127.0.0.1:1", token_file = "token", connect_timeout = "1s" }}
""")
    return file


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """With a journal of two chains and 1,202 records: more than a page."""
    path = tmp_path / "broker.db"
    now = datetime(2026, 11, 1, tzinfo=UTC)

    def fill(tx: Tx) -> None:
        for replica in ("a", "b"):
            tx.start_epoch(replica=replica, boot_id="boot", expires_boot=1.0, at=now)
            for number in range(600):
                tx.append(Record(kind=Kind.DENIED, at=now, reference_id=f"{replica}{number}", reason="ACCESS_DENIED"))

    async def make() -> None:
        store = open_store(path)
        await store.write(fill)
        await store.close()

    asyncio.run(make())
    return path


def test_help_lists_every_command_and_loads_none_of_the_heavy_parts() -> None:
    heavy = "grpc boto3 hvac aiohttp cryptography ruamel pydantic"
    code = f"import sys; from broker.__main__ import main; main(['--help']); print(set('{heavy}'.split()) & {{*sys.modules}})"
    done = run(code=code)
    assert done.out.endswith("set()\n")
    assert all(name in done.out for name in COMMANDS)


def test_the_version_is_the_distributions() -> None:
    assert run("--version").out.startswith("stepcred-broker 0.")


@pytest.mark.parametrize("arguments", [["bogus"], ["serve"], ["serve", "--on-stop", "explode"], ["check", "--bogus"]])
def test_wrong_arguments_exit_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == os.EX_USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_serve_with_a_bad_config_prints_every_problem_and_exits_78(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('environment = "dev"\n[timings]\nheartbeet = "1s"\n')
    done = run("serve", "--config", str(file), env={"STEPCRED_BROKER_LOG__LEVEL": "loud"})
    assert done.code == os.EX_CONFIG
    assert f'error: {file}: timings.heartbeet: unknown key; did you mean "heartbeat"?' in done.err
    assert "error: STEPCRED_BROKER_LOG__LEVEL: log.level: must be one of" in done.err
    assert all(line.startswith("error: ") for line in done.err.splitlines())


def test_serve_hands_over_the_merged_config_and_returns_the_daemons_exit_code(config: Path) -> None:
    body = "print(config.listen.grpc, config.log.level.value, config.limits.max_streams, on_stop.value); return 3"
    done = run(
        "serve",
        "--listen=127.0.0.1:9",
        "--on-stop=revoke",
        code=SERVE.format(body=body),
        env={
            "STEPCRED_BROKER_CONFIG": str(config),
            "STEPCRED_BROKER_LIMITS__MAX_STREAMS": "7",
            "STEPCRED_BROKER_LISTEN__GRPC": "127.0.0.1:8",
        },
    )
    assert (done.code, done.out) == (3, "127.0.0.1:9 info 7 revoke\n")


def test_an_unexpected_error_exits_70_with_its_traceback_in_the_log_only(config: Path) -> None:
    body = "raise RuntimeError('with scv1-ab12-verysecret')"
    done = run("serve", "--config", str(config), code=SERVE.format(body=body))
    assert done.code == os.EX_SOFTWARE
    logged, told = done.err.splitlines()
    record = json.loads(logged)
    assert "Traceback" in record["exception"]
    assert told == f"error: internal error, reference {record['reference']}; the log tells more"
    assert "verysecret" not in done.err


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("from broker.errors import ConfigError; raise ConfigError(['a: b', 'c: d'])", os.EX_CONFIG, ["a: b", "c: d"]),
        ("from broker.errors import StoreError; raise StoreError('it is taken')", os.EX_UNAVAILABLE, ["it is taken"]),
        (
            "import asyncio; await asyncio.get_running_loop().create_server(asyncio.Protocol, '192.0.2.1', 80)",
            os.EX_UNAVAILABLE,
            ["cannot listen: "],
        ),
    ],
)
def test_expected_errors_are_lines_without_a_traceback(config: Path, body: str, code: int, told: list[str]) -> None:
    done = run("serve", "--config", str(config), code=SERVE.format(body=body))
    assert done.code == code
    lines = done.err.splitlines()
    assert len(lines) == len(told)
    assert all(line.startswith(f"error: {text}") for line, text in zip(lines, told, strict=True))


def test_check_is_content_before_the_first_start(config: Path) -> None:
    done = run("check", "--config", str(config))
    assert (done.code, done.err) == (0, "")
    assert "scope map     ok" in done.out
    assert not (config.parent / "broker.db").exists()


def test_check_live_says_which_provider_does_not_answer(config: Path) -> None:
    done = run("check", "--live", "--config", str(config))
    assert done.code == os.EX_UNAVAILABLE
    assert "error: vault: " in done.err
    assert "Traceback" not in done.err


def test_check_prints_the_problems_of_all_parts_at_once(config: Path, database: Path) -> None:
    folder = config.parent
    other_key = TestCA(folder, "other.local").server()[1]
    text = config.read_text()
    key = next(part for part in text.split('"') if part.endswith("server-key.pem"))
    config.write_text(text.replace(key, str(other_key)))
    (folder / "scopes.yaml").write_text(SCOPES.replace("tier: low", "teir: low").replace("dev", "prod"))
    old = keyring.generate(folder / "old.key")
    keyring.generate(folder / "mint.key")
    asyncio.run(_remember(database, old.fingerprints))
    done = run("check", "--config", str(config))
    assert done.code == os.EX_CONFIG
    assert "error: tls.key_file: does not belong to tls.cert_file" in done.err
    assert f"error: mint_key_file {folder / 'mint.key'}: not the key of database {database}" in done.err
    assert "did you mean 'tier'?" in done.err


async def _remember(database: Path, fingerprints: dict[str, str]) -> None:
    def operation(tx: Tx) -> None:
        for kid, fingerprint in fingerprints.items():
            tx.add_key_fingerprint(kid, fingerprint)

    store = open_store(database)
    await store.write(operation)
    await store.close()


def test_check_names_scopes_whose_provider_is_not_configured(config: Path) -> None:
    config.write_text(config.read_text().split("vault = ", maxsplit=1)[0] + 'aws.region = "eu-west-1"\n')
    done = run("check", "--config", str(config))
    assert done.code == os.EX_CONFIG
    assert "scope orders needs a section [vault] in the config" in done.err


def test_a_scope_with_the_tomb_role_of_this_broker_does_not_load(config: Path) -> None:
    (config.parent / "scopes.yaml").write_text(SCOPES.replace("orders-ro", "stepcred-tomb"))
    done = run("check", "--config", str(config))
    assert done.code == os.EX_CONFIG
    assert "scopes.yaml:8:" in done.err
    assert "stepcred-tomb is not for scopes" in done.err


def test_a_token_file_with_more_than_a_token_is_said_before_the_server_is_asked(config: Path) -> None:
    token = config.parent / "two-tokens"
    token.touch(mode=0o600)
    token.write_text("s.one\ns.two\n")
    text = config.read_text().split("vault = ", maxsplit=1)[0]
    config.write_text(text + f'vault = {{ address = "http://127.0.0.1:1", token_file = "{token}" }}\n')
    done = run("check", "--live", "--config", str(config))
    assert done.code == os.EX_CONFIG
    assert f"error: vault.token_file {token}: holds more than a token" in done.err
    assert "s.one" not in done.out + done.err


def test_an_intact_journal_verifies_and_names_its_head(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", "--database", str(database)]) == 0
    assert capsys.readouterr().out.startswith("1202 records in 2 chains hold; head 2/600 ")


def test_a_changed_record_is_found(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER journal_is_never_changed")
        connection.execute("UPDATE journal SET body = replace(body, 'ACCESS_DENIED', 'X') WHERE chain = 1 AND seq = 7")
    assert main(["audit", "verify", "--database", str(database)]) == 1
    assert capsys.readouterr().err == "broken: record 1/7: its text was changed\n"


def test_export_writes_each_record_once_and_goes_on_where_it_ended(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "export", "--database", str(database)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["chain"], row["seq"]) for row in rows] == [(chain, seq) for chain in (1, 2) for seq in range(601)]
    assert rows[1]["record"]["kind"] == "DENIED"
    assert rows[1]["prev"] == rows[0]["hash"]
    assert main(["audit", "export", "--database", str(database), "--after", "2/598"]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [599, 600]


def test_a_missing_database_or_a_wrong_position_is_one_line(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify", "--database", str(tmp_path / "none.db")]) == os.EX_UNAVAILABLE
    for position in ("last", f"1/{2**64}", "\u0663/\u0664"):
        assert main(["audit", "export", "--database", str(database), "--after", position]) == os.EX_USAGE
    assert len(capsys.readouterr().err.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("scopes", "explain", "--json", "spiffe://d/w", "s", "--map", "/nowhere"), os.EX_CONFIG, "no such file"),
        (("scopes", "explain", "--json", "--denial", "x", "--database", "/nowhere"), os.EX_CONFIG, "no such file"),
        (("scopes", "lint", "--json"), os.EX_USAGE, "wrong arguments"),
        (("recheck", "--json", "--config", "/nowhere"), os.EX_CONFIG, "/nowhere: does not exist"),
    ],
)
def test_with_json_an_error_is_one_object_beside_its_text(arguments: tuple[str, ...], code: int, told: str) -> None:
    done = run(*arguments)
    assert done.code == code
    held = json.loads(done.out)
    assert (told in held["error"], held["exit_code"]) == (True, code)
    assert "rror" in done.err
    assert not run(*(word for word in arguments if word != "--json")).out


def test_without_the_extra_it_says_what_to_install() -> None:
    done = run("--help", code=WITHOUT_THE_EXTRA)
    assert done.code == 69
    assert done.err == (
        "stepcred-broker: the daemon needs an extra: pip install 'stepcred[broker]' (structlog is missing)\n"
    )
