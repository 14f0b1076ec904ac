"""`stepcred-broker keys` on a database that uses them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from broker import keyring, log
from broker.__main__ import main
from broker.clock import SystemClock
from broker.errors import ConfigError
from broker.journal import anchor
from broker.journal.anchor import Anchor
from broker.journal.chain import Head
from broker.model import EndReason, Evidence, LeaseState
from broker.store.anchoring import Anchoring
from broker.store.mint_keys import fitting_keyring, read_again
from broker.store.sqlite import SqliteStore, open_store
from tests.fakes.domain import NOW, lease, step
from tests.support.daemon import Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path, "", vault={"address": "http://127.0.0.1:1", "token_file": str(token(tmp_path))})


def token(folder: Path) -> Path:
    path = folder / "token"
    path.touch(mode=0o600)
    return path


def keys(deployment: Deployment, command: str) -> int:
    return main(["keys", command, "--config", str(deployment.config)])


async def started(deployment: Deployment) -> tuple[SqliteStore, str]:
    """A store after a first start, and its first key."""
    store = open_store(deployment.database)
    ring, _ = await fitting_keyring(store, deployment.mint_key)
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
    return store, ring.current


async def use(deployment: Deployment) -> str:
    """One open step and one live lease under the first key."""
    store, kid = await started(deployment)
    await store.write(lambda tx: tx.insert_step(replace(step(), handle_kid=kid)))
    await store.write(lambda tx: tx.insert_lease(replace(lease(), kid=kid)))
    await store.close()
    return kid


async def end_everything(deployment: Deployment) -> None:
    store = open_store(deployment.database)
    await store.write(lambda tx: tx.end_step(step().id, NOW, EndReason.STEP_ENDED))
    await store.write(lambda tx: tx.to_ended(lease().id, LeaseState.VOID, evidence=Evidence.NOT_MINTED, at=NOW))
    await store.close()


def test_a_key_in_use_is_kept_until_nothing_is_named_by_it(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    old = asyncio.run(use(deployment))
    assert keys(deployment, "rotate") == os.EX_OK
    new = keyring.load(deployment.mint_key).current
    assert keys(deployment, "list") == os.EX_OK
    listed = capsys.readouterr().out
    assert f"{old}  " in listed
    assert "1 lease, 1 step" in listed
    assert f"{new}  " in listed
    assert "current, not in use yet" in listed
    assert keys(deployment, "prune") == os.EX_OK
    assert set(keyring.load(deployment.mint_key).fingerprints) == {old, new}
    asyncio.run(end_everything(deployment))
    assert keys(deployment, "prune") == os.EX_OK
    assert f"dropped {old}" in capsys.readouterr().out
    assert set(keyring.load(deployment.mint_key).fingerprints) == {new}
    assert deployment.mint_key.read_text().strip().partition(":")[2] not in listed

    async def start_again() -> None:
        store = open_store(deployment.database)
        ring, control = await fitting_keyring(store, deployment.mint_key)
        assert list(control.key_fingerprints) == [ring.current]
        await store.close()

    asyncio.run(start_again())


@pytest.mark.parametrize("state", ["missing", "new", "restored"])
def test_only_the_database_that_the_keys_were_used_with_may_have_some_dropped(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    asyncio.run(use(deployment))
    assert keys(deployment, "rotate") == os.EX_OK
    both = deployment.mint_key.read_text()
    anchor_path = Path(f"{deployment.mint_key}.anchor")
    if state == "restored":
        anchor.write(anchor_path, Anchor(installation="i", head=Head(chain=9, seq=9, hash=bytes(32))))
    else:
        for path in deployment.database.parent.glob(f"{deployment.database.name}*"):
            path.unlink()
    if state == "new":
        store = open_store(deployment.database)
        asyncio.run(store.close())
    capsys.readouterr()
    assert keys(deployment, "prune") == os.EX_CONFIG
    said = {"missing": "does not exist", "new": "was never used", "restored": "the database is older"}
    assert said[state] in capsys.readouterr().err
    assert deployment.mint_key.read_text() == both


def test_pruning_is_refused_while_the_daemon_runs(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    async def beside_a_daemon() -> int:
        store, _ = await started(deployment)
        try:
            return await asyncio.to_thread(keys, deployment, "prune")
        finally:
            await store.close()

    assert asyncio.run(beside_a_daemon()) == os.EX_UNAVAILABLE
    assert "in use by another daemon" in capsys.readouterr().err


async def test_a_running_daemon_takes_a_rotated_key_and_remembers_it_first(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    store = open_store(tmp_path / "broker.db")
    ring, _ = await fitting_keyring(store, path)
    assert not await read_again(store, ring, path)
    rotated = keyring.rotate(path)
    assert await read_again(store, ring, path)
    assert ring.current == rotated.current
    assert dict((await store.read(lambda tx: tx.control())).key_fingerprints) == rotated.fingerprints
    await store.close()


def test_a_first_key_for_a_credential_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mint.key"
    assert main(["keys", "new", str(path)]) == os.EX_OK
    held = path.read_text()
    assert 'mint_key_file = "credential:NAME"' in capsys.readouterr().out
    assert main(["keys", "new", str(path)]) == os.EX_CANTCREAT
    assert path.read_text() == held
    assert held.strip().partition(":")[2] not in "".join(capsys.readouterr())


def test_the_mint_key_may_be_a_systemd_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    keyring.generate(credentials / "mint")
    (credentials / "mint").chmod(0o440)
    vault = {"address": "http://127.0.0.1:1", "token_file": str(token(tmp_path))}
    store = {"path": str(tmp_path / "broker.db"), "mint_key_file": "credential:mint"}
    made = Deployment(tmp_path, "", vault=vault, more={"store": store})
    assert keys(made, "list") == os.EX_CONFIG
    assert "there is no CREDENTIALS_DIRECTORY" in capsys.readouterr().err
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert keys(made, "list") == os.EX_CONFIG
    assert "set anchor_file" in capsys.readouterr().err
    monkeypatch.setenv("STEPCRED_BROKER_STORE__ANCHOR_FILE", str(tmp_path / "anchor"))
    assert keys(made, "list") == os.EX_UNAVAILABLE
    told = capsys.readouterr()
    assert "unknown  current" in told.out  # and no zero: what the key named may be alive
    assert "nothing else knows what the keys name" in told.err
    assert keys(made, "rotate") == os.EX_CONFIG
    assert "read-only" in capsys.readouterr().err


def lose(deployment: Deployment) -> None:
    for path in deployment.database.parent.glob(f"{deployment.database.name}*"):
        path.unlink()


def beside(deployment: Deployment) -> list[str]:
    return sorted(path.name for path in deployment.database.parent.glob(f"{deployment.database.name}*"))


def test_a_key_that_was_used_is_not_taken_by_a_new_database_unless_it_is_recovered(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(use(deployment))
    assert keyring.NEVER_USED not in deployment.mint_key.read_text()
    lose(deployment)

    async def start(*, recovering: bool = False) -> dict[str, str]:
        store = open_store(deployment.database)
        try:
            await fitting_keyring(store, deployment.mint_key, recovering=recovering)
            return dict((await store.read(lambda tx: tx.control())).key_fingerprints)
        finally:
            await store.close()

    with pytest.raises(ConfigError, match=r"with a database that is gone.*recover --since TIME"):
        asyncio.run(start())
    assert beside(deployment) == [f"{deployment.database.name}.lock"]  # or it would be an anchored start next time
    assert asyncio.run(start(recovering=True)) == {}  # a recovery that ends early has not made them fit
    with pytest.raises(ConfigError, match="database that is gone"):
        asyncio.run(start())
    main(["check", "--config", str(deployment.config)])
    assert "with a database that is gone" in capsys.readouterr().err


@pytest.mark.parametrize("credential", [False, True])
def test_a_first_start_takes_a_key_that_was_made_before_it_and_says_so(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    credential: bool,
) -> None:
    assert main(["keys", "new", str(deployment.mint_key)]) == os.EX_OK
    held = deployment.mint_key.read_text()
    if credential:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(deployment.mint_key.parent))
    else:
        main(["check", "--config", str(deployment.config)])
        assert "if a database was lost, stop and run" in capsys.readouterr().out

    async def start() -> None:
        store = open_store(deployment.database)
        await fitting_keyring(store, deployment.mint_key)
        await store.close()

    log.configure("warning", "console")
    asyncio.run(start())
    assert "if a database was lost, stop and run" in "".join(capsys.readouterr())
    assert (deployment.mint_key.read_text() == held) is credential
    asyncio.run(start())
    assert "if a database was lost" not in "".join(capsys.readouterr())


def test_a_start_that_died_before_the_database_knew_the_key_is_a_first_one_still(deployment: Deployment) -> None:
    keyring.generate(deployment.mint_key)
    keyring.rotate(deployment.mint_key)
    store, _ = asyncio.run(started(deployment))
    asyncio.run(store.close())
    assert len(keyring.load(deployment.mint_key).fingerprints) == 2
    assert keyring.NEVER_USED not in deployment.mint_key.read_text()


def test_a_start_that_its_anchor_refuses_leaves_no_empty_database(deployment: Deployment) -> None:
    path = Path(f"{deployment.mint_key}.anchor")
    held = Anchor(installation="i", head=Head(chain=9, seq=9, hash=bytes(32)))
    anchor.write(path, held)

    async def start() -> None:
        store = open_store(deployment.database)
        try:
            await Anchoring(store, path, SystemClock()).must_fit()
        finally:
            await store.close()

    with pytest.raises(ConfigError, match="the database is older"):
        asyncio.run(start())
    assert beside(deployment) == [f"{deployment.database.name}.lock"]
    path.unlink()
    asyncio.run(use(deployment))
    anchor.write(path, held)
    with pytest.raises(ConfigError, match="the database is older"):
        asyncio.run(start())
    assert deployment.database.name in beside(deployment)  # one that was there before stays


def test_another_key_than_the_databases_leads_to_the_page_about_a_lost_one(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(use(deployment))
    deployment.mint_key.unlink()
    assert keys(deployment, "prune") == os.EX_CONFIG
    assert "does not exist; restore it from where it was kept, or see docs/recovery.md" in capsys.readouterr().err
    keyring.generate(deployment.mint_key)
    assert keys(deployment, "prune") == os.EX_CONFIG
    assert "restore the file, or see docs/recovery.md for a key that is lost" in capsys.readouterr().err
