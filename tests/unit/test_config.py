from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from broker.config import Address, Config, LogLevel, Timings, load
from broker.config.sources import leaves, variable
from broker.errors import ConfigError

GOOD = """
environment = "dev"
trust_domain = "dev.acme.internal"

[tls]
cert_file = "server.pem"
key_file = "server-key.pem"
client_ca_file = "ca.pem"

[store]
path = "broker.db"
mint_key_file = "mint.key"

[scopes]
file = "scopes.yaml"

[vault]
address = "https://vault.acme.internal:8200"
token_file = "vault-token"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("server.pem", "ca.pem", "scopes.yaml"):
        (tmp_path / name).touch(mode=0o644)
    for name in ("server-key.pem", "vault-token"):
        (tmp_path / name).touch(mode=0o600)
    return tmp_path


def read(
    folder: Path, text: str = GOOD, env: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Config:
    file = folder / "broker.toml"
    file.write_text(text)
    return load(file, env or {}, flags)


def problems(
    folder: Path, text: str = GOOD, env: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, env, flags)
    return [problem.replace(str(folder), "DIR") for problem in caught.value.problems]


def test_a_minimal_file_gives_every_default(folder: Path) -> None:
    config = read(folder)
    assert config.listen.grpc == Address(host="127.0.0.1", port=8443)
    assert config.timings == Timings()
    assert config.limits.max_streams == 32
    assert config.vault is not None
    assert config.vault.request_limit == timedelta(seconds=90)
    assert config.aws is None
    assert config.guard.high.changes() == {}


def test_every_secret_may_be_a_systemd_credential(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_in = folder / "credentials"
    handed_in.mkdir(mode=0o700)
    (handed_in / "stepcred.server-key").touch(mode=0o440)  # what an ACL for the service's user shows as
    text = GOOD.replace('"server-key.pem"', '"credential:stepcred.server-key"')
    (problem,) = problems(folder, text)
    assert "tls.key_file: is a systemd credential, and there is no CREDENTIALS_DIRECTORY" in problem
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed_in))
    assert read(folder, text).tls.key_file == handed_in / "stepcred.server-key"
    missing = text.replace('"vault-token"', '"credential:stepcred.vault-token"')
    assert problems(folder, missing) == [
        "DIR/broker.toml: vault.token_file: DIR/credentials/stepcred.vault-token does not exist"
    ]
    outside = text.replace("credential:stepcred.server-key", "credential:../server-key.pem")
    (problem,) = problems(folder, outside)
    assert 'must be "credential:NAME"' in problem


def test_the_ways_to_be_somebody_at_aws(folder: Path) -> None:
    config = read(folder, GOOD + AWS + "credential_process = \"/bin/echo --certificate '/etc/a b.pem'\"")
    assert config.aws is not None
    assert config.aws.credential_process == ("/bin/echo", "--certificate", "/etc/a b.pem")
    config = read(folder, GOOD + AWS, {"STEPCRED_BROKER_AWS__CREDENTIAL_PROCESS": "/bin/echo x"})
    assert config.aws is not None
    assert config.aws.credential_process == ("/bin/echo", "x")
    config = read(folder, GOOD + AWS + WEB)
    assert config.aws is not None
    assert config.aws.web_identity is not None
    assert config.aws.web_identity.token_file == folder / "vault-token"


def test_a_program_that_others_can_replace_is_not_run(folder: Path) -> None:
    helper = folder / "helper"
    helper.write_text("#!/bin/sh\n")
    helper.chmod(0o757)
    (problem,) = problems(folder, GOOD + AWS + f'credential_process = "{helper}"')
    assert problem.startswith("DIR/broker.toml: aws.credential_process: DIR/helper can be written by everybody")


def test_relative_paths_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = read(folder)
    assert config.tls.key_file == folder / "server-key.pem"
    assert config.store.path == folder / "broker.db"


def test_environment_overrides_the_file_and_flags_override_both(folder: Path) -> None:
    text = GOOD + '[listen]\ngrpc = "127.0.0.1:1"\nhttp = "127.0.0.1:11"\n[log]\nlevel = "error"\n'
    env = {"STEPCRED_BROKER_LISTEN__GRPC": "127.0.0.1:2", "STEPCRED_BROKER_LOG__LEVEL": "warning"}
    config = read(folder, text, env, {"listen.grpc": "127.0.0.1:3"})
    assert (config.listen.http.port, config.listen.grpc.port, config.log.level) == (11, 3, LogLevel.WARNING)


def test_environment_reads_numbers_switches_and_nested_sections(folder: Path) -> None:
    env = {
        "STEPCRED_BROKER_GUARD__HIGH__BUDGET": "2",
        "STEPCRED_BROKER_GUARD__HIGH__LOCK": "1h30m",
        "STEPCRED_BROKER_LIMITS__REQUEST_RATE": "12.5",
        "STEPCRED_BROKER_LISTEN__ALLOW_REMOTE_HTTP": "true",
    }
    config = read(folder, env=env)
    assert config.guard.high.changes() == {"budget": 2, "lock": timedelta(minutes=90)}
    assert config.limits.request_rate == 12.5
    assert config.listen.allow_remote_http is True


def test_every_mistake_is_reported_at_once_each_with_its_source(folder: Path) -> None:
    text = """
