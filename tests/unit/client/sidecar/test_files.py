"""Credentials in files: written whole, replaced by successors, gone at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from stepcred._outlets import PrivateFile
from stepcred.cli._sidecar import _life
from stepcred.cli._sidecar._places import FileOf, Template
from tests.fakes.broker_server import DENIED, STEP_ENDED, FakeBroker, Refusal
from tests.unit.client.sidecar.conftest import Sidecar, Start, until

LOST = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="SUCCESSORS_EXHAUSTED")


def token(path: Path) -> FileOf:
    return FileOf(path=path, scope="orders-read", what="")  # what is usual: the token


async def becomes(path: Path, content: str) -> bool:
    await until(lambda: path.exists() and path.read_text() == content)
    return True


async def test_token_sink_fields_and_templates_are_there_when_it_is_ready_and_gone_after(
    fake: FakeBroker, start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "step"
    template = Template(
        path=folder / "app.ini", text="token=${orders-read:token}\nuser=${orders-db:username}\nprice=$$5\n"
    )
    sidecar = await start(
        scopes=["orders-read", "orders-db"],
        files=[token(folder / "vault"), FileOf(path=folder / "pgpass", scope="orders-db", what="pgpass")],
        templates=[template],
    )
    assert (folder / "vault").read_bytes() == b"s3cret-lease-1"  # no line break: the bao CLI would send it
    assert (folder / "pgpass").read_text() == "db.test:5432:orders:v-step:s3cret-lease-2\n"
    assert (folder / "app.ini").read_text() == "token=s3cret-lease-1\nuser=v-step\nprice=$5\n"
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert await sidecar.end() == 0
    assert not folder.exists()
    assert fake.only_step().ended
    assert sidecar.events("ended") == ["2 credentials dead, proven in 41 ms"]


async def test_a_successor_takes_the_place_in_every_file(fake: FakeBroker, start: Start, tmp_path: Path) -> None:
    fake.ttl, fake.ripe = timedelta(seconds=2), 0.1
    template = Template(path=tmp_path / "step" / "b", text="${orders-read:token}!")
    sidecar = await start(scopes=["orders-read"], files=[token(tmp_path / "step" / "a")], templates=[template])
    assert await becomes(tmp_path / "step" / "a", "s3cret-lease-2")
    assert await becomes(tmp_path / "step" / "b", "s3cret-lease-2!")
    assert fake.requests("IssueCredential")[1].replaces == "lease-1"
    assert await sidecar.end() == 0


async def test_what_the_broker_ended_is_in_no_file(fake: FakeBroker, start: Start, tmp_path: Path) -> None:
    fake.heartbeat = 0.1
    sidecar = await start(scopes=["orders-read"], files=[token(tmp_path / "step" / "a")])
    fake.script("Heartbeat", STEP_ENDED)
    await sidecar.has_told("step_ended")
    assert not (tmp_path / "step" / "a").exists()
    assert not sidecar.task.done()
    assert len(fake.requests("BeginStep")) == 1


async def test_without_a_successor_the_file_goes_with_its_lease(fake: FakeBroker, start: Start, tmp_path: Path) -> None:
    fake.ttl, fake.ripe = timedelta(seconds=2), 0.1
    sidecar = await start(scopes=["orders-read"], files=[token(tmp_path / "step" / "a")])
    fake.script("IssueCredential", *[DENIED] * 3)
    assert "ACCESS_DENIED" in await sidecar.has_told("lost")
    assert not (tmp_path / "step" / "a").exists()
    assert sidecar.life._state.trouble is not None
    assert sidecar.life._state.trouble.code == "ACCESS_DENIED"


async def test_after_an_outage_the_file_comes_back(fake: FakeBroker, start: Start, tmp_path: Path) -> None:
    failed = Refusal(code=grpc.StatusCode.ABORTED, reason="PROVIDER_FAILED", verdict="RETRY_AFTER", retry_after=0.1)
    fake.ttl, fake.ripe = timedelta(seconds=2), 0.1
    sidecar = await start(scopes=["orders-read"], files=[token(tmp_path / "step" / "a")])
    fake.script("IssueCredential", failed, failed)
    await sidecar.has_told("lost")
    assert not (tmp_path / "step" / "a").exists()
    fake.ttl = timedelta(minutes=10)
    await until((tmp_path / "step" / "a").exists)
    await until(lambda: sidecar.life._state.trouble is None)


async def test_after_a_full_tmpfs_the_file_comes_back(
    fake: FakeBroker, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.ttl, fake.ripe = timedelta(seconds=2), 0.1
    write, full = PrivateFile.write, True

    def write_if_there_is_room(file: PrivateFile, data: bytes) -> None:
        if full and data != b"s3cret-lease-1":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(PrivateFile, "write", write_if_there_is_room)
    monkeypatch.setattr(_life, "ASK_AGAIN", 0.1)
    sidecar = await start(scopes=["orders-read"], files=[token(tmp_path / "step" / "a")])
    fake.ttl = timedelta(minutes=10)
    assert "No space left" in await sidecar.has_told("lost")
    assert not (tmp_path / "step" / "a").exists()
    full = False
    assert await becomes(tmp_path / "step" / "a", "s3cret-lease-2")
    await until(lambda: sidecar.life._state.trouble is None)
    assert len(fake.requests("IssueCredential")) == 2


async def test_files_for_the_group_of_another_container(fake: FakeBroker, start: Start, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2777)  # an emptyDir with fsGroup
    folder = tmp_path / "shared" / "step"
    await start(
        scopes=["orders-read"], files=[token(folder / "a")], file_mode=0o640, group=os.getgid(), token_file=folder / "t"
    )
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2750
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o640
    assert (folder / "a").stat().st_gid == os.getgid()


async def test_a_place_on_disk_or_one_that_others_may_write_to_is_refused_before_a_step_is_opened(
    fake: FakeBroker, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    refused = await start(scopes=["orders-read"], files=[token(tmp_path / "open" / "a")], wait=False)
    assert await refused.task == 64
    if not str(tmp_path).startswith("/dev/shm"):
        on_disk = await start(
            scopes=["orders-read"], files=[token(tmp_path / "step" / "a")], allow_disk=False, wait=False
        )
        assert await on_disk.task == 64
        assert "in memory" in on_disk.events("failed")[0]
    assert fake.requests("BeginStep") == []


async def test_a_part_that_the_credential_has_not_ends_it_with_the_step(
    fake: FakeBroker, start: Start, tmp_path: Path
) -> None:
    wrong = FileOf(path=tmp_path / "step" / "a", scope="orders-read", what="password")
    sidecar = await start(scopes=["orders-read"], files=[wrong], wait=False)
    assert await sidecar.task == 64
    assert "there is" in sidecar.events("failed")[0]
    assert fake.only_step().ended


async def test_the_environment_file_leads_a_shell_to_the_endpoint(
    fake: FakeBroker, start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "private" / "env"
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], env_file=file)
    shown = await _sourced(sidecar, file)
    assert f"AWS_CONTAINER_CREDENTIALS_FULL_URI={sidecar.life._uri}/v1/aws/lake-write" in shown
    assert f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE={sidecar.plan.token_file}" in shown
    assert "AWS_REGION=eu-west-1" in shown
    assert not any(line.startswith(("AWS_ACCESS_KEY_ID=", "AWS_PROFILE=")) for line in shown)
    await sidecar.end()
    assert not file.exists()


async def _sourced(sidecar: Sidecar, file: Path) -> list[str]:
    shell = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f". {file}; env",
        stdout=asyncio.subprocess.PIPE,
        env={"AWS_ACCESS_KEY_ID": "x", "AWS_PROFILE": "y", "PATH": os.environ["PATH"]},
    )
    out, _ = await shell.communicate()
    return out.decode().splitlines()
