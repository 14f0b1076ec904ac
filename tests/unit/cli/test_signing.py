"""`stepcred-broker scopes sign|verify|keygen`: two people, one map."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from broker import process
from broker.__main__ import main
from broker.clock import SystemClock
from broker.policy import signing
from broker.wiring import adapters
from tests.support.daemon import Deployment
from tests.support.pages import bash, blocks, page
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(adapters, "scope_kinds", lambda *_: KINDS)
    monkeypatch.setattr(process, "harden", list)  # of this very process: it would last beyond the test
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.yaml").write_text(BASE)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def scopes(*arguments: object) -> tuple[int, str, str]:
        code = main(["scopes", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return scopes


@pytest.fixture
def people(run: Run) -> tuple[str, ...]:
    """Alice and Bob have keys; the arguments that name them."""
    for name in ("alice", "bob"):
        assert run("keygen", "--output", name)[0] == 0
    return ("--keys", "alice=alice.pem", "--keys", "bob=bob.pem")


@pytest.fixture
def signed(run: Run, people: tuple[str, ...]) -> tuple[str, ...]:
    """Both have signed."""
    assert run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "30d")[0] == 0
    assert run("sign", "map.yaml", "--key", "bob.key.pem")[0] == 0
    return people


def manifest() -> Any:
    return json.loads(Path("map.yaml.dsse.json").read_text())


def test_keygen_makes_a_pair_that_only_its_owner_can_sign_with(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("keygen", "--output", "alice")
    assert code == 0
    assert f'[scopes.keys]\n"alice" = "{tmp_path}/alice.pem"\n' in out
    assert (tmp_path / "alice.key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "alice.pem").stat().st_mode & 0o777 == 0o644
    before = (tmp_path / "alice.key.pem").read_bytes()
    assert run("keygen", "--output", "alice") == (73, "", "error: alice.pem: File exists\n")
    assert (tmp_path / "alice.key.pem").read_bytes() == before
    assert json.loads(run("keygen", "--output", "bob", "--json")[1]) == {"private": "bob.key.pem", "public": "bob.pem"}


def test_two_people_sign_and_it_holds(run: Run, people: tuple[str, ...]) -> None:
    code, out, err = run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "next", "--expires", "30d", *people)
    assert (code, err) == (0, "")
    for told in ("environment   prod\n", "serial        1\n", "  map.yaml\n", "signed by     alice (of alice, bob)\n"):
        assert told in out
    assert Path("map.yaml.dsse.json").stat().st_mode & 0o777 == 0o644
    code, out, err = run("verify", "map.yaml", *people)
    assert code == 1
    assert "signed by     alice (of alice, bob); 2 must have\n" in out
    assert err == "error: the manifest is signed by fewer of the keys than are needed: 1 of 2 (alice)\n"
    assert run("verify", "map.yaml", *people, "--threshold", "1")[0] == 0
    code, out, _ = run("sign", "map.yaml", "--key", "bob.key.pem", *people)
    assert code == 0
    assert "signed by     alice, bob (of alice, bob)\n" in out
    code, out, err = run("verify", "map.yaml", *people)
    assert (code, err) == (0, "")
    assert out.endswith("signed by     alice, bob (of alice, bob); 2 must have\nit holds\n")


def test_for_programs(run: Run, people: tuple[str, ...]) -> None:
    until = (SystemClock().now() + timedelta(days=3)).replace(microsecond=0)
    instant = until.isoformat()
    code, out, _ = run(
        "sign", "map.yaml", "--key", "alice.key.pem", "--serial", "7", "--expires", instant, *people, "--json"
    )
    told = json.loads(out)
    assert (code, told["signatures"], told["signers"], told["keys"]) == (0, 1, ["alice"], ["alice", "bob"])
    assert told["file"] == "map.yaml.dsse.json"
    assert (told["manifest"]["serial"], told["manifest"]["root"]) == (7, "map.yaml")
    assert told["manifest"]["expires"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")
    code, out, _ = run("verify", "map.yaml", *people, "--json")
    told = json.loads(out)
    assert (code, told["holds"], told["signers"], told["threshold"]) == (1, False, ["alice"], 2)
    assert [problem["fault"] for problem in told["problems"]] == ["TOO_FEW_KEYS"]
    # The same values once more are the same manifest, and a second person agrees to it.
    run("sign", "map.yaml", "--key", "bob.key.pem", "--serial", "7", "--expires", instant)
    told = json.loads(run("verify", "map.yaml", *people, "--json")[1])
    assert (told["holds"], told["problems"], told["signers"]) == (True, [], ["alice", "bob"])


def test_without_the_names_signatures_are_counted(run: Run, signed: tuple[str, ...]) -> None:
    assert "signed by     2 keys\n" in run("sign", "map.yaml", "--key", "bob.key.pem")[1]
    assert len(manifest()["signatures"]) == 2


def test_a_changed_map_holds_no_more_and_takes_no_more_signatures(run: Run, signed: tuple[str, ...]) -> None:
    Path("map.yaml").write_text(BASE + "# one more line\n")
    code, _, err = run("verify", "map.yaml", *signed)
    assert code == 1
    assert err == "error: map.yaml: is not the file that was signed; put it back, or sign the map again\n"
    before = manifest()
    code, _, err = run("sign", "map.yaml", "--key", "alice.key.pem")
    assert code == 78
    assert "not of the map as it is today (map.yaml); make a new one with --serial next --expires 30d" in err
    assert manifest() == before
    assert run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "next", "--expires", "30d")[0] == 0
    assert len(manifest()["signatures"]) == 1
    told = json.loads(run("verify", "map.yaml", *signed, "--json")[1])
    assert (told["manifest"]["serial"], told["signers"]) == (2, ["alice"])


def test_replayed_from_elsewhere(run: Run, signed: tuple[str, ...]) -> None:
    code, _, err = run("verify", "map.yaml", *signed, "--environment", "dev")
    assert (code, err) == (1, "error: the manifest is for another environment: prod, not dev\n")
    code, _, err = run("verify", "map.yaml", *signed, "--trust-domain", "x")
    assert (code, err) == (1, "error: the manifest is for another trust domain: prod.acme.internal, not x\n")
    Path("other.yaml").write_text(BASE)
    code, _, err = run("verify", "other.yaml", *signed, "--manifest", "map.yaml.dsse.json")
    assert (code, err) == (
        1,
        "error: the manifest is for a map whose root file has another name: map.yaml, not other.yaml\n",
    )


def test_a_missing_map_and_a_missing_or_broken_manifest(run: Run, people: tuple[str, ...]) -> None:
    assert run("verify", "none.yaml", *people) == (78, "", "error: none.yaml: no such file\n")
    code, _, err = run("verify", "map.yaml", *people)
    assert (code, err) == (
        78,
        "error: map.yaml.dsse.json: there is no manifest; make one with scopes sign\n",
    )
    Path("map.yaml.dsse.json").write_text("{}")
    code, out, err = run("verify", "map.yaml", *people, "--json")
    assert (code, err) == (1, "")
    assert [problem["fault"] for problem in json.loads(out)["problems"]] == ["MALFORMED"]
    assert json.loads(out)["manifest"] is None
    code, _, err = run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "next", "--expires", "30d")
    assert code == 78
    assert "map.yaml.dsse.json: the manifest is not one that `scopes sign` makes; move it away" in err


def test_a_broken_map_is_not_signed(run: Run, people: tuple[str, ...]) -> None:
    Path("map.yaml").write_text("version: 1\n")
    code, _, err = run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "30d")
    assert code == 78
    assert "map.yaml:1:1: " in err
    assert not Path("map.yaml.dsse.json").exists()


def test_an_expired_manifest(run: Run, signed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    later = SystemClock().now() + timedelta(days=31)
    monkeypatch.setattr(SystemClock, "now", lambda _: later)
    code, _, err = run("verify", "map.yaml", *signed)
    assert code == 1
    assert err.startswith("error: the manifest has expired: at 20")
    code, _, err = run("sign", "map.yaml", "--key", "bob.key.pem")
    assert (code, "has expired; make a new one" in err) == (78, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "there is no manifest yet; make one with --serial 1 --expires 30d"),
        (("--serial", "1"), "a new manifest needs --serial and --expires"),
        (("--expires", "30d"), "a new manifest needs --serial and --expires"),
        (("--serial", "0", "--expires", "30d"), "the serial must be a number from 1"),
        (("--serial", "one", "--expires", "30d"), "--serial: expected a number from 1, or next"),
        (("--serial", "٣", "--expires", "30d"), "--serial: expected a number from 1, or next"),
        (("--serial", "1", "--expires", "soon"), "--expires: expected a span such as 30d, or a time"),
        (("--serial", "1", "--expires", "9999999d"), "--expires: expected a span such as 30d, or a time"),
        (("--serial", "1", "--expires", "2020-01-01"), "--expires: is over already"),
        (("--serial", "1", "--expires", "30d", "--keys", "alice.pem"), "--keys: expected NAME=FILE"),
        (("--keys", "a=alice.pem", "--keys", "a=bob.pem"), "--keys: a is given twice"),
    ],
)
def test_asked_wrongly(run: Run, people: tuple[str, ...], arguments: tuple[str, ...], told: str) -> None:
    code, out, err = run("sign", "map.yaml", "--key", "alice.key.pem", *arguments, "--json")
    assert code == 64
    assert told in err
    assert json.loads(out)["exit_code"] == 64
    assert not Path("map.yaml.dsse.json").exists()


def test_a_serial_does_not_go_back(run: Run, signed: tuple[str, ...]) -> None:
    code, _, err = run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "60d")
    assert code == 64
    assert err == "error: --serial: map.yaml.dsse.json has serial 1; the next one must be higher\n"


def test_a_key_that_would_count_for_nothing(run: Run, people: tuple[str, ...]) -> None:
    run("keygen", "--output", "mallory")
    code, _, err = run("sign", "map.yaml", "--key", "mallory.key.pem", "--serial", "1", "--expires", "30d", *people)
    assert code == 78
    assert "mallory.key.pem belongs to none of the keys given with --keys" in err
    assert not Path("map.yaml.dsse.json").exists()


@pytest.mark.parametrize("arguments", [(), ("--keys", "alice=alice.pem", "--threshold", "2"), ("--threshold", "0")])
def test_verify_asked_wrongly(run: Run, signed: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    assert run("verify", "map.yaml", *arguments)[0] == 64


def test_verify_with_one_key_twice_or_none(run: Run, signed: tuple[str, ...]) -> None:
    code, _, err = run("verify", "map.yaml", "--keys", "a=alice.pem", "--keys", "b=alice.pem")
    assert (code, "a and b have the same key" in err) == (78, True)
    assert run("verify", "map.yaml", "--keys", "a=none.pem") == (78, "", "error: a: none.pem does not exist\n")


def of_broker(tmp_path: Path, **scopes: object) -> Deployment:
    """A broker that asks for the signatures of Alice and Bob."""
    keys = {name: str(tmp_path / f"{name}.pem") for name in ("alice", "bob")}
    more = {"scopes": {"file": str(tmp_path / "map.yaml"), **scopes, "keys": keys}}
    vault = {"address": "http://127.0.0.1:1", "token_file": "token"}
    deployment = Deployment(tmp_path / "site", "", vault=vault, more=more)
    (tmp_path / "site" / "token").touch(mode=0o600)
    return deployment


def of_prod(deployment: Deployment) -> Path:
    text = deployment.config.read_text().replace('"dev"', '"prod"').replace('"dev.local"', '"prod.acme.internal"')
    deployment.config.write_text(text)
    return deployment.config


def test_verify_tells_how_many_must_have_signed_what_widens_high(
    run: Run, people: tuple[str, ...], tmp_path: Path
) -> None:
    assert run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "30d")[0] == 0
    config = of_prod(of_broker(tmp_path, threshold=1))
    code, out, _ = run("verify", "map.yaml", "--config", config)
    assert code == 0
    assert out.endswith(
        "signed by     alice (of alice, bob); 1 must have\nfor a map that widens high: 2 must have signed\nit holds\n"
    )
    told = json.loads(run("verify", "map.yaml", "--config", config, "--json")[1])
    assert (told["threshold"], told["threshold_high"]) == (1, 2)


def test_verify_of_a_map_that_federates_with_whom_the_broker_does_not(
    run: Run, people: tuple[str, ...], tmp_path: Path
) -> None:
    head = "trust_domain: prod.acme.internal\n"
    (tmp_path / "map.yaml").write_text(BASE.replace(head, head + "federates_with: [partner.example]\n"))
    assert run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "30d")[0] == 0
    assert run("verify", "map.yaml", "--keys", "alice=alice.pem")[0] == 0
    code, _, err = run("verify", "map.yaml", "--config", of_prod(of_broker(tmp_path, threshold=1)))
    assert (code, "the broker does not federate with 'partner.example'" in err) == (1, True)


def test_verify_of_another_map_than_the_broker_s(run: Run, signed: tuple[str, ...], tmp_path: Path) -> None:
    config = of_prod(of_broker(tmp_path, threshold=2))
    (tmp_path / "other.yaml").write_text(BASE)
    assert run("verify", "other.yaml", "--config", config, "--manifest", "map.yaml.dsse.json") == (
        64,
        "",
        f"error: other.yaml: this broker loads {tmp_path}/map.yaml, and takes no map of another name; give that one\n",
    )
    (tmp_path / "copy").mkdir()
    for name in ("map.yaml", "map.yaml.dsse.json"):
        (tmp_path / "copy" / name).write_text((tmp_path / name).read_text())
    code, _, err = run("verify", "copy/map.yaml", "--config", config)
    assert (code, err) == (0, f"warning: copy/map.yaml is looked at; this broker loads {tmp_path}/map.yaml\n")


@pytest.mark.parametrize("other", [{"trust_domain": "acme.example"}, {"environment": "dev"}])
def test_a_manifest_that_is_not_for_what_its_map_is_for(
    run: Run, people: tuple[str, ...], other: dict[str, str]
) -> None:
    """`sign` makes none such; a broker takes none such."""
    root = Path("map.yaml").read_bytes()
    said: dict[str, Any] = {"environment": "prod", "trust_domain": "prod.acme.internal"} | other
    made = signing.Manifest(
        serial=1,
        expires=SystemClock().now().replace(microsecond=0) + timedelta(days=1),
        root="map.yaml",
        files=signing.digests({"map.yaml": root}),
        **said,
    )
    signer = signing.load_signer(Path("alice.key.pem"), lambda: pytest.fail("is not encrypted"))
    Path("map.yaml.dsse.json").write_bytes(signing.sign(made, signer))
    code, _, err = run("verify", "map.yaml", *people, "--threshold", "1")
    [asked] = other.values()
    assert (code, f"the broker serves '{asked}'" in err) == (1, True)


def test_verify_as_a_broker_would(run: Run, signed: tuple[str, ...], tmp_path: Path) -> None:
    deployment = of_broker(tmp_path, threshold=2)
    config = ("--config", str(deployment.config))
    code, _, err = run("verify", "map.yaml", *config)
    assert code == 1
    assert err == "error: the manifest is for another environment: prod, not dev\n"
    text = of_prod(deployment).read_text()
    assert run("verify", "map.yaml", *config)[0] == 0
    assert run("verify", "map.yaml", *config, *signed)[0] == 64
    deployment.config.write_text(text.replace("threshold = 2\n", "").split("\n[scopes.keys]")[0] + _rest(text))
    code, _, err = run("verify", "map.yaml", *config)
    assert (code, "has no [scopes.keys]" in err) == (78, True)


def _rest(text: str) -> str:
    """What comes after the table of keys."""
    return "\n[" + text.split("\n[scopes.keys]")[1].split("\n[", 1)[1]


@pytest.fixture
def encrypted(people: tuple[str, ...]) -> str:
    key = load_pem_private_key(Path("alice.key.pem").read_bytes(), None)
    locked = BestAvailableEncryption(b"three words here")
    Path("alice.key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return "alice.key.pem"


def test_an_encrypted_key_with_a_file(run: Run, encrypted: str) -> None:
    sign = ("sign", "map.yaml", "--key", encrypted, "--serial", "1", "--expires", "2099-01-01")
    code, _, err = run(*sign)
    assert (code, err) == (
        78,
        "error: alice.key.pem is encrypted; give --passphrase-file, or run this at a terminal\n",
    )
    secret = Path("passphrase")
    code, _, err = run(*sign, "--passphrase-file", secret)
    assert (code, err) == (
        78,
        "error: alice.key.pem needs --passphrase-file passphrase, which does not exist\n",
    )
    secret.write_text("three words here\n")
    secret.chmod(0o644)
    assert "not to be readable by others; run chmod 600 passphrase" in run(*sign, "--passphrase-file", secret)[2]
    secret.chmod(0o600)
    assert run(*sign, "--passphrase-file", secret)[0] == 0
    secret.write_text("another")
    code, out, err = run(*sign, "--passphrase-file", secret)
    assert (code, err) == (
        78,
        "error: alice.key.pem cannot be decrypted: another passphrase, or a damaged file\n",
    )
    assert "another\n" not in out


def test_an_encrypted_key_at_a_terminal(encrypted: str, tmp_path: Path) -> None:
    """The real command, hardened, with a terminal that echoes nothing of the passphrase."""
    Path("map.yaml").write_text("version: 1\nenvironment: prod\ntrust_domain: prod.acme.internal\n")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "broker", "scopes", "sign", "map.yaml", "--key", encrypted]
    with subprocess.Popen(
        [*command, "--serial", "1", "--expires", "30d"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        text=True,
    ) as child:
        os.close(theirs)
        asked = b""
        while b"passphrase of alice.key.pem: " not in asked:
            asked += os.read(ours, 1024)
        os.write(ours, b"three words here\n")
        out, _ = child.communicate(timeout=60)
    with contextlib.suppress(OSError):  # closed
        asked += os.read(ours, 1024)
    os.close(ours)
    assert child.returncode == 0
    assert "signed by     1 key\n" in out
    assert b"three words" not in asked
    assert Path("map.yaml.dsse.json").stat().st_mode & 0o777 == 0o644


def test_the_page_s_own_commands(tmp_path: Path) -> None:
    """docs/configuration.md, as a reader would paste it."""
    section = page("configuration.md").split("### Signed scope maps")[1].split("\n### ")[0]
    Path("scopes.yaml").write_text("version: 1\nenvironment: prod\ntrust_domain: prod.acme.internal\n")
    begun = "".join(f"stepcred-broker scopes keygen --output {name}\n" for name in ("alice", "bob"))
    assert bash(begun + blocks(section, "sh")[0], tmp_path).endswith(
        "signed by     alice, bob (of alice, bob); 2 must have\nit holds\n"
    )
    assert list(tomllib.loads(blocks(section, "toml")[0])["scopes"]["keys"]) == ["alice", "bob"]


def test_every_file_of_a_map_is_signed_and_one_that_nobody_signed_is_found(
    run: Run, people: tuple[str, ...], tmp_path: Path
) -> None:
    team = "teams: {pay: {path: teams/pay.yaml, scopes_prefix: pay-, max_tier: low, workloads: [load]}}\n"
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "map.yaml").write_text("version: 1\nextends: base.yaml\n" + BASE.split("workloads:")[0].split("1\n")[1])
    (tmp_path / "base.yaml").write_text(BASE + team)
    (tmp_path / "teams").mkdir()
    (tmp_path / "teams" / "pay.yaml").write_text("version: 1\n")
    code, out, _ = run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "30d", "--json")
    assert code == 0
    assert sorted(json.loads(out)["manifest"]["files"]) == ["base.yaml", "map.yaml", "teams/pay.yaml"]
    assert run("verify", "map.yaml", *people, "--threshold", "1")[0] == 0
    (tmp_path / "teams" / "pay.yaml").write_text("version: 1\n# more\n")
    code, _, err = run("verify", "map.yaml", *people, "--threshold", "1")
    assert (code, "teams/pay.yaml: is not the file that was signed" in err) == (1, True)


def test_a_map_that_refers_to_a_file_that_is_not_in_the_manifest_does_not_hold(
    run: Run, people: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = "teams: {pay: {path: pay.yaml, scopes_prefix: pay-, max_tier: low, workloads: [load]}}\n"
    (tmp_path / "map.yaml").write_text(BASE + team)
    (tmp_path / "pay.yaml").write_text("version: 1\n")
    honest = signing.digests
    monkeypatch.setattr(signing, "digests", lambda contents: honest({"map.yaml": contents["map.yaml"]}))
    assert run("sign", "map.yaml", "--key", "alice.key.pem", "--serial", "1", "--expires", "30d")[0] == 0
    code, _, err = run("verify", "map.yaml", *people, "--threshold", "1")
    assert (code, "pay.yaml is not in the signed manifest" in err) == (1, True)