environment = "Dev"
[tls]
cert_file = "nowhere.pem"
key_file = "server-key.pem"
client_ca_file = "ca.pem"
[timings]
hearbeat = "10s"
silence_bound = 45
[vault]
address = "http://vault.acme.internal:8200"
[limits]
max_streams = "3"
"""
    env = {"STEPCRED_BROKER_LISTEN__GRCP": "x", "STEPCRED_BROKER_LIMITS__REQUEST_BURST": "many"}
    missing = "missing; set it in DIR/broker.toml or as "
    duration = 'must be a duration with a unit (ms, s, m, h, d), for example "10s" or "1h30m"'
    assert problems(folder, text, env, {"log.level": "loud"}) == [
        'DIR/broker.toml: timings.hearbeat: unknown key; did you mean "heartbeat"?',
        "STEPCRED_BROKER_LIMITS__REQUEST_BURST: limits.request_burst: must be a number",
        'STEPCRED_BROKER_LISTEN__GRCP: listen.grcp: unknown key; did you mean "STEPCRED_BROKER_LISTEN__GRPC"?',
        "DIR/broker.toml: environment: must be lower-case letters, digits, '.', '_' and '-'",
        f"DIR/broker.toml: trust_domain: {missing}STEPCRED_BROKER_TRUST_DOMAIN",
        "DIR/broker.toml: tls.cert_file: DIR/nowhere.pem does not exist",
        f"DIR/broker.toml: store.path: {missing}STEPCRED_BROKER_STORE__PATH",
        f"DIR/broker.toml: store.mint_key_file: {missing}STEPCRED_BROKER_STORE__MINT_KEY_FILE",
        f"DIR/broker.toml: scopes.file: {missing}STEPCRED_BROKER_SCOPES__FILE",
        f"DIR/broker.toml: timings.silence_bound: {duration}",
        "DIR/broker.toml: vault.address: must be https: credentials would cross the network in clear text",
        "DIR/broker.toml: limits.max_streams: must be a whole number, without quotes",
        "--log-level: log.level: must be one of debug, info, warning, error",
    ]


AWS = '[aws]\nregion = "eu-west-1"\n'
PROCESS = 'credential_process = "/bin/echo x"\n'
WEB = 'web_identity = { token_file = "vault-token", role_arn = "arn:aws:iam::123456789012:role/b" }'


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('[vault.approle]\nrole_id = "r"\nsecret_id_file = "vault-token"', "vault: set exactly one of token_file,"),
        ('[aws]\nregion = "eu west 1"', "aws: region must be a region such as eu-west-1"),
        ('[aws]\nregion = "eu-west-1"\naccess_key_id = "AKIA"', "aws: set access_key_id and secret_access_key_file"),
        (AWS + 'access_key_id = "AKIA"\nsecret_access_key_file = "vault-token"\n' + PROCESS, "aws: set one of"),
        (AWS + PROCESS + WEB, "aws: set one of access_key_id, credential_process and [aws.web_identity], or none"),
        (AWS + 'web_identity = { role_arn = "arn:aws:iam::123456789012:role/b" }', "aws.web_identity.token_file: "),
        (AWS + 'web_identity = { token_file = "vault-token" }', "aws.web_identity.role_arn: "),
        (
            AWS + 'web_identity = { token_file = "none", role_arn = "r" }',
            "aws.web_identity.token_file: DIR/none does not exist",
        ),
        (
            AWS + 'web_identity = { token_file = "vault-token", role_arn = "broker" }',
            "aws: web_identity.role_arn must be a role",
        ),
        (AWS + WEB.replace("}", ', session_name = "a b" }'), "aws: web_identity.session_name must be 2 to 64 letters"),
        (AWS + 'credential_process = "aws_signing_helper"', "aws.credential_process: must begin with the path of a"),
        (AWS + 'credential_process = "~/helper"', "aws.credential_process: must begin with the path of a program"),
        (AWS + 'credential_process = " "', "aws.credential_process: must begin with the path of a program"),
        (
            AWS + "credential_process = '/bin/echo \"x'",
            "aws.credential_process: has a quotation mark that is not closed",
        ),
        (AWS + 'credential_process = "/no/such/helper x"', "aws.credential_process: begins with a path at which there"),
        (AWS + 'credential_process = "/etc/passwd"', "aws.credential_process: begins with a path at which there is no"),
        (AWS + 'credential_process = ["/bin/echo"]', "aws.credential_process: must be one text"),
        ('[listen]\nhttp = "0.0.0.0:8080"', "listen: http asks no client for a certificate"),
        ('[listen]\nhttp = "127.0.0.1:8443"', "listen: grpc and http must not be the same address"),
        ('[listen]\ngrpc = ":8443"', 'listen.grpc: must be "host:port"'),
        ('[listen]\ngrpc = "127.0.0.1:99999"', "listen.grpc: the port must be a number"),
        ('[timings]\nheartbeat = "40s"', "timings: silence_bound must be at least twice heartbeat"),
        ('[timings]\nepoch_renew = "14s"', "timings: epoch_life must be at least twice epoch_renew"),
        ('[timings]\nheartbeat = "0s"', "timings.heartbeat: must be longer than zero"),
        ('[timings]\nmint_timeout = "15s"', "timings: mint_timeout must be below 15s, the SDK's own deadline"),
        ('[timings]\nmint_timeout = "0s"', "timings.mint_timeout: must be longer than zero"),
        ("[guard.high]\nbudget = 0", "guard.high.budget: must be at least 1"),
        ("log = 3", "log: is a section; write [log]"),
        ("[limits]\nrequest_rate = inf", "limits.request_rate:"),
        ('[limits]\nhandshake_timeout = "6s"', "limits: handshake_timeout must not be above 5s"),
        ("[limits]\nmax_agent_rpcs = 129", "limits: max_agent_rpcs must not be above half of max_concurrent_rpcs, 128"),
        ("[limits]\nmax_concurrent_rpcs = 8\nmax_agent_rpcs = 2", "limits: max_concurrent_rpcs must be at least 16"),
        ('[limits]\nkeepalive_timeout = "2m"', "limits: keepalive_timeout must not be above keepalive_interval"),
        ('[limits]\nconnection_idle = "1h"', "limits: connection_idle must not be above connection_age"),
        ("[limits]\nmax_message_bytes = 100", "limits: max_message_bytes must be at least 4096"),
        ("[limits]\nmax_metadata_bytes = 100", "limits: max_metadata_bytes must be at least 1024"),
        (
            '[federation."partner.example"]',
            "federation.partner.example.client_ca_file: missing; set it, or tls.workload_api",
        ),
        ("[limits]\nmax_connections = 0", "limits.max_connections: must be at least 1"),
    ],
)
def test_what_does_not_fit_together_is_said(folder: Path, extra: str, message: str) -> None:
    text = f"{extra}\n{GOOD}" if extra.startswith("log =") else f"{GOOD}\n{extra}\n"
    assert [problem for problem in problems(folder, text) if problem.startswith(f"DIR/broker.toml: {message}")]


def test_a_spiffe_agent_or_files_never_both(folder: Path) -> None:
    head, tls = GOOD.split("[tls]")
    rest = tls.split("[", 1)[1]
    agent = '[tls]\nworkload_api = "unix:///run/spire/agent.sock"\n'
    config = read(folder, f'{head}{agent}[federation."partner.example"]\n[{rest}')
    assert config.tls.workload_api == "unix:///run/spire/agent.sock"
    assert config.tls.cert_file is None
    assert problems(folder, f'{head}{agent}cert_file = "server.pem"\n[{rest}') == [
        "DIR/broker.toml: tls: cert_file and workload_api: set one of them"
    ]
    assert problems(folder, f'{head}[tls]\ncert_file = "server.pem"\nspiffe_id = "spiffe://a/b"\n[{rest}') == [
        "DIR/broker.toml: tls: key_file is missing; set it, or workload_api for all three",
        "DIR/broker.toml: tls: client_ca_file is missing; set it, or workload_api for all three",
        "DIR/broker.toml: tls: spiffe_id needs workload_api",
    ]
    (problem,) = problems(folder, f'{head}[tls]\nworkload_api = "tcp://127.0.0.1:1"\n[{rest}')
    assert problem.startswith("DIR/broker.toml: tls.workload_api: must be a socket of this machine")


def test_http_beyond_loopback_needs_to_be_allowed(folder: Path) -> None:
    text = GOOD + '[listen]\nhttp = "0.0.0.0:8080"\nallow_remote_http = true\n'
    assert not read(folder, text).listen.http.loopback


def test_a_variable_that_does_not_fit_its_section_names_the_variable(folder: Path) -> None:
    found = problems(folder, env={"STEPCRED_BROKER_LISTEN__HTTP": "0.0.0.0:8080"})
    assert found[0].startswith("STEPCRED_BROKER_LISTEN__HTTP: listen: http asks no client")


def test_without_a_provider_there_is_nothing_to_broker(folder: Path) -> None:
    text = GOOD.split("[vault]", maxsplit=1)[0]
    assert problems(folder, text) == ["DIR/broker.toml: no provider; add a section [vault] or [aws]"]


@pytest.mark.parametrize(
    ("extra", "instead"),
    [
        ('token = "hvs.very-secret"', "set vault.token_file"),
        ('approle.secret_id = "very-secret"', "set vault.approle.secret_id_file"),
        ('password = "very-secret"', "name that file instead"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(folder: Path, extra: str, instead: str) -> None:
    found = problems(folder, GOOD + extra)
    assert any("looks like a secret" in problem and instead in problem for problem in found)
    assert not any("very-secret" in problem for problem in found)


def test_a_secret_in_the_environment_is_refused_and_not_repeated(folder: Path) -> None:
    assert problems(folder, env={"STEPCRED_BROKER_AWS__SECRET_ACCESS_KEY": "very-secret"})[0] == (
        "STEPCRED_BROKER_AWS__SECRET_ACCESS_KEY: aws.secret_access_key: "
        "looks like a secret; put it into a file of mode 600 and set aws.secret_access_key_file"
    )


def test_no_message_repeats_a_value_that_may_be_a_secret(folder: Path) -> None:
    text = GOOD.replace('"https://vault', '"https://root:very-secret@vault')
    text += '[aws]\nregion = ["very-secret"]\nendpoint_url = "very-secret"\n[limits]\nmax_streams = "very-secret"\n'
    found = problems(folder, text, {"STEPCRED_BROKER_TIMINGS__HEARTBEAT": "very-secret"})
    assert len(found) == 5
    assert not any("very-secret" in problem for problem in found)


def test_key_files_that_others_can_read_are_refused_all_at_once(folder: Path) -> None:
    (folder / "server-key.pem").chmod(0o640)
    (folder / "vault-token").chmod(0o644)
    (folder / "mint.key").touch(mode=0o604)
    (folder / "mint.key").chmod(0o604)
    assert problems(folder) == [
        f"DIR/broker.toml: {key}: DIR/{name} can be read by others; run chmod 600 DIR/{name}"
        for key, name in (
            ("tls.key_file", "server-key.pem"),
            ("store.mint_key_file", "mint.key"),
            ("vault.token_file", "vault-token"),
        )
    ]


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal", "-reserve", ".lock"])
def test_what_lies_beside_the_database_is_as_private(folder: Path, end: str) -> None:
    path = folder / f"broker.db{end}"
    path.touch(mode=0o600)
    read(folder)
    path.chmod(0o640)
    assert problems(folder) == [
        f"DIR/broker.toml: store: path with {end}: DIR/broker.db{end} can be read by others; run chmod 600 DIR/broker.db{end}"
    ]


def test_the_anchor_beside_the_key_is_as_private(folder: Path) -> None:
    (folder / "mint.key.anchor").touch(mode=0o600)
    (folder / "mint.key.anchor").chmod(0o646)
    assert problems(folder) == [
        "DIR/broker.toml: store: anchor_file: DIR/mint.key.anchor can be read by others; run chmod 600 DIR/mint.key.anchor"
    ]


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_folder_where_everybody_can_replace_keys_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    found = problems(folder)
    assert found == ["DIR/broker.toml: is in a folder that everybody can write to; run chmod o-w DIR"]
    folder.chmod(0o1777)
    read(folder)


def test_a_trust_bundle_that_everybody_may_write_is_refused(folder: Path) -> None:
    (folder / "ca.pem").chmod(0o666)
    assert problems(folder) == [
        "DIR/broker.toml: tls.client_ca_file: DIR/ca.pem can be written by everybody; run chmod o-w DIR/ca.pem"
    ]


def test_kubernetes_service_links_under_our_prefix_are_not_settings(folder: Path) -> None:
    links = {
        "STEPCRED_BROKER_SERVICE_HOST": "10.0.0.1",
        "STEPCRED_BROKER_SERVICE_PORT_GRPC": "8443",
        "STEPCRED_BROKER_PORT": "tcp://10.0.0.1:8443",
        "STEPCRED_BROKER_PORT_8443_TCP_ADDR": "10.0.0.1",
        "STEPCRED_BROKER_CONFIG": "/etc/stepcred/broker.toml",
    }
    assert read(folder, env=links).environment == "dev"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("STEPCRED_BROKER_VAULT", "vault: is a section; set STEPCRED_BROKER_VAULT__<KEY>"),
        ("STEPCRED_BROKER_LOG__LEVEL__X", "log.level: is a value, and has no keys below it"),
        ("STEPCRED_BROKER_", ": unknown key; known here:"),
    ],
)
def test_variables_that_name_no_value_say_so(folder: Path, name: str, message: str) -> None:
    assert problems(folder, env={name: "x"})[0].startswith(f"{name}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"environment = ", "is not TOML: "),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a = 1\na = 2\n", "is not TOML: "),
        (b"#" * (1 << 20) + b"##", "larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_problem(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{file}: {message}")


def test_a_config_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("")
    file.chmod(0o666)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert caught.value.problems == [f"{file}: can be written by everybody; run chmod o-w {file}"]


@pytest.mark.parametrize("value", ['"\\u0000"', '"~nobody/x"', '"."', "''", "[]"])
def test_odd_paths_are_problems_and_not_crashes(folder: Path, value: str) -> None:
    assert len(problems(folder, GOOD.replace('"server.pem"', value))) == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('approvals = {pending = "8d"}', "approvals: pending must not be above 7d"),
        ('approvals = {valid = "0s"}', "approvals.valid: "),
        (
            'operators = {client_ca_file = "ca.pem", second_factor_key_file = "x.key"}',
            "operators.second_factor_key_file: needs operators.file, in which the second factors stand",
        ),
    ],
)
def test_what_people_are_given_is_checked(folder: Path, more: str, told: str) -> None:
    (problem,) = problems(folder, f"{more}\n{GOOD}")
    assert told in problem


def test_every_key_can_be_set_from_the_environment_and_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    names = [".".join(keys) for keys in leaves(Config)]
    assert "guard.high.budget" in names
    assert len({variable(keys) for keys in leaves(Config)}) == len(names)
    assert [name for name in names if f"`{name}`" not in text and not name.startswith("guard.")] == []


@pytest.mark.parametrize(
    ("key", "anchor", "told"),
    [
        ("mint.key", "mint.key", "mint_key_file and anchor_file"),
        ("mint.key", "./x/../mint.key", "mint_key_file and anchor_file"),
        ("mint.key", "link", "mint_key_file and anchor_file"),
        ("mint.key", "hard", "mint_key_file and anchor_file"),
        ("broker.db", "anchor", "path and mint_key_file"),
        ("mint.key", "broker.db", "path and anchor_file"),
        ("mint.key", "broker.db-wal", "anchor_file and path with -wal"),
        ("broker.db-shm", "anchor", "mint_key_file and path with -shm"),
        ("mint.key", "broker.db-reserve", "anchor_file and path with -reserve"),
    ],
)
def test_files_of_the_store_that_would_be_written_over_each_other_are_refused(
    folder: Path, key: str, anchor: str, told: str
) -> None:
    (folder / "mint.key").touch(mode=0o600)
    (folder / "link").symlink_to("mint.key")
    (folder / "hard").hardlink_to(folder / "mint.key")
    text = GOOD.replace('mint_key_file = "mint.key"', f'mint_key_file = "{key}"\nanchor_file = "{anchor}"')
    assert problems(folder, text) == [f"DIR/broker.toml: store: {told} are the same file; each needs one of its own"]


def test_the_default_anchor_is_no_exception(folder: Path) -> None:
    text = GOOD.replace('path = "broker.db"', 'path = "mint.key.anchor"')
    assert "path and anchor_file are the same file" in problems(folder, text)[0]


def test_what_does_not_fit_together_is_said_beside_a_value_that_is_wrong(folder: Path) -> None:
    text = (
        GOOD
        + """
[listen]
grpc = "127.0.0.1:99999"
http = "0.0.0.0:8080"
[timings]
heartbeat = "x"
silence_bound = "1s"
epoch_life = "1s"
mint_timeout = "20s"
"""
    )
    found = [problem.removeprefix("DIR/broker.toml: ") for problem in problems(folder, text)]
    assert [problem.partition(" must")[0] for problem in found] == [
        "listen.grpc: the port",
        "timings.heartbeat:",
        "listen: http asks no client for a certificate and",
        "timings: epoch_life",
        "timings: mint_timeout",
    ]


def test_two_mistakes_of_one_section_are_both_said(folder: Path) -> None:
    found = problems(folder, GOOD + '[listen]\ngrpc = "0.0.0.0:8080"\nhttp = "0.0.0.0:8080"\n')
    assert [problem.partition(": listen: ")[2][:8] for problem in found] == ["http ask", "grpc and"]
